"""Read the frame on display at increasing times, by going on or by seeking.

Every wanted frame is reached from a keyframe at or before it. From one to the next, whichever
decodes fewer frames:

    cost(go on) = frames from here to the wanted one
    cost(seek)  = frames from the keyframe before it, plus SEEK_COST_FRAMES

so few samples of a long video are seeks, many are one full pass, and some of each is both. The
result is the same either way: the last frame with pts <= wanted time.

Damage is an error, never a repeated frame. Decoders are told not to conceal it; what is damaged
stays so until the next keyframe, and an error is raised only if a wanted frame lies before that: a
scratch between two samples costs nothing, whichever way they are reached.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import chain

import av.error
from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.records import Stage, VideoInfo
from pipeline.video.container import OpenVideo
from pipeline.video.errors import VideoError, VideoErrorCode

SEEK_COST_FRAMES = 10.0
"""What a seek costs in decoded frames (flush, fill the reorder buffer again): measured 6 to 14."""

_UNINDEXED_GOP_S = 5.0
"""Assumed distance of keyframes where the container has no index (MPEG-TS, Ogg)."""


class FrameReader:
    """The frame on display at each of a non-decreasing series of times (s from the first frame)."""

    def __init__(
        self, video: OpenVideo, info: VideoInfo, seek_cost_frames: float = SEEK_COST_FRAMES
    ) -> None:
        video.stream.codec_context.options = {"err_detect": "explode"}
        self._video = video
        self._info = info
        self._seek_cost_ticks = seek_cost_frames / info.fps / video.tick_s
        self._run: _Run | None = None

    def frame_at(self, time_s: float) -> tuple[float, VideoFrame]:
        """(its own time in s, the frame on display at ``time_s``). Raises VideoError."""
        video = self._video
        wanted = video.origin + math.floor(time_s / video.tick_s + 1e-6)
        if self._run is None:
            self._run = self._run_to(wanted)
        elif video.can_seek:
            skipped = _keyframe_before(video, wanted) - self._run.position
            if skipped > self._seek_cost_ticks:
                self._run = self._run_to(wanted)
        try:
            ticks, frame = self._run.frame_at(wanted)
        except VideoError as error:
            if error.code is not VideoErrorCode.CORRUPT or self._run.is_conclusive:
                raise
            # After a seek a sound frame can refer, in its bookkeeping only, to frames from before
            # the keyframe (open GOP), and a strict decoder calls that an error. It is damage if it
            # is still there when decoding begins one keyframe earlier.
            keyframe = self._run.keyframe
            self._run = self._run_to(keyframe - 1, trusted_from=keyframe)
            ticks, frame = self._run.frame_at(wanted)
        return (ticks - video.origin) * video.tick_s, frame

    def frames(self) -> Iterator[tuple[float, VideoFrame]]:
        """(time in s, frame) of every frame that can be decoded, from the beginning."""
        video = self._video
        self._run = self._run_to(_beginning(video))
        for ticks, frame in self._run.frames():
            yield (ticks - video.origin) * video.tick_s, frame

    def _run_to(self, wanted: int, trusted_from: int | None = None) -> _Run:
        """Begin decoding at a keyframe at or before ``wanted``.

        Indexes hold decoding times, and some containers have none: if the first keyframe comes too
        late, seek further back, at last to the beginning.
        """
        video = self._video
        second = round(1 / video.tick_s)
        beginning = _beginning(video)
        back = 0
        while True:
            target = max(wanted - back, beginning)
            if video.can_seek:
                video.seek(target)
            from_beginning = target == beginning or not video.can_seek
            packets = video.packets()
            first = _first_keyframe(packets, video)
            if first is not None and (_ticks(first, video) <= wanted or from_beginning):
                is_conclusive = from_beginning or trusted_from is not None
                return _Run(video, self._info, first, packets, trusted_from, is_conclusive)
            if from_beginning:
                message = "no keyframe to begin at"
                raise VideoError(VideoErrorCode.NO_FRAMES, Stage.DECODE, message)
            back = max(second, 2 * back)


class _Run:
    """Frames in display order from a keyframe (``first``), with one looked ahead.

    ``keyframe`` is where decoding began, in ticks. Frames and damage before ``trusted_from`` (the
    keyframe, if not given) don't count: no wanted time is there. ``is_conclusive``: what is damaged
    here is damaged, wherever decoding begins.
    """

    def __init__(
        self,
        video: OpenVideo,
        info: VideoInfo,
        first: Packet,
        packets: Iterator[Packet],
        trusted_from: int | None,
        is_conclusive: bool,
    ) -> None:
        self._video = video
        self._info = info
        self._packets = chain([first], packets)
        self.keyframe = _ticks(first, video)
        self.is_conclusive = is_conclusive
        self._trusted_from = trusted_from if trusted_from is not None else self.keyframe
        self._pending: list[int] = []
        self._damage: VideoError | None = None
        self._sound_from = math.inf
        self._frames = self.frames()
        self._current: tuple[int, VideoFrame] | None = None
        self._next: tuple[int, VideoFrame] | None = None
        self._is_primed = False

    @property
    def position(self) -> float:
        """Time in ticks of the next frame to come; infinite at the end."""
        if not self._is_primed:
            return self.keyframe
        return self._next[0] if self._next is not None else math.inf

    def frame_at(self, wanted: int) -> tuple[int, VideoFrame]:
        """(its time in ticks, the frame on display at ``wanted``), or the first if that is later.

        Raises VideoError: corrupt, truncated, no_frames.
        """
        if not self._is_primed:
            self._is_primed = True
            self._next = next(self._frames, None)
        while self._next is not None and (self._current is None or self._next[0] <= wanted):
            self._current, self._next = self._next, next(self._frames, None)
        if self._damage is not None:
            if wanted < self._sound_from:
                raise self._damage
            self._damage, self._sound_from = None, math.inf
        if self._current is None:
            raise self._error(VideoErrorCode.NO_FRAMES, f"no frame at {self._time(wanted)}")
        ticks, frame = self._current
        self._check_delivered(ticks, wanted)
        if self._next is None:
            self._check_lasts(ticks, frame, wanted)
        return ticks, frame

    def frames(self) -> Iterator[tuple[int, VideoFrame]]:
        """(time in ticks, frame) of all from here; damage is noted, and raised by frame_at only."""
        for packet in self._packets:
            for frame in self._decode_packet(packet):
                if self._video.has_pts:
                    ticks = frame.pts
                else:  # the k-th frame shown is the one with the k-th time
                    ticks = heapq.heappop(self._pending) if self._pending else None
                # Frames shown before the keyframe but stored after it (open GOP) lack their
                # references after a seek. No wanted time is theirs: they are dropped.
                if ticks is not None and ticks >= self._trusted_from:
                    yield ticks, frame

    def _decode_packet(self, packet: Packet) -> list[VideoFrame]:
        ticks = _ticks(packet, self._video) if _has_ticks(packet, self._video) else None
        if container_damage := self._video.take_damage():
            self._add_damage(container_damage)
        if ticks is not None and packet.size and not packet.is_discard:
            heapq.heappush(self._pending, ticks)
            # Where packets are only counted, a lost one shifts the times of all that follow.
            if packet.is_keyframe and self._damage is not None and self._video.stamps_packets:
                self._sound_from = min(self._sound_from, ticks)
        try:
            return packet.decode()
        except av.error.InvalidDataError as error:
            if ticks is None or ticks >= self._trusted_from:
                at = "at the end" if ticks is None else f"at {self._time(ticks)}"
                self._add_damage(f"the frame {at} can't be decoded ({error.strerror})")
            return []

    def _add_damage(self, message: str) -> None:
        if self._damage is None or self._sound_from < math.inf:
            self._damage = self._error(VideoErrorCode.CORRUPT, message)
            self._sound_from = math.inf

    def _check_delivered(self, ticks: int, wanted: int) -> None:
        """The frame has to be the one that the container shows at that time.

        One packet with no frame of its own may be an invisible reference (VP8); two are a loss.
        """
        if not self._video.has_pts:
            return
        while self._pending and self._pending[0] <= ticks:
            heapq.heappop(self._pending)
        num_lost = sum(pending <= wanted for pending in self._pending)
        if num_lost > 1:
            message = f"the decoder gave no frame for {num_lost} before {self._time(wanted)}"
            raise self._error(VideoErrorCode.CORRUPT, message)

    def _check_lasts(self, ticks: int, frame: VideoFrame, wanted: int) -> None:
        """The last frame of the file has to be on display at the wanted time."""
        tick_s = self._video.tick_s
        behind_s = (wanted - ticks) * tick_s
        if behind_s > max((frame.duration or 0) * tick_s, 2 / self._info.fps):
            message = (
                f"the last frame is at {self._time(ticks)}, one at {self._time(wanted)} is wanted "
                f"and the container says {self._info.duration_s:.3f} s"
            )
            raise self._error(VideoErrorCode.TRUNCATED, message)

    def _time(self, ticks: int) -> str:
        return f"{(ticks - self._video.origin) * self._video.tick_s:.3f} s"

    def _error(self, code: VideoErrorCode, message: str) -> VideoError:
        return VideoError(code, Stage.DECODE, message)


def _first_keyframe(packets: Iterator[Packet], video: OpenVideo) -> Packet | None:
    for packet in packets:
        if packet.is_keyframe and packet.size and _has_ticks(packet, video):
            return packet
    return None


def _keyframe_before(video: OpenVideo, ticks: int) -> float:
    """Time of the last keyframe at or before ``ticks``, from the index or a guess."""
    entries = video.stream.index_entries
    index = entries.search_timestamp(ticks, backward=True)
    if index < 0:
        return ticks - _UNINDEXED_GOP_S / video.tick_s
    return entries[index].timestamp


def _beginning(video: OpenVideo) -> int:
    """A time to seek to that no frame precedes, even in decoding order."""
    entries = video.stream.index_entries
    return entries[0].timestamp if len(entries) else video.origin - round(1 / video.tick_s)


def _has_ticks(packet: Packet, video: OpenVideo) -> bool:
    return (packet.pts if video.has_pts else packet.dts) is not None


def _ticks(packet: Packet, video: OpenVideo) -> int:
    ticks = packet.pts if video.has_pts else packet.dts
    assert ticks is not None
    return ticks
