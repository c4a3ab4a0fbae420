"""Loading a target and its draft: from a checkpoint's files to a Video-LLM ready to decode."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor

from pipeline.config import ModelConfig, ModelsConfig, StorageConfig
from pipeline.models.checkpoint import DEFAULT_STORAGE, find_checkpoint
from pipeline.models.errors import ModelLoadError, PairError
from pipeline.models.generation_settings import settings_not_applied
from pipeline.models.registry import family_of
from pipeline.models.transformers_model import TransformersVideoLM

_LOG = logging.getLogger(__name__)


def load_pair(
    config: ModelsConfig, storage: StorageConfig = DEFAULT_STORAGE
) -> tuple[TransformersVideoLM, TransformersVideoLM | None]:
    """Load the target and, if there is one, its draft, and check that they fit.

    ``storage`` is how models in S3 are reached.
    Warns of what the target's generation config asks for and captions don't follow.
    Raises ModelLoadError or PairError.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    target = load_model(config.target, device, storage)
    return target, load_draft(config, target, storage)


def load_draft(
    config: ModelsConfig, target: TransformersVideoLM, storage: StorageConfig = DEFAULT_STORAGE
) -> TransformersVideoLM | None:
    """Load the draft of a loaded target, on its device, and check that they fit; None without one.

    Warns and raises as load_pair does.
    """
    if ignored := settings_not_applied(target.model.generation_config):
        _LOG.warning(
            "%s: captions are plain greedy; its generation config also asks for %s, which is not "
            "applied",
            target.model_id,
            ", ".join(ignored),
        )
    if config.draft is None:
        return None
    draft = load_model(config.draft, target.device, storage)
    check_pair(target, draft)
    return draft


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is any. Raises ModelLoadError for a device that isn't here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled" by assertion
        raise ModelLoadError(f"models.device {device!r} can't be used here: {error}") from error
    return torch.device(device)


def load_model(
    config: ModelConfig, device: torch.device, storage: StorageConfig = DEFAULT_STORAGE
) -> TransformersVideoLM:
    """Load one checkpoint: safetensors only, no code from it, sdpa attention, eval mode.

    Raises ModelLoadError if files are missing, unsafe or broken, if the family is not supported, or
    if a weight is missing (transformers would fill it at random) or not of the configured dtype.
    """
    checkpoint = find_checkpoint(config, storage)
    family = family_of(checkpoint.model_type, config.name)
    dtype = getattr(torch, config.dtype)
    try:
        processor = AutoProcessor.from_pretrained(
            checkpoint.folder, trust_remote_code=False, local_files_only=True
        )
        model, report = family.model_class.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="sdpa",
            device_map={"": device},
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(
            f"{config.name} can't be loaded ({type(error).__name__}: {error}); check that the "
            f"files in {checkpoint.folder} are complete"
        ) from error
    if not processor.chat_template:
        raise ModelLoadError(
            f"{config.name} has no chat template; add its chat_template.jinja to "
            f"{checkpoint.folder}"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(
            f"{config.name} lacks {len(missing)} weights ({', '.join(missing[:3])} ...); "
            f"complete the safetensors in {checkpoint.folder}"
        )
    if others := {str(p.dtype) for p in model.parameters() if p.dtype is not dtype}:
        raise ModelLoadError(
            f"{config.name} has weights in {', '.join(sorted(others))} after loading as "
            f"{config.dtype}; set the model's dtype to one that it keeps"
        )
    try:
        return family(model.eval(), processor, config.name, checkpoint.revision)
    except ValueError as error:
        raise ModelLoadError(f"{config.name} can't be used: {error}") from error


def check_pair(target: TransformersVideoLM, draft: TransformersVideoLM) -> None:
    """Raise PairError unless equal token ids mean equal text, and equal ends, to both.

    Verification compares ids, so one token that differs makes captions wrong without any error.
    """
    pair = f"target {target.model_id} and draft {draft.model_id}"
    remedy = "use a draft of the target's family and generation"
    difference = _first_difference(target.tokenizer.get_vocab(), draft.tokenizer.get_vocab())
    if difference is not None:
        raise PairError(f"{pair} have different vocabularies: {difference}; {remedy}")
    target_special = set(target.tokenizer.all_special_ids)
    draft_special = set(draft.tokenizer.all_special_ids)
    if differing := sorted(target_special ^ draft_special):
        token = target.tokenizer.convert_ids_to_tokens(differing[0])
        raise PairError(f"{pair}: {token!r} is a special token to one of them only; {remedy}")
    if target.eos_token_ids != draft.eos_token_ids:
        raise PairError(
            f"{pair} end captions at different tokens: {sorted(target.eos_token_ids)} and "
            f"{sorted(draft.eos_token_ids)}; make eos_token_id equal in both generation_config.json"
        )


def _first_difference(target: Mapping[str, int], draft: Mapping[str, int]) -> str | None:
    """The token of the lowest id that the two vocabularies don't share, in words."""
    differing = {token for token, _ in target.items() ^ draft.items()}
    if not differing:
        return None
    token = min(differing, key=lambda t: (min(v[t] for v in (target, draft) if t in v), t))
    ids = [str(vocabulary.get(token, "none")) for vocabulary in (target, draft)]
    return f"{token!r} has id {ids[0]} in the target and {ids[1]} in the draft"
