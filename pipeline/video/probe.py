"""What is in a file, from its container: one frame is decoded, and no more.

PyAV tells the rotation with a frame only, and a decoder that fails should fail here. Frames and
duration come from the index where the container has a full one (MP4, AVI); otherwise (Matroska,
WebM, Ogg, MPEG-TS, FLV, fragmented MP4) every packet is demuxed and counted, nothing decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import av.error
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config import DecodeLimits
from pipeline.records import Stage, VideoInfo
from pipeline.video.container import OpenVideo, Source, open_video, source_size_bytes
from pipeline.video.errors import VideoError, VideoErrorCode

# Formats whose header states a duration, so that a lost end shows. A cut-off MPEG-TS or Ogg file
# is simply a shorter one.
_STATES_DURATION = frozenset({"matroska,webm", "avi", "flv"})
_DURATION_SLACK_S = 0.5


@dataclass(frozen=True, slots=True)
class _Extent:
    num_frames: int
    duration_s: float


def probe(source: Source, limits: DecodeLimits) -> VideoInfo:
    """What the container says, checked against the limits.

    Raises VideoError: nothing of the file is usable, or it is more than the limits allow.
    """
    size_bytes = source_size_bytes(source)
    with open_video(source, Stage.PROBE) as video:
        context = video.stream.codec_context
        _check_pixels(context.width, context.height, limits)
        extent = _stated_extent(video.stream)
        if extent is not None:
            _check_bytes(video.stream, size_bytes)
            _check_duration(extent, limits)
            first = _first_frame(video)
        else:
            first, extent = _count_packets(video)
            _check_bytes(video.stream, size_bytes)
            _check_duration(extent, limits)
        _check_pixels(first.width, first.height, limits)
        rotation_deg = -first.rotation % 360  # FFmpeg counts counterclockwise
        height, width = first.height, first.width
        if rotation_deg in (90, 270):
            height, width = width, height
        return VideoInfo(
            container=video.container.format.name,
            codec=context.codec.canonical_name,
            width_px=width,
            height_px=height,
            rotation_deg=rotation_deg,
            duration_s=extent.duration_s,
            fps=extent.num_frames / extent.duration_s,
            num_frames=extent.num_frames,
        )


def _first_frame(video: OpenVideo) -> VideoFrame:
    decoder = _FirstFrame()
    for packet in video.packets():
        decoder.add(packet)
        if decoder.frame is not None:
            break
    return decoder.require()


def _count_packets(video: OpenVideo) -> tuple[VideoFrame, _Extent]:
    """Demux to the end, all streams: the header's duration is that of the longest."""
    packets, decoder = _VideoPackets(video), _FirstFrame()
    end_s = 0.0
    for packet in video.container.demux():
        end_s = max(end_s, _packet_end_s(packet))
        if packet.stream_index == video.stream.index:
            packets.add(packet)
            decoder.add(packet)
    first = decoder.require()
    _check_end(video, end_s, packets.longest_gap_s())
    return first, packets.extent()


class _FirstFrame:
    """The first frame that can be decoded; packets after it are ignored."""

    def __init__(self) -> None:
        self.frame: VideoFrame | None = None
        self._error: av.error.InvalidDataError | None = None

    def add(self, packet: Packet) -> None:
        if self.frame is not None:
            return
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:  # whether it matters, the clips will show
            self._error = error
        else:
            self.frame = frames[0] if frames else None

    def require(self) -> VideoFrame:
        if self.frame is not None:
            return self.frame
        if self._error is not None:
            message = f"no frame can be decoded: {self._error.strerror}"
            raise VideoError(VideoErrorCode.CORRUPT, Stage.PROBE, message) from self._error
        raise VideoError(VideoErrorCode.NO_FRAMES, Stage.PROBE, "the video stream is empty")


