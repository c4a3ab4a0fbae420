"""Which clips the data set holds already, as caption or as failure."""

from __future__ import annotations

from pipeline.dataset.plan_ids import IdSet


class DoneClips:
    """A set of clips that knows when a video is complete.

    A complete video is kept as its id alone, all 128 bits of it, so ten million of them take about
    200 MB, however many clips they have.
    """

    def __init__(self) -> None:
        self._complete = IdSet()
        self._partial: dict[str, set[str]] = {}

    def add(self, video_id: str, clip_id: str, num_clips: int | None) -> bool:
        """Take a clip in; False, and no change, if it (or its whole video) was there.

        ``num_clips`` is the length of the video's clip plan; None is the one row that stands for a
        video without a plan, which completes it. Raises ValueError if ``video_id`` is not 32 hex
        digits.
        """
        if self.has_clip(video_id, clip_id):
            return False
        clip_ids = self._partial.setdefault(video_id, set())
        clip_ids.add(clip_id)
        if num_clips is None or len(clip_ids) >= num_clips:
            self._complete.add(bytes.fromhex(video_id))
            del self._partial[video_id]
        return True

    def has_clip(self, video_id: str, clip_id: str) -> bool:
        """Whether this clip needs no row any more."""
        return self.has_video(video_id) or clip_id in self._partial.get(video_id, ())

    def has_video(self, video_id: str) -> bool:
        """Whether nothing of this video is left to do."""
        return bytes.fromhex(video_id) in self._complete

    def clip_ids(self, video_id: str) -> frozenset[str]:
        """The done clips of a video that is not complete."""
        return frozenset(self._partial.get(video_id, ()))

    def __bool__(self) -> bool:
        return bool(self._complete or self._partial)
