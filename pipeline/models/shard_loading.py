"""Loading one rank's part of a target from safetensors, in the memory of that part.

transformers would read the whole checkpoint on every rank: 146 GB a rank of a 72B. Here the model
is built without memory, cut, and filled tensor by tensor with what the rank keeps of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from pipeline.config import ModelConfig, StorageConfig
from pipeline.models.checkpoint import DEFAULT_STORAGE, find_checkpoint
from pipeline.models.decoder_stack import DecoderStack
from pipeline.models.errors import ModelLoadError
from pipeline.models.registry import family_of
from pipeline.models.sharding import (
    Ranks,
    VocabParallelHead,
    check_divides,
    cut_layers,
    cut_of,
    sum_over_ranks,
)
from pipeline.models.transformers_model import TransformersVideoLM, head_size

_REOPEN_BYTES = 1 << 28
"""A file is mapped anew after so many bytes: what was read of a mapping counts as memory."""


def load_shard(
    config: ModelConfig,
    device: torch.device,
    ranks: Ranks,
    storage: StorageConfig = DEFAULT_STORAGE,
) -> TransformersVideoLM:
    """This rank's part of a checkpoint, ready to decode together with the other ranks.

    Peak memory is the part and the largest tensor, beside what torch itself takes. Raises
    ModelLoadError as load_model does, and if the model does not divide by the number of ranks.
    """
    checkpoint = find_checkpoint(config, storage)
    folder = checkpoint.folder
    family = family_of(checkpoint.model_type, config.name)
    dtype = getattr(torch, config.dtype)
    try:
        hf_config = AutoConfig.from_pretrained(folder, local_files_only=True)
        check_divides(hf_config.text_config, ranks.size, config.name)
        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        model = _without_memory(family.model_class, hf_config, dtype)
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        _cut(model, dtype, device, ranks)
        _fill(model, folder, ranks.rank, config.name)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelLoadError(
            f"{config.name} can't be loaded ({type(error).__name__}: {error}); check that the "
            f"files in {folder} are complete"
        ) from error
    if not processor.chat_template:
        raise ModelLoadError(
            f"{config.name} has no chat template; add its chat_template.jinja to {folder}"
        )
    sum_over_ranks(model.model.language_model, ranks.all_reduce)
    stack = DecoderStack(
        model.model.language_model,
        VocabParallelHead(model.lm_head, ranks.join_columns),
        head_size=head_size(hf_config.text_config),
        vocab_size=len(processor.tokenizer),
        mean_over_ranks=ranks.mean,
        release=True,
    )
    try:
        return family(model, processor, config.name, checkpoint.revision, stack)
    except ValueError as error:
        raise ModelLoadError(f"{config.name} can't be used: {error}") from error


def _without_memory(model_class: Any, config: Any, dtype: torch.dtype) -> Any:
    """The model with parameters on the meta device, and its computed buffers for real."""
    with init_empty_weights(include_buffers=False):
        model = model_class._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def _cut(model: Any, dtype: torch.dtype, device: torch.device, ranks: Ranks) -> None:
    """Cut decoder and head, and give every parameter memory, not yet filled."""
    # Of no checkpoint, but computed when the model is built (rotary frequencies, in float32).
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    vocab_size, hidden_size = model.lm_head.weight.shape
    model.model.language_model = cut_layers(model.model.language_model, dtype, ranks.size)
    rows = -(-vocab_size // ranks.size)
    model.lm_head = nn.Linear(hidden_size, rows, bias=False, device="meta", dtype=dtype)
    model.to_empty(device=device)
    model.requires_grad_(False)
    model.lm_head.weight.zero_()  # the last rank's may be longer than what is left for it
    for name, buffer in buffers.items():
        owner, _, own_name = name.rpartition(".")
        model.get_submodule(owner).register_buffer(
            own_name, buffer.to(device), persistent=name in model.state_dict()
        )


@torch.no_grad()
def _fill(model: Any, folder: Path, rank: int, model_name: str) -> None:
    """Copy this rank's part of every tensor. Raises ModelLoadError for one that is missing."""
    wanted = dict(model.named_parameters())
    renamings = [m for m in get_model_conversion_mapping(model) if isinstance(m, WeightRenaming)]
    places: dict[Path, list[tuple[str, str]]] = {}
    found: set[str] = set()
    for path, key in _keys(folder):
        name, _ = rename_source_key(key, renamings, [])
        if name in wanted:
            places.setdefault(path, []).append((key, name))
            found.add(name)
    embedding = "model.language_model.embed_tokens.weight"
    if "lm_head.weight" not in found and model.config.tie_word_embeddings:
        for path, names in places.items():
            tied = [(key, "lm_head.weight") for key, name in names if name == embedding]
            places[path] = names + tied
            found |= {name for _, name in tied}
    if missing := sorted(wanted.keys() - found):
        raise ModelLoadError(
            f"{model_name} lacks {len(missing)} weights ({', '.join(missing[:3])} ...); complete "
            f"the safetensors in {folder}"
        )
    for path, names in places.items():
        _fill_from(path, names, wanted, rank)


def _keys(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every tensor of a checkpoint and the file that it is in; the index says which files count."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        for key, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            yield folder / file, key
        return
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                yield path, key


def _fill_from(
    path: Path, names: list[tuple[str, str]], wanted: dict[str, nn.Parameter], rank: int
) -> None:
    waiting = list(reversed(names))
    while waiting:
        num_bytes = 0
        with safe_open(path, "pt") as file:
            while waiting and num_bytes < _REOPEN_BYTES:
                key, name = waiting.pop()
                num_bytes += _copy(file.get_slice(key), name, wanted[name], rank)


def _copy(source: Any, name: str, parameter: nn.Parameter, rank: int) -> int:
    """Copy a parameter's part of a stored tensor; returns the bytes that were read."""
    cut = cut_of(name, parameter.shape, torch.Size(source.get_shape()), rank)
    if cut is None:
        tensor, place = source[:], parameter.data
    elif cut.dim == 0:
        tensor = source[cut.start : cut.stop]
        place = parameter.data[: cut.stop - cut.start]
    else:
        tensor = source[:, cut.start : cut.stop]
        place = parameter.data[:, : cut.stop - cut.start]
    place.copy_(tensor)
    return int(tensor.numel() * tensor.itemsize)