class _VideoPackets:
    """Times of the demuxed packets that show a frame."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._ticks: list[int] = []
        self._latest, self._latest_duration = 0, 0

    def add(self, packet: Packet) -> None:
        ticks = _ticks(packet)
        if ticks is None or packet.size == 0 or packet.is_discard:
            return
        if not self._ticks or ticks >= self._latest:
            self._latest, self._latest_duration = ticks, packet.duration or 0
        self._ticks.append(ticks)

    def extent(self) -> _Extent:
        if not self._ticks:
            raise VideoError(VideoErrorCode.NO_FRAMES, Stage.PROBE, "no packet has a time")
        span_s = (self._latest - min(self._ticks)) * self._video.tick_s
        last_s = self._latest_duration * self._video.tick_s
        rate = self._video.stream.guessed_rate
        if not last_s and len(self._ticks) > 1:
            last_s = span_s / (len(self._ticks) - 1)
        elif not last_s and rate:
            last_s = float(1 / rate)
        return _Extent(len(self._ticks), span_s + last_s)

    def longest_gap_s(self) -> float:
        gaps = np.diff(np.sort(np.asarray(self._ticks)))
        return float(gaps.max(initial=0)) * self._video.tick_s


def _stated_extent(stream: VideoStream) -> _Extent | None:
    """From a full index of frames; None where there is none."""
    if not stream.frames or not stream.duration or len(stream.index_entries) != stream.frames:
        return None
    num_frames = sum(not entry.is_discard for entry in stream.index_entries)
    return _Extent(num_frames, float(stream.duration * (stream.time_base or 0)))


def _ticks(packet: Packet) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _packet_end_s(packet: Packet) -> float:
    ticks = _ticks(packet)
    return float((ticks + (packet.duration or 0)) * packet.time_base) if ticks is not None else 0.0


def _check_bytes(stream: VideoStream, size_bytes: int) -> None:
    """An index (also that of the fragments seen so far) must not point behind the end."""
    end_bytes = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end_bytes > size_bytes:
        message = f"the index points to byte {end_bytes}, the file ends at byte {size_bytes}"
        raise VideoError(VideoErrorCode.TRUNCATED, Stage.PROBE, message)


def _check_end(video: OpenVideo, end_s: float, longest_gap_s: float) -> None:
    container = video.container
    if container.format.name not in _STATES_DURATION or container.duration is None:
        return
    stated_s = container.duration / 1e6
    # The last picture may stay as long as any other did, and headers are rounded.
    if end_s + max(_DURATION_SLACK_S, longest_gap_s) < stated_s:
        message = f"the header says {stated_s:.2f} s, the data ends at {end_s:.2f} s"
        if damage := video.take_damage():
            raise VideoError(VideoErrorCode.CORRUPT, Stage.PROBE, f"{message}; {damage}")
        raise VideoError(VideoErrorCode.TRUNCATED, Stage.PROBE, message)


def _check_duration(extent: _Extent, limits: DecodeLimits) -> None:
    if extent.num_frames == 0:
        raise VideoError(VideoErrorCode.NO_FRAMES, Stage.PROBE, "the index holds no frames")
    if extent.duration_s <= 0:
        message = f"{extent.num_frames} frames in {extent.duration_s} s"
        raise VideoError(VideoErrorCode.ZERO_DURATION, Stage.PROBE, message)
    if extent.duration_s > limits.max_duration_s:
        message = (
            f"{extent.duration_s:.0f} s long; video.limits.max_duration_s is "
            f"{limits.max_duration_s:.0f}: raise it or cut the file"
        )
        raise VideoError(VideoErrorCode.TOO_LONG, Stage.PROBE, message)


def _check_pixels(width: int, height: int, limits: DecodeLimits) -> None:
    if width * height > limits.max_source_pixels:
        message = (
            f"{width} x {height} is {width * height} pixels; video.limits.max_source_pixels is "
            f"{limits.max_source_pixels}: raise it, and max_memory_bytes with it"
        )
        raise VideoError(VideoErrorCode.TOO_LARGE_PX, Stage.PROBE, message)
