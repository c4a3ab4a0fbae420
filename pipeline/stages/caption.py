"""The caption stage: decoded clips in, caption records or failures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.config import PromptConfig, RunConfig
from pipeline.decoding.calibration import CalibrationError, PairIdentity, load_calibration
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.request import CaptionRequest
from pipeline.models.base import ClipInputError, VideoLM
from pipeline.models.errors import PairError
from pipeline.models.loading import load_pair
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
from pipeline.stages.attempts import FIRST_ATTEMPT

CLIP_INPUT_CODE = "clip_input"
PROMPT_TOO_LONG_CODE = "prompt_too_long"


class IdentityError(RuntimeError):
    """The frames that reached the model are not those that were decoded: a bug, or bad memory."""


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
        self._idle_since_s = clock()

    @classmethod
    def load(cls, config: RunConfig) -> CaptionStage:
        """Load the models. Raises ModelLoadError or PairError, this for a calibration too."""
        return cls.of_pair(config, *load_pair(config.models, config.storage))

    @classmethod
    def of_pair(cls, config: RunConfig, target: VideoLM, draft: VideoLM | None) -> CaptionStage:
        """A stage of loaded models. Raises PairError if the calibration is not theirs."""
        if config.speculation.method.is_loose:
            _check_calibration(config.speculation.calibration, target, draft)
        return cls(config, target, draft)

    def __call__(self, clips: Sequence[DecodedClip]) -> list[Outcome | CaptionerTiming]:
        """One outcome per clip, then how long this call took and how long it was waited for.

        The clips decode in flight, so more of them than decode together are welcome; pixels are
        prepared when there is a slot for them. Outcomes are in the clips' order, after those of
        clips that can't be captioned. Raises IdentityError.
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
            if isinstance(answer.result, PromptTooLongError):
                clip = taken[answer.index]
                failures.append(_failure(clip, PROMPT_TOO_LONG_CODE, str(answer.result)))
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
                failures.append(_failure(clip, CLIP_INPUT_CODE, str(error)))
                continue
            taken.append(clip)
            yield request

    def _request(self, clip: DecodedClip) -> CaptionRequest:
        return CaptionRequest(
            clip_id=clip.clip_id,
            target=self._target.prepare(clip, self._prompt),
            draft=self._draft.prepare(clip, self._prompt) if self._draft else None,
        )


def _check_calibration(path: str | None, target: VideoLM, draft: VideoLM | None) -> None:
    if path is None:
        return
    calibration, _ = load_calibration(Path(path))
    pair = PairIdentity(
        target_revision=target.revision,
        draft_revision=draft.revision if draft else None,
        vocab_size=target.vocab_size,
    )
    try:
        calibration.check_pair(pair)
    except CalibrationError as error:
        raise PairError(f"{path}: {error}") from error


def _assert_identity(clip: DecodedClip) -> None:
    digest = frames_digest(clip.frames, clip.timestamps_s)
    if digest != clip.frames_digest:
        raise IdentityError(
            f"{clip.spec.video.uri} clip {clip.spec.clip_index}: frames were decoded as "
            f"{clip.frames_digest} but arrived as {digest}"
        )


def _record(clip: DecodedClip, caption: Caption) -> CaptionRecord:
    return CaptionRecord(
        spec=clip.spec,
        info=clip.info,
        frames_digest=clip.frames_digest,
        frame_times_s=tuple(clip.timestamps_s.tolist()),
        caption=caption,
        video_decode_s=clip.decode_s,
        attempt=FIRST_ATTEMPT,
    )


def _failure(clip: DecodedClip, code: str, message: str) -> Failure:
    return Failure(clip.spec.video, clip.spec, Stage.CAPTION, code, message, FIRST_ATTEMPT)
