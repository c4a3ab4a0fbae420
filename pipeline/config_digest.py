"""What a config means for the captions (its digest), and how it is shown (without secrets)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePath
from typing import Any

import yaml

from pipeline.config import (
    ClipPolicy,
    ModelConfig,
    RunConfig,
    SamplingPolicy,
    SpeculationConfig,
    SpeculationMethod,
    VideoConfig,
)
from pipeline.decoding.calibration import calibration_digest
from pipeline.speculation_config import AnchorScoreKind, Drafter
from pipeline.storage.redaction import mask_secrets as mask_secrets
from pipeline.storage.uris import is_s3

_DIGEST_BYTES = 8


def config_digest(config: RunConfig) -> str:
    """16 hex digits of everything that changes captions or their statistics.

    In: video (but its limits), models (name, revision, dtype), prompt, generation, speculation
    with the content of its calibration; of these only what has an effect: the fields of the chosen
    policies, method and drafter, and a draft model only if it is asked. Out: where data comes from
    and goes to, how failures are judged, what is compared or sampled beside captioning, and what
    only makes a run faster or safer, so that tuning never captions a corpus again.
    Pin the models before: a branch name digests as a name. A model folder, or prefix in S3, with a
    revision (its content) counts by its last name, so that a data set does not depend on where the
    project was checked out or the bucket is; so does a calibration file. Raises CalibrationError if
    that can't be read.
    """
    meaning = {
        "video": _video_meaning(config.video),
        "target": _model_meaning(config.models.target),
        "draft": _model_meaning(config.effective_draft) if config.effective_draft else None,
        "prompt": config.prompt.model_dump(mode="json"),
        "generation": _generation_meaning(config),
        "speculation": _speculation_meaning(config.speculation),
    }
    canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=_DIGEST_BYTES).hexdigest()


SAMPLING_FIELDS: dict[SamplingPolicy, set[str]] = {
    SamplingPolicy.UNIFORM: {"policy", "num_frames"},
    SamplingPolicy.FPS: {"policy", "fps", "max_frames"},
}
CLIP_FIELDS: dict[ClipPolicy, set[str]] = {
    ClipPolicy.WHOLE: {"policy"},
    ClipPolicy.WINDOWS: {"policy", "window_s", "min_clip_s"},
    ClipPolicy.SCENES: {"policy", "scene_threshold", "min_clip_s"},
}

_NUM_TOKENS = "num_speculative_tokens"
SPECULATION_FIELDS: dict[SpeculationMethod, set[str]] = {
    SpeculationMethod.NONE: {"method"},
    SpeculationMethod.EXACT: {"method", _NUM_TOKENS},
    SpeculationMethod.PAPER: {"method", _NUM_TOKENS, "anchors"},
    SpeculationMethod.SAFE: {"method", _NUM_TOKENS, "anchors", "safety"},
    SpeculationMethod.FLY: {"method", _NUM_TOKENS, "fly"},
}
_MODEL_FIELDS = {"drafter", "adaptive", "keep_ratio", "pruning", "confidence_threshold"}
DRAFTING_FIELDS: dict[Drafter, set[str]] = {
    Drafter.MODEL: _MODEL_FIELDS,
    Drafter.SELF: _MODEL_FIELDS,
    Drafter.NGRAM: {"drafter", "adaptive", "prompt_lookup_max", "prompt_lookup_min"},
}


def _video_meaning(video: VideoConfig) -> dict[str, Any]:
    sampling, clips, size = video.sampling, video.clips, video.frame_size
    size_fields = {"fixed_px"} if size.fixed_px else set(type(size).model_fields)
    return {
        "sampling": sampling.model_dump(mode="json", include=SAMPLING_FIELDS[sampling.policy]),
        "clips": clips.model_dump(mode="json", include=CLIP_FIELDS[clips.policy]),
        "frame_size": size.model_dump(mode="json", include=size_fields),
    }


def _generation_meaning(config: RunConfig) -> dict[str, Any]:
    generation, speculation = config.generation, config.speculation
    has_random_score = (
        speculation.method.has_anchors and speculation.anchors.score is AnchorScoreKind.RANDOM
    )
    is_seeded = generation.temperature > 0 or has_random_score
    fields = {"max_tokens", "temperature"} | ({"seed"} if is_seeded else set())
    return generation.model_dump(mode="json", include=fields)


def _speculation_meaning(speculation: SpeculationConfig) -> dict[str, Any]:
    """Raises CalibrationError if a calibration that has an effect can't be read."""
    method = speculation.method
    meaning = speculation.model_dump(mode="json", include=SPECULATION_FIELDS[method])
    if method is SpeculationMethod.NONE:
        return meaning
    drafting = speculation.drafting
    ineffective = {"pruning"} if drafting.keep_ratio == 1 else set()
    if not drafting.adaptive:  # came later: data sets of fixed lengths keep their digest
        ineffective.add("adaptive")
    meaning["drafting"] = drafting.model_dump(
        mode="json",
        include=DRAFTING_FIELDS[drafting.drafter],
        exclude=ineffective,
    )
    if meaning["drafting"].get("confidence_threshold", 0.0) is None:
        # What a calibration says instead is in the calibration's own digest.
        meaning["drafting"]["confidence_threshold"] = 0.0
    fidelity = speculation.fidelity
    may_tighten = method.is_loose and fidelity.shadow_share > 0 and fidelity.min_facts_kept != 0
    if may_tighten:
        meaning["fidelity"] = fidelity.model_dump(mode="json")
    # without anchors, all that a calibration gives is what facts are
    if speculation.calibration is not None and (method.has_anchors or may_tighten):
        meaning["calibration"] = calibration_digest(Path(speculation.calibration))
    return meaning


def _model_meaning(model: ModelConfig) -> dict[str, Any]:
    path = PurePath(model.name)
    is_path = path.is_absolute() or is_s3(model.name)
    return {
        "name": path.name if is_path and model.revision is not None else model.name,
        "revision": model.revision,
        "dtype": model.dtype,
    }


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML that loads again, with secrets masked."""
    plain = config.model_dump(mode="json")
    return yaml.safe_dump(_masked(plain), sort_keys=False, allow_unicode=True)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value
