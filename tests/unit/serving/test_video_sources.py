"""Real videos through every source, and what a source refuses or does not have."""

import pytest
from s3_server import Answer as S3Answer
from video_files import indices_of

from pipeline.records import ClipSpec
from pipeline.serving.video_errors import VideoRefusedError
from pipeline.serving_config import VideoAccessConfig
from pipeline.storage import StorageError, storage_for
from pipeline.video.errors import VideoError, VideoErrorCode
from tests.media_server import HOST, Answer, media_authority, media_server
from tests.video_loading import (
    LOOPBACK,
    data_url,
    error_of,
    file_url,
    folder,
    load,
    load_file,
    local,
)

__all__ = ["folder", "load_file", "media_authority", "media_server"]


def test_the_same_video_from_every_source_is_the_same_content(folder, media_server):
    """Its frames, and its etag, wherever it comes from; only the name is that of the source."""
    path = folder / "a.mp4"
    media_server.answers["/v.mp4?signature=1"] = Answer.video(path.read_bytes())
    access = local(
        folder,
        allowed_domains=media_server.entries(HOST),
        allow_http=True,
        allowed_private_addresses=LOOPBACK,
    )
    urls = {
        media_server.https("/v.mp4?signature=1"): media_server.https("/v.mp4"),
        media_server.http("/v.mp4?signature=1"): media_server.http("/v.mp4"),
        data_url(path): "data:video/mp4",
        file_url(path): f"file://{path}",
    }
    clips = {url: load(url, access) for url in urls}
    assert len({clip.frames_digest for clip in clips.values()}) == 1
    assert len({clip.spec.video.etag for clip in clips.values()}) == 1
    for url, clip in clips.items():
        assert indices_of(clip.frames) == [5, 15, 25, 35]
        assert (clip.spec.start_s, clip.spec.end_s) == (0.0, 1.6)
        assert (clip.info.num_frames, clip.info.codec) == (40, "h264")
        assert clip.spec.video.uri == urls[url]
        assert clip.spec.video.size_bytes == path.stat().st_size


def test_a_clip_of_s3_is_that_of_the_nightly_job(folder, s3_bucket):
    """Same etag and span, so the same clip_id as in the data set."""
    access = VideoAccessConfig(allowed_s3_prefixes=(f"s3://{s3_bucket.name}/videos/",))
    storage = storage_for(s3_bucket.uri(""), s3_bucket.config)
    for key in ("videos/a.mp4", "videos/b c%20ü%2F#?.mp4", "videos/%2e.mp4"):
        uri = s3_bucket.uri(key)
        storage.put(uri, (folder / "a.mp4").read_bytes())
        clip = load(uri, access, storage=s3_bucket.config)
        assert indices_of(clip.frames) == [5, 15, 25, 35]
        assert clip.clip_id == ClipSpec(storage.stat(uri), 0, 1, 0.0, 1.6).clip_id


def test_objects_outside_of_the_prefixes_are_refused_unasked(folder, s3_bucket):
    prefixes = (f"s3://{s3_bucket.name}/videos",)
    access = VideoAccessConfig(allowed_s3_prefixes=prefixes)
    s3_bucket.server.requests.clear()
    for uri in (
        *(s3_bucket.uri(key) for key in ("secret.mp4", "videos-other/a.mp4", "videos", "Videos/a")),
        *(s3_bucket.uri(key) for key in ("videos/../secret.mp4", "videos/%2e%2e/secret.mp4")),
        *(s3_bucket.uri(key) for key in ("videos%2Fa.mp4", "/videos/a.mp4", "vide\u043es/a.mp4")),
        *("s3://other/videos/a.mp4", f"s3://{s3_bucket.name}.evil/videos/a.mp4"),
    ):
        assert isinstance(error_of(uri, access, storage=s3_bucket.config), VideoRefusedError)
    assert s3_bucket.server.requests == []


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (S3Answer.DENIED, 403, "video_url_not_allowed"),
        (S3Answer.EXPIRED, 502, "video_fetch_failed"),
    ],
)
def test_a_store_that_refuses(s3_bucket, answer, status, code):
    access = VideoAccessConfig(allowed_s3_prefixes=(f"s3://{s3_bucket.name}",))
    uri = s3_bucket.uri("a.mp4")
    s3_bucket.server.fail_next("HEAD", answer, answer)
    s3_bucket.server.fail_next("GET", answer, answer)
    error = error_of(uri, access, storage=s3_bucket.config)
    assert (error.status, error.code) == (status, code)
    assert isinstance(error.__cause__, StorageError)
    assert s3_bucket.name not in error.message


