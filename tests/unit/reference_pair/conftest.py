"""Shared fixtures: tiny models and a handful of delivered clips."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2Tokenizer

from pipeline.reference_pair.architecture import build_tokenizer
from pipeline.reference_pair.frames import Clip, deliver


@pytest.fixture(scope="session")
def tokenizer() -> Qwen2Tokenizer:
    return build_tokenizer()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder: Path = tmp_path_factory.mktemp("clips")
    return [deliver("test", index, folder) for index in range(4)]


@pytest.fixture(autouse=True)
def _one_seed_and_thread() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # toys this small only lose by sharing work between threads
