"""Every kind of bad file is a VideoError with a stable code, and never a silently wrong clip."""

import io
import pickle
import struct

import pytest

from pipeline.config import DecodeLimits, FrameSamplingConfig, FrameSizeConfig, VideoConfig
from pipeline.records import Stage
from pipeline.video.decode import decode_frames
from pipeline.video.errors import VideoError, VideoErrorCode
from pipeline.video.probe import probe
from tests.video_files import cut, damage, indices_of, write_audio, write_video

LIMITS = DecodeLimits()
EVERY_FRAME = VideoConfig(
    sampling=FrameSamplingConfig(num_frames=100), frame_size=FrameSizeConfig(fixed_px=(48, 64))
)


def decode_all(path, config=EVERY_FRAME):
    info = probe(str(path), config.limits)
    return decode_frames(str(path), info, 0, info.duration_s, config)


def failure_of(path, config=EVERY_FRAME):
    with pytest.raises(VideoError) as caught:
        decode_all(path, config)
    return caught.value


def written(path, data):
    path.write_bytes(data)
    return path


def test_an_empty_file(tmp_path):
    error = failure_of(written(tmp_path / "a.mp4", b""))
    assert (error.code, error.stage) == (VideoErrorCode.EMPTY, Stage.PROBE)


def test_text(tmp_path):
    error = failure_of(written(tmp_path / "a.mp4", b"not a video\n" * 100))
    assert (error.code, error.stage) == (VideoErrorCode.NOT_A_VIDEO, Stage.PROBE)


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '{other}'\n",
    ],
)
def test_a_playlist_opens_nothing_else(tmp_path, playlist):
    other = write_video(tmp_path / "secret.ts", codec="mpeg2video", num_frames=5)
    disguised = playlist.replace(b"{other}", other.name.encode())
    error = failure_of(written(tmp_path / "a.mp4", disguised))
    assert error.code is VideoErrorCode.NOT_A_VIDEO


def test_a_missing_file(tmp_path):
    error = failure_of(tmp_path / "gone.mp4")
    assert (error.code, error.stage) == (VideoErrorCode.NOT_FOUND, Stage.READ)


def test_a_folder(tmp_path):
    assert failure_of(tmp_path).code is VideoErrorCode.READ_FAILED


def test_sound_only(tmp_path):
    error = failure_of(write_audio(tmp_path / "sound.mp4"))
    assert error.code is VideoErrorCode.NO_VIDEO_STREAM


def test_mp4_cut_before_its_index(tmp_path):
    path = cut(write_video(tmp_path / "a.mp4", noise=12), 0.6)
    assert failure_of(path).code is VideoErrorCode.TRUNCATED


def test_mp4_cut_after_its_index(tmp_path):
    # FFmpeg decodes what is left of such a file and reports nothing
    path = write_video(tmp_path / "a.mp4", noise=12, options={"movflags": "faststart"})
    error = failure_of(cut(path, 0.6))
    assert (error.code, error.stage) == (VideoErrorCode.TRUNCATED, Stage.PROBE)
    assert "byte" in error.message


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "mpeg4"),
        ("a.flv", "flv1"),
        ("fragmented.mp4", "libx264"),
    ],
)
def test_other_containers_cut_in_the_middle(tmp_path, name, codec):
    options = {"movflags": "frag_keyframe+empty_moov"} if "fragmented" in name else {}
    path = write_video(tmp_path / name, codec=codec, num_frames=60, noise=12, options=options)
    assert failure_of(cut(path, 0.5)).code is VideoErrorCode.TRUNCATED


@pytest.mark.parametrize("name", ["a.ts", "a.ogg"])
def test_a_stream_format_cut_in_the_middle_is_a_shorter_video(tmp_path, name):
    # neither says how long it is: the frames that are left are right, and no more are claimed
    codec = "libvpx" if name == "a.ogg" else "mpeg2video"
    path = cut(write_video(tmp_path / name, codec=codec, noise=12), 0.5)
    info = probe(str(path), LIMITS)
    assert info.duration_s < 1.2
    decoded = decode_all(path)
    assert indices_of(decoded.frames)[:10] == list(range(10))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mp4", "mpeg4"),
        ("a.mp4", "libsvtav1"),
        ("a.mkv", "libx264"),
        ("a.mkv", "mpeg2video"),
        ("a.webm", "libvpx"),
        ("a.webm", "libvpx-vp9"),
        ("a.avi", "libx264"),
        ("a.ogg", "libvpx"),
        ("a.ts", "libx264"),
        ("a.flv", "flv1"),
    ],
)
def test_damage_in_the_middle(tmp_path, name, codec):
    noise = 60 if name == "a.ts" else 12  # frames of many TS packets, as real ones are
    path = write_video(tmp_path / name, codec=codec, num_frames=60, noise=noise)
    error = failure_of(damage(path, 0.45, 0.51))
    assert error.code is VideoErrorCode.CORRUPT