def test_a_missing_and_a_large_object(folder, s3_bucket):
    access = VideoAccessConfig(allowed_s3_prefixes=(f"s3://{s3_bucket.name}",), max_bytes=1000)
    error = error_of(s3_bucket.uri("a.mp4"), access, storage=s3_bucket.config)
    assert (error.status, error.code) == (400, "video_not_found")
    data = (folder / "a.mp4").read_bytes()
    storage_for(s3_bucket.uri(""), s3_bucket.config).put(s3_bucket.uri("a.mp4"), data)
    error = error_of(s3_bucket.uri("a.mp4"), access, storage=s3_bucket.config)
    assert (error.status, error.code) == (413, "video_too_large")


def test_names_of_files_are_percent_decoded(folder, load_file):
    assert indices_of(load_file(file_url(folder / "b ü%.webm")).frames) == [5, 15, 25, 35]


def test_a_link_inside_of_the_folder_is_followed(folder, load_file):
    (folder / "inside.mp4").symlink_to(folder / "a.mp4")
    assert load_file(file_url(folder / "inside.mp4")).info.num_frames == 40


@pytest.mark.parametrize("name", ["nothing.mp4", "nothing/at/all.mp4", "a.mp4/x", "x" * 300])
def test_missing_files(folder, name):
    error = error_of(file_url(folder / name), local(folder))
    assert (error.status, error.code) == (400, "video_not_found")
    assert str(folder) not in error.message


def test_large_files_and_data(folder):
    num_bytes = (folder / "a.mp4").stat().st_size
    for url in (file_url(folder / "a.mp4"), data_url(folder / "a.mp4")):
        assert load(url, local(folder, max_bytes=num_bytes)).info.num_frames == 40
        error = error_of(url, local(folder, max_bytes=num_bytes - 1))
        assert (error.status, error.code) == (413, "video_too_large")


@pytest.mark.parametrize(
    "payload", ["AA", "AAA", "A===", "AA==AAAA", "AA\nAA", "A-_A", "%2BAA", "AAAA ", "ÄÄÄÄ", "="]
)
def test_data_that_is_not_base64(payload):
    error = error_of(f"data:video/mp4;base64,{payload}", VideoAccessConfig())
    assert (error.status, error.code) == (400, "invalid_video_url")


def test_long_data_is_decoded_in_pieces(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.serving.held_video._DATA_CHUNK_CHARS", 64)
    assert load(data_url(folder / "a.mp4"), VideoAccessConfig()).info.num_frames == 40
    padded_in_the_middle = f"data:video/mp4;base64,{'A' * 62}=={'A' * 64}"
    assert error_of(padded_in_the_middle, VideoAccessConfig()).code == "invalid_video_url"


@pytest.mark.parametrize(
    ("name", "code"),
    [("text.mp4", VideoErrorCode.NOT_A_VIDEO), ("sound.mp4", VideoErrorCode.NO_VIDEO_STREAM)],
)
def test_what_is_wrong_with_the_video_itself(folder, load_file, name, code):
    for url in (file_url(folder / name), data_url(folder / name)):
        with pytest.raises(VideoError) as caught:
            load_file(url)
        assert caught.value.code is code


def test_an_empty_video(load_file):
    with pytest.raises(VideoError) as caught:
        load_file("data:video/mp4;base64,")
    assert caught.value.code is VideoErrorCode.EMPTY
