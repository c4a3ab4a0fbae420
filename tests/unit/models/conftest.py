from dataclasses import dataclass

import pytest
import torch

from pipeline.config import ModelConfig, ModelsConfig
from pipeline.models.loading import load_pair
from pipeline.models.transformers_model import TransformersVideoLM
from tests.tiny_models import FAMILIES, write_tiny_pair


@dataclass(frozen=True)
class LoadedPair:
    family: str
    target: TransformersVideoLM
    draft: TransformersVideoLM


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=FAMILIES)
def pair(request, tmp_path_factory):
    """A tiny pair of one family, in fp32, where greedy outputs can be compared token by token."""
    target, draft = write_tiny_pair(request.param, tmp_path_factory.mktemp(request.param))
    models = ModelsConfig(
        target=ModelConfig(name=str(target), dtype="float32"),
        draft=ModelConfig(name=str(draft), dtype="float32"),
        device="cpu",
    )
    loaded_target, loaded_draft = load_pair(models)
    return LoadedPair(request.param, loaded_target, loaded_draft)
