"""The caption stage: decoded clips in, caption records or failures out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

from pipeline.config import PromptConfig, RunConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.task import Answer
from pipeline.failure_kinds import CaptionFailureCode
from pipeline.models.base import ClipInputError, VideoLM
from pipeline.models.loading import load_pair
from pipeline.models.pair_calibration import check_calibration
from pipeline.records import (
    Caption,
    CaptionerTiming,
    CaptionRecord,
    DecodedClip,
    Failure,
    Outcome,
    Stage,
    frames_digest,
)

MAX_UNPREPARED = 3
"""So many clips whose preparation raises before one's did not: then it is no clip's fault."""

_OWN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a bug raises, in our code or a library's. Memory that is used up, an interrupt and a file
that can't be read are nothing of one clip's."""


_LOG = logging.getLogger(__name__)


class IdentityError(RuntimeError):
    """Frames or a caption are not those of the clip that they came with: a bug, or bad memory."""


class CaptionStage:
    """Target, draft and engine of one process; called with some clips at a time."""

    def __init__(
        self,
        config: RunConfig,
        target: VideoLM,
        draft: VideoLM | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prompt: PromptConfig = config.prompt
        self._target = target
        self._draft = draft
        self._engine = CaptionEngine(
            target,
            draft,
            config.generation,
            config.speculation,
            config.output.token_sample_share,
        )
        self._clock = clock
        self._num_unprepared = 0
        self._has_prepared = False
        self._idle_since_s = clock()

    @classmethod
    def load(cls, config: RunConfig) -> CaptionStage:
        """Load the models. Raises ModelLoadError or PairError, this for a calibration too."""
        return cls.of_pair(config, *load_pair(config.models, config.storage))

    @classmethod
    def of_pair(cls, config: RunConfig, target: VideoLM, draft: VideoLM | None) -> CaptionStage:
        """A stage of loaded models. Raises PairError if the calibration is not theirs."""
        check_calibration(config.speculation, target, draft)
        return cls(config, target, draft)

    def __call__(self, clips: Sequence[DecodedClip]) -> list[Outcome | CaptionerTiming]:
        """One outcome per clip, then how long this call took and how long it was waited for.

        The clips decode in flight, so more of them than decode together are welcome; pixels are
        prepared when there is a slot for them. Outcomes are in the clips' order, after those of
        clips that can't be captioned. Raises IdentityError if a clip's frames are not those that
        were decoded, or an answer is of another clip than it was asked for; and what preparing
        raises, if that is nothing of one clip's.
        """
        if not clips:
            return []
        start_s = self._clock()
        for clip in clips:
            _assert_identity(clip)
        failures: list[Failure] = []
        taken: list[DecodedClip] = []
        captions: dict[int, Caption] = {}
        for answer in self._engine.caption_stream(self._requests(clips, taken, failures)):
            _assert_answers(answer, taken[answer.index])
            if isinstance(answer.result, PromptTooLongError):
                code = CaptionFailureCode.PROMPT_TOO_LONG
                failures.append(_failure(taken[answer.index], code, str(answer.result)))
            else:
                captions[answer.index] = answer.result
        records = [_record(taken[index], captions[index]) for index in sorted(captions)]
        end_s = self._clock()
        plain = [c.plain for c in captions.values() if c.plain is not None]
        compared_s = sum(comparison.prefill_s + comparison.decode_s for comparison in plain)
        timing = CaptionerTiming(
            waited_s=start_s - self._idle_since_s, busy_s=end_s - start_s - compared_s
        )
        self._idle_since_s = end_s
        return [*failures, *records, timing]

    def _requests(
        self, clips: Sequence[DecodedClip], taken: list[DecodedClip], failures: list[Failure]
    ) -> Iterator[CaptionRequest]:
        """A request for each clip that the model can take; these join ``taken``."""
        for clip in clips:
            try:
                request = self._request(clip)
            except ClipInputError as error:
                failures.append(_failure(clip, CaptionFailureCode.CLIP_INPUT, str(error)))
                continue
            except _OWN_ERRORS as error:
                self._num_unprepared += 1
                if not self._has_prepared and self._num_unprepared >= MAX_UNPREPARED:
                    raise
                _LOG.exception("clip %s can't be prepared", clip.clip_id)
                message = f"{type(error).__name__}: {error}"
                failures.append(_failure(clip, CaptionFailureCode.PREPARE_FAILED, message))
                continue
            self._has_prepared = True
            taken.append(clip)
            yield request

    def _request(self, clip: DecodedClip) -> CaptionRequest:
        return CaptionRequest(
            clip_id=clip.clip_id,
            target=self._target.prepare(clip, self._prompt),
            draft=self._draft.prepare(clip, self._prompt) if self._draft else None,
            frames_digest=clip.frames_digest,
        )


def _assert_identity(clip: DecodedClip) -> None:
    digest = frames_digest(clip.frames, clip.timestamps_s)
    if digest != clip.frames_digest:
        raise IdentityError(
            f"{clip.spec.video.uri} clip {clip.spec.clip_index}: frames were decoded as "
            f"{clip.frames_digest} but arrived as {digest}"
        )


def _assert_answers(answer: Answer, clip: DecodedClip) -> None:
    asked = clip.clip_id, clip.frames_digest
    answered = answer.clip_id, answer.frames_digest
    if answered != asked:
        raise IdentityError(
            f"{clip.spec.video.uri} clip {clip.spec.clip_index}: the answer for clip {asked[0]} "
            f"(frames {asked[1]}) is that for clip {answered[0]} (frames {answered[1]})"
        )


def _record(clip: DecodedClip, caption: Caption) -> CaptionRecord:
    return CaptionRecord(
        spec=clip.spec,
        info=clip.info,
        frames_digest=clip.frames_digest,
        frame_times_s=tuple(clip.timestamps_s.tolist()),
        caption=caption,
        video_decode_s=clip.decode_s,
        attempt=clip.attempt,
    )


def _failure(clip: DecodedClip, code: str, message: str) -> Failure:
    return Failure(clip.spec.video, clip.spec, Stage.CAPTION, code, message, clip.attempt)
