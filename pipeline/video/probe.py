"""What is in a file, from its container: one frame is decoded, and no more.

PyAV tells the rotation with a frame only, and a decoder that fails should fail here. Frames and
duration come from the index where the container has a full one (MP4, AVI); otherwise (Matroska,
WebM, Ogg, MPEG-TS, FLV, fragmented MP4) every packet is demuxed and counted, nothing decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config import DecodeLimits
from pipeline.records import Stage, VideoInfo
from pipeline.video.container import Source, open_video_stream, source_size_bytes
from pipeline.video.errors import VideoError, VideoErrorCode

# Formats whose header states a duration, so that a lost end shows. A cut-off MPEG-TS or Ogg file
# is simply a shorter one.
_STATES_DURATION = frozenset({"matroska,webm", "avi", "flv", "asf"})
_DURATION_SLACK_S = 0.5


@dataclass(frozen=True, slots=True)
class _Extent:
    num_frames: int
    duration_s: float


def probe(source: Source, limits: DecodeLimits) -> VideoInfo:
    """What the container says, checked against the limits.

    Raises VideoError: nothing of the file is usable, or more than the limits allow.
    """
    size_bytes = source_size_bytes(source, Stage.PROBE)
    with open_video_stream(source, Stage.PROBE) as (container, stream):
        context = stream.codec_context
        _check_pixels(context.width, context.height, limits)
        extent = _stated_extent(stream, size_bytes)
        if extent is not None:
            _check_duration(extent, limits)
        packets = _VideoPackets(stream)
        first: VideoFrame | None = None
        end_s = 0.0
        for packet in container.demux():
            if packet.pts is not None or packet.dts is not None:
                end_s = max(end_s, _packet_end_s(packet))
            if packet.stream_index != stream.index:
                continue
            packets.add(packet)
            if first is None:
                first = _decode_first(packet)
            if first is not None and extent is not None:
                break
        if first is None:
            raise VideoError(VideoErrorCode.NO_FRAMES, Stage.PROBE, "no packet gives a frame")
        if extent is None:
            extent = packets.extent()
            _check_end(container, end_s, packets.longest_gap_s())
            _check_duration(extent, limits)
        _check_pixels(first.width, first.height, limits)
        rotation_deg = -first.rotation % 360  # FFmpeg counts counterclockwise
        height, width = first.height, first.width
        if rotation_deg in (90, 270):
            height, width = width, height
        return VideoInfo(
            container=container.format.name,
            codec=context.codec.canonical_name,
            width_px=width,
            height_px=height,
            rotation_deg=rotation_deg,
            duration_s=extent.duration_s,
            fps=extent.num_frames / extent.duration_s,
            num_frames=extent.num_frames,
        )


def has_presentation_times(container: InputContainer) -> bool:
    """AVI stores decoding order only; what FFmpeg gives as pts there is a guess."""
    return container.format.name != "avi"


class _VideoPackets:
    """Times of the demuxed packets of the stream that show a frame."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._times: list[int] = []
        self._last_duration = 0

    def add(self, packet: Packet) -> None:
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.size == 0 or packet.is_discard:
            return
        if not self._times or time >= max(self._times[-1], self._times[0]):
            self._last_duration = packet.duration or 0
        self._times.append(time)

    def extent(self) -> _Extent:
        if not self._times:
            raise VideoError(VideoErrorCode.NO_FRAMES, Stage.PROBE, "no packet has a time")
        first, last = min(self._times), max(self._times)
        tick_s = float(self._stream.time_base or 0)
        last_s = self._last_duration * tick_s
        if not last_s and len(self._times) > 1:
            last_s = (last - first) * tick_s / (len(self._times) - 1)
        elif not last_s and self._stream.guessed_rate:
            last_s = float(1 / self._stream.guessed_rate)
        return _Extent(len(self._times), (last - first) * tick_s + last_s)

    def longest_gap_s(self) -> float:
        gaps = np.diff(np.sort(np.asarray(self._times)))
        return float(gaps.max(initial=0)) * float(self._stream.time_base or 0)


def _stated_extent(stream: VideoStream, size_bytes: int) -> _Extent | None:
    """From a full index of frames and where their bytes are; None where there is none."""
    if not stream.frames or not stream.duration or len(stream.index_entries) != stream.frames:
        return None
    num_frames, end_bytes = 0, 0
    for entry in stream.index_entries:
        num_frames += not entry.is_discard
        end_bytes = max(end_bytes, entry.pos + entry.size)
    if end_bytes > size_bytes:
        message = f"the index points to byte {end_bytes}, the file ends at byte {size_bytes}"
        raise VideoError(VideoErrorCode.TRUNCATED, Stage.PROBE, message)
    return _Extent(num_frames, float(stream.duration * (stream.time_base or 0)))


def _decode_first(packet: Packet) -> VideoFrame | None:
    try:
        frames = packet.decode()
    except (ValueError, EOFError):  # FFmpeg's invalid data: whether it matters, decode decides
        return None
    return frames[0] if frames else None


def _packet_end_s(packet: Packet) -> float:
    time = packet.pts if packet.pts is not None else packet.dts
    return float((time + (packet.duration or 0)) * packet.time_base) if time is not None else 0.0


def _check_end(container: InputContainer, end_s: float, longest_gap_s: float) -> None:
    if container.format.name not in _STATES_DURATION or container.duration is None:
        return
    start_s = (container.start_time or 0) / 1e6
    stated_s = container.duration / 1e6
    # The last picture may stay as long as any other did, and headers are rounded.
    if end_s - start_s + max(_DURATION_SLACK_S, longest_gap_s) < stated_s:
        message = f"the header says {stated_s:.2f} s, the data ends after {end_s - start_s:.2f} s"
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
