"""The model families that the pipeline can load, by ``config.model_type``."""

from __future__ import annotations

from pipeline.models.errors import ModelLoadError
from pipeline.models.llava_onevision import LlavaOnevision
from pipeline.models.qwen2_5_vl import Qwen25VL
from pipeline.models.transformers_model import TransformersVideoLM

FAMILIES: dict[str, type[TransformersVideoLM]] = {
    family.model_type: family for family in (Qwen25VL, LlavaOnevision)
}


def family_of(model_type: str | None, name: str) -> type[TransformersVideoLM]:
    """The family of a checkpoint. Raises ModelLoadError that names the supported ones."""
    family = FAMILIES.get(model_type or "")
    if family is None:
        supported = ", ".join(sorted(FAMILIES))
        raise ModelLoadError(f"{name} is of model type {model_type!r}; supported are: {supported}")
    return family