@pytest.mark.parametrize("num_samples", [5, 100])
def test_damage_costs_only_the_clip_it_is_in(tmp_path, num_samples):
    path = write_video(tmp_path / "a.mp4", codec="libx264", num_frames=100, noise=12)
    info = probe(str(damage(path, 0.5, 0.52)), LIMITS)
    sampling = FrameSamplingConfig(num_frames=num_samples)
    config = EVERY_FRAME.model_copy(update={"sampling": sampling})
    before = decode_frames(str(path), info, 0.0, 1.0, config)
    after = decode_frames(str(path), info, 3.0, 4.0, config)
    assert indices_of(before.frames)[-1] < 25
    assert indices_of(after.frames)[0] >= 75
    with pytest.raises(VideoError) as caught:
        decode_frames(str(path), info, 1.0, 3.0, EVERY_FRAME)
    assert caught.value.code is VideoErrorCode.CORRUPT


def test_a_stream_with_no_sound_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", codec="libx264", noise=12)
    assert failure_of(damage(path, 0.01, 0.9)).code is VideoErrorCode.CORRUPT


def test_a_container_with_no_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    error = failure_of(written(path, data[: data.index(b"moof") - 4]))
    assert (error.code, error.stage) == (VideoErrorCode.NO_FRAMES, Stage.PROBE)


def with_numbers(data, numbers):
    """The MP4 with 32-bit numbers replaced: {box: (offset behind the box's name, value)}."""
    patched = bytearray(data)
    for box, (offset, value) in numbers.items():
        start = data.index(box) + len(box) + offset
        patched[start : start + 4] = struct.pack(">I", value)
    return bytes(patched.replace(b"edts", b"free"))


def test_frames_that_take_no_time(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    no_time = {b"mvhd": (16, 0), b"tkhd": (20, 0), b"mdhd": (16, 0), b"stts": (12, 0)}
    error = failure_of(written(path, with_numbers(path.read_bytes(), no_time)))
    assert error.code is VideoErrorCode.ZERO_DURATION


def test_a_header_that_claims_years(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=2)
    years = {b"mdhd": (16, 0x7FFFFFFF), b"stts": (12, 0x3FFFFFFF)}
    error = failure_of(written(path, with_numbers(path.read_bytes(), years)))
    assert error.code is VideoErrorCode.TOO_LONG
    assert "max_duration_s" in error.message


def test_a_header_that_claims_a_huge_picture(tmp_path):
    path = write_video(tmp_path / "a.mkv", codec="mpeg2video", num_frames=2)
    sequence = b"\x00\x00\x01\xb3"  # then 12 bits of width and 12 of height
    data = path.read_bytes().replace(sequence + b"\x04\x00\x30", sequence + b"\xff\xff\xff")
    limits = DecodeLimits(max_source_pixels=4096 * 4000)
    with pytest.raises(VideoError) as caught:
        probe(io.BytesIO(data), limits)
    error = caught.value
    assert (error.code, error.stage) == (VideoErrorCode.TOO_LARGE_PX, Stage.PROBE)
    assert "4095 x 4095" in error.message
    assert "max_source_pixels" in error.message


def test_more_pixels_than_the_limit(tmp_path):
    path = write_video(tmp_path / "a.webm", codec="libvpx")
    limits = DecodeLimits(max_source_pixels=64 * 48 - 1)
    with pytest.raises(VideoError, match="64 x 48 is 3072 pixels"):
        probe(str(path), limits)


def test_longer_than_the_limit_in_a_container_without_an_index(tmp_path):
    path = write_video(tmp_path / "a.ts", codec="mpeg2video")
    with pytest.raises(VideoError) as caught:
        probe(str(path), DecodeLimits(max_duration_s=1.0))
    assert caught.value.code is VideoErrorCode.TOO_LONG


class BrokenLine(io.BytesIO):
    """A source whose reads fail after a while, like a lost connection."""

    def __init__(self, data, error):
        super().__init__(data)
        self.error = error

    def read(self, size=-1):
        if self.tell() > 1000:
            raise self.error
        return super().read(min(size, 512) if size >= 0 else 512)


def test_reads_that_fail_are_the_reading_stage(tmp_path):
    data = write_video(tmp_path / "a.mkv", noise=12).read_bytes()
    with pytest.raises(VideoError) as caught:
        probe(BrokenLine(data, ConnectionResetError("line dropped")), LIMITS)
    assert (caught.value.code, caught.value.stage) == (VideoErrorCode.READ_FAILED, Stage.READ)


def test_what_a_source_raises_otherwise_comes_through(tmp_path):
    # a storage library's own exceptions mean something to the caller
    data = write_video(tmp_path / "a.mkv", noise=12).read_bytes()
    with pytest.raises(LookupError, match="another version"):
        probe(BrokenLine(data, LookupError("another version")), LIMITS)


def test_errors_travel_between_processes():
    error = VideoError(VideoErrorCode.TOO_LONG, Stage.PROBE, "9 s")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.stage, copy.message) == (error.code, error.stage, error.message)
    assert str(copy) == "too_long: 9 s"
