"""Decode the frames on display at the sampled times, resized to the model's size.

Every wanted frame is reached from a keyframe at or before it. From one wanted frame to the next
the decoder either goes on or seeks, whichever decodes fewer frames:

    cost(go on) = frames from here to the wanted one
    cost(seek)  = frames from the keyframe before it + SEEK_COST_FRAMES

so few samples of a long video are seeks, many are one full pass, and a clip with both is both. The
frames are the same either way: what is chosen is the last frame with pts <= wanted time.

Damage is an error, never a repeated frame: the decoder is told not to conceal it, the frame that
the container shows at that time has to come out, and the last one has to reach the wanted time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from pipeline.config import VideoConfig
from pipeline.records import Stage, VideoInfo
from pipeline.video.container import Source, open_video_stream
from pipeline.video.errors import VideoError, VideoErrorCode
from pipeline.video.frame_size import frame_size
from pipeline.video.probe import has_presentation_times
from pipeline.video.sampling import sample_times

SEEK_COST_FRAMES = 8.0
"""What a seek costs in decoded frames: flushing, refilling the reorder buffer, a range read."""

_UNINDEXED_GOP_S = 5.0
"""Assumed distance of keyframes where the container has no index (MPEG-TS, Ogg)."""

# swscale's bicubic is antialiased when it shrinks (the filter widens with the scale), as the
# models' own resize is. The flags make it bit-exact over CPU types and unroll chroma fully.
_RESIZE = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
)


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrames:
    """frames [F, H, W, 3] uint8 RGB; timestamps_s [F] float64, strictly increasing.

    Times count from the video's first frame and are the frames' own: the first may be a little
    before the clip's start, when that picture was still on display.
    """

    frames: npt.NDArray[np.uint8]
    timestamps_s: npt.NDArray[np.float64]


def decode_frames(
    source: Source, info: VideoInfo, start_s: float, end_s: float, config: VideoConfig
) -> DecodedFrames:
    """The sampled frames of [start_s, end_s) of the video that ``info`` was probed from.

    F is at most the sampling policy's count; fewer where a picture stays on display over several
    sampled times (variable frame rate). Raises VideoError (truncated, corrupt, ...).
    """
    times_s = sample_times(start_s, end_s, info.fps, config.sampling)
    height, width = frame_size(info.height_px, info.width_px, len(times_s), config.frame_size)
    frames = np.empty((len(times_s), height, width, 3), np.uint8)
    timestamps_s: list[float] = []
    with open_video_stream(source, Stage.DECODE) as (container, stream):
        for seconds, frame in frames_on_display(container, stream, info, times_s):
            frames[len(timestamps_s)] = _to_rgb(frame, height, width, info.rotation_deg)
            timestamps_s.append(seconds)
    return DecodedFrames(frames[: len(timestamps_s)], np.asarray(timestamps_s, np.float64))


def frames_on_display(
    container: InputContainer,
    stream: VideoStream,
    info: VideoInfo,
    times_s: npt.NDArray[np.float64],
    seek_cost_frames: float = SEEK_COST_FRAMES,
) -> Iterator[tuple[float, VideoFrame]]:
    """(its own time in s, frame) for each distinct frame on display at the increasing times."""
    stream.codec_context.options = {"err_detect": "explode"}
    tick_s = float(stream.time_base or 0)
    origin = stream.start_time or 0
    seek_cost = seek_cost_frames / info.fps / tick_s
    run: _Run | None = None
    shown: int | None = None
    for time_s in times_s:
        wanted = origin + math.floor(time_s / tick_s + 1e-6)
        if run is None or _keyframe_before(stream, wanted) - run.position > seek_cost:
            run = _run_to(container, stream, info, wanted)
        ticks, frame = run.frame_at(wanted)
        if ticks != shown:
            shown = ticks
            yield (ticks - origin) * tick_s, frame


def _keyframe_before(stream: VideoStream, ticks: int) -> float:
    """Time of the last keyframe at or before ``ticks``, from the index or a guess."""
    index = stream.index_entries.search_timestamp(ticks, backward=True)
    if index < 0:
        return ticks - _UNINDEXED_GOP_S / float(stream.time_base or 1)
    return stream.index_entries[index].timestamp


def _run_to(container: InputContainer, stream: VideoStream, info: VideoInfo, wanted: int) -> _Run:
    """Seek so that decoding begins at a keyframe at or before ``wanted``.

    Indexes hold decoding times, and some containers have none: if the first frame comes too late,
    seek further back, at last to before the beginning.
    """
    second = round(1 / float(stream.time_base or 1))
    beginning = (stream.start_time or 0) - second
    back = 0
    while True:
        target = max(wanted - back, beginning)
        container.seek(target, stream=stream)
        run = _Run(container, stream, info)
        if run.position <= wanted or target == beginning:
            return run
        back = max(second, 2 * back)


class _Run:
    """Frames in display order from the first keyframe after a seek, one looked ahead.

    ``position`` is the time of the frame looked ahead to, in ticks; infinite at the end.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, info: VideoInfo) -> None:
        self._info = info
        self._tick_s = float(stream.time_base or 1)
        self._has_pts = has_presentation_times(container)
        self._pending: list[int] = []
        self._keyframe: int | None = None
        self._frames = self._decode(container, stream)
        self._current: tuple[int, VideoFrame] | None = None
        self._next = next(self._frames, None)

    @property
    def position(self) -> float:
        return self._next[0] if self._next is not None else math.inf

    def frame_at(self, wanted: int) -> tuple[int, VideoFrame]:
        """(its time in ticks, the frame on display at ``wanted``), or the first one if later."""
        while self._next is not None and (self._current is None or self._next[0] <= wanted):
            self._current, self._next = self._next, next(self._frames, None)
        if self._current is None:
            raise VideoError(
                VideoErrorCode.NO_FRAMES, Stage.DECODE, f"no frame at {wanted * self._tick_s:.3f} s"
            )
        ticks, frame = self._current
        self._check_delivered(ticks, wanted)
        if self._next is None:
            self._check_lasts(ticks, frame, wanted)
        return ticks, frame

    def _decode(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[tuple[int, VideoFrame]]:
        for packet in container.demux(stream):
            if self._keyframe is None:
                if not packet.is_keyframe or _packet_ticks(packet, self._has_pts) is None:
                    continue
                self._keyframe = _packet_ticks(packet, self._has_pts)
            ticks = _packet_ticks(packet, self._has_pts)
            if ticks is not None and packet.size and not packet.is_discard:
                heapq.heappush(self._pending, ticks)
            for frame in self._decode_packet(packet, ticks):
                shown = frame.pts if self._has_pts else heapq.heappop(self._pending)
                # Frames shown before the keyframe but stored after it (open GOP) lack their
                # references after a seek. No wanted time is theirs: they are dropped.
                if shown is not None and self._keyframe is not None and shown >= self._keyframe:
                    yield shown, frame

    def _decode_packet(self, packet: Packet, ticks: int | None) -> list[VideoFrame]:
        try:
            return packet.decode()
        except av.error.InvalidDataError as error:
            if ticks is not None and self._keyframe is not None and ticks < self._keyframe:
                return []  # one of those, see above
            at_s = (ticks or 0) * self._tick_s
            message = f"the frame at {at_s:.3f} s of the stream can't be decoded: {error}"
            raise VideoError(VideoErrorCode.CORRUPT, Stage.DECODE, message) from error

    def _check_delivered(self, ticks: int, wanted: int) -> None:
        """More than one packet (one may be an invisible reference) with no frame is damage."""
        if not self._has_pts:
            return
        while self._pending and self._pending[0] <= ticks:
            heapq.heappop(self._pending)
        lost = sum(pending <= wanted for pending in self._pending)
        if lost > 1:
            message = f"{lost} frames before {wanted * self._tick_s:.3f} s were not decoded"
            raise VideoError(VideoErrorCode.CORRUPT, Stage.DECODE, message)

    def _check_lasts(self, ticks: int, frame: VideoFrame, wanted: int) -> None:
        """The last frame of the file has to be on display at the wanted time."""
        behind_s = (wanted - ticks) * self._tick_s
        if behind_s > max((frame.duration or 0) * self._tick_s, 2 / self._info.fps):
            message = (
                f"the last frame is {behind_s:.3f} s before a wanted one; the container says "
                f"{self._info.num_frames} frames in {self._info.duration_s:.3f} s"
            )
            raise VideoError(VideoErrorCode.TRUNCATED, Stage.DECODE, message)


def _packet_ticks(packet: Packet, has_pts: bool) -> int | None:
    return packet.pts if has_pts else packet.dts


def _to_rgb(
    frame: VideoFrame, height_px: int, width_px: int, rotation_deg: int
) -> npt.NDArray[np.uint8]:
    """[height_px, width_px, 3] after rotating ``rotation_deg`` clockwise."""
    if rotation_deg in (90, 270):
        height_px, width_px = width_px, height_px
    small = frame.reformat(
        width=width_px, height=height_px, format="rgb24", interpolation=_RESIZE, threads=1
    )
    return np.rot90(small.to_ndarray(), k=-(rotation_deg // 90))
