"""The records that flow through the pipeline: one frozen type for each stage.

VideoObject -> ClipSpec -> DecodedClip -> CaptionRecord | Failure. Every stage returns a new type;
nothing is filled in later. Identity (``video_id``, ``clip_id``) is derived, never assigned.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from pipeline.failure_kinds import FailureKind, kind_of

WHOLE_VIDEO_SPAN = "video"


def _short_hash(*parts: str) -> str:
    """128 bits of BLAKE2b over the length-prefixed parts, as 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class VideoObject:
    """One object of the corpus as the catalogue listed it: a name and a version, not yet opened."""

    uri: str
    etag: str
    size_bytes: int

    @property
    def video_id(self) -> str:
        """Stable id of this version of this object: a changed etag is another video."""
        return _short_hash(self.uri, self.etag)


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the container says, read without decoding. Width and height are after rotation."""

    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    duration_s: float
    fps: float
    num_frames: int


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """One span [start_s, end_s) of a video; ``num_clips`` is the length of its clip plan."""

    video: VideoObject
    clip_index: int
    num_clips: int
    start_s: float
    end_s: float

    @property
    def clip_id(self) -> str:
        """hash(uri, etag, span); microseconds, so that float noise never makes a new clip."""
        span = f"{round(self.start_s * 1e6)}-{round(self.end_s * 1e6)}"
        return _short_hash(self.video.uri, self.video.etag, span)


def whole_video_clip_id(video: VideoObject) -> str:
    """Id of the failure row of a video that could not be opened, so has no clip plan."""
    return _short_hash(video.uri, video.etag, WHOLE_VIDEO_SPAN)


def frames_digest(frames: npt.NDArray[np.uint8], timestamps_s: npt.NDArray[np.float64]) -> str:
    """Digest of frames and their times; it travels with the clip and is asserted at the end."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(frames.shape).encode())
    digest.update(frames.tobytes())
    digest.update(timestamps_s.astype(np.float64).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class DecodedClip:
    """A clip in memory. frames [F, H, W, 3] uint8 RGB; timestamps_s [F] float64."""

    spec: ClipSpec
    info: VideoInfo
    frames: npt.NDArray[np.uint8]
    timestamps_s: npt.NDArray[np.float64]
    frames_digest: str
    decode_s: float
    attempt: int = 1
    """Attempts that it took to open the video and to decode the clip, in this run."""

    @property
    def clip_id(self) -> str:
        """The clip's id (see ClipSpec.clip_id)."""
        return self.spec.clip_id


class FinishReason(StrEnum):
    """Why a caption ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


class Stage(StrEnum):
    """Where a failure happened."""

    READ = "read"
    PROBE = "probe"
    DECODE = "decode"
    CAPTION = "caption"


@dataclass(frozen=True, slots=True)
class DecodingStats:
    """Counters of one caption's decoding (docs/architecture.md, schema).

    Every emitted token is counted once: ``exact + relaxed + shifted + corrections + bonuses``
    equals ``output_tokens`` once the first token, which the prefill gives, counts as a correction.
    ``accepted_histogram[a]`` is the number of target steps that accepted exactly a drafted tokens;
    histograms add up over rows and shards, means do not.
    """

    prompt_tokens: int
    visual_tokens: int
    output_tokens: int
    target_steps: int
    drafted_tokens: int
    accepted_tokens: int
    relaxed_tokens: int
    shifted_tokens: int
    anchor_tokens: int
    correction_tokens: int
    bonus_tokens: int
    rejected_by_cause: dict[str, int]
    accepted_histogram: tuple[int, ...]
    prefill_s: float
    draft_s: float
    verify_s: float
    decode_s: float
    scoring_s: float = 0.0

    @property
    def mean_accepted_length(self) -> float:
        """Accepted drafted tokens per target step; the bonus token is not counted."""
        return self.accepted_tokens / self.target_steps if self.target_steps else 0.0

    @property
    def tokens_per_target_step(self) -> float:
        """mean_accepted_length + 1: with the target's own token of each step; 0 of no steps."""
        return self.mean_accepted_length + 1 if self.target_steps else 0.0


@dataclass(frozen=True, slots=True)
class PlainComparison:
    """The same clip decoded plainly in the same process: the check, and the baseline in time.

    Seconds are this clip's share of its batch's wall clock, as in DecodingStats.
    """

    equal: bool
    prefill_s: float
    decode_s: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """The same clip decoded exactly beside it: what loose decoding changed in its caption.

    facts_kept is the F1 (0 to 1) of the caption's facts against the exact caption's, as
    pipeline/decoding/facts.py tells them; None where there was nothing to tell facts by.
    """

    equal: bool
    output_tokens: int
    facts_kept: float | None = None


@dataclass(frozen=True, slots=True)
class TokenDecision:
    """One emitted token and why it is there, for people to look at.

    kind: exact, relaxed, shifted, correction or bonus. target_token_id is the target's own greedy
    choice in its place. anchor_score and anchor_rank (quantile, 1 the most visual) are None for
    tokens that no draft proposed and for rules without scores. text is what this token adds to the
    caption, blanks included (empty for special tokens and for the first bytes of a character); rows
    that are still decoding have none yet.
    """

    token_id: int
    kind: str
    target_token_id: int
    anchor_score: float | None
    anchor_rank: float | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Caption:
    """What the engine says of one clip.

    relaxed_share is the lambda that was in force (None for exact decoding and none); decisions is
    empty unless the clip is in the token-level sample.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: DecodingStats
    plain: PlainComparison | None = None
    shadow: ShadowComparison | None = None
    relaxed_share: float | None = None
    decisions: tuple[TokenDecision, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class CaptionRecord:
    """A caption and everything about the clip that the row keeps (no pixels)."""

    spec: ClipSpec
    info: VideoInfo
    frames_digest: str
    frame_times_s: tuple[float, ...]
    caption: Caption
    video_decode_s: float
    attempt: int

    @property
    def clip_id(self) -> str:
        """The clip's id (see ClipSpec.clip_id)."""
        return self.spec.clip_id


@dataclass(frozen=True, slots=True)
class Failure:
    """A clip, or a whole video if ``spec`` is None, that could not be captioned: one row.

    ``attempt`` counts this run's, the last of them being the one that this tells of.
    """

    video: VideoObject
    spec: ClipSpec | None
    stage: Stage
    code: str
    message: str
    attempt: int

    @property
    def clip_id(self) -> str:
        """The clip's id, or the id that stands for the whole video."""
        return self.spec.clip_id if self.spec else whole_video_clip_id(self.video)

    @property
    def kind(self) -> FailureKind:
        """Whose fault it is. Raises KeyError of a code that no table knows."""
        return kind_of(self.code)


@dataclass(frozen=True, slots=True)
class CaptionerTiming:
    """One call of a captioner: ``waited_s`` for clips since the call before, then ``busy_s``.

    The first call waits from the moment that the models were loaded. What plain decoding for
    comparison took (PlainComparison) is in neither: it is no part of captioning.
    """

    waited_s: float
    busy_s: float
    mended: tuple[str, ...] = ()
    """What failed in this call and was started anew, such as a gang that lost a rank."""


Outcome = CaptionRecord | Failure
