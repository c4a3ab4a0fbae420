"""A plan in words: the table of a dry run, its verdict, and the refusal of a run."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from pipeline.config import RunConfig
from pipeline.preflight.device import GIB
from pipeline.preflight.errors import PreflightError
from pipeline.preflight.plan import Pair, Plan, RankMemory
from pipeline.preflight.remedy import MAX_RANKS, remedies

WIDTH_CHARS = 100


def report(plan: Plan, pair: Pair) -> str:
    """Memory by kind of rank, where the sizes are from, and the verdict; plain text."""
    table = Table(title="Will it fit? (GiB, reckoned)", title_justify="left")
    table.add_column("")
    for name in ("rank 0", f"each of ranks 1 to {plan.num_ranks - 1}")[: len(plan.ranks)]:
        table.add_column(name, justify="right")
    for name, *amounts in zip(_names(plan), *(_amounts(plan, rank) for rank in plan.ranks)):
        table.add_row(name, *(f"{amount / GIB:.1f}" for amount in amounts))
    text = io.StringIO()
    Console(file=text, width=WIDTH_CHARS, color_system=None).print(table)
    sources = "\n".join(f"sizes of {source}" for source in pair.sources)
    return f"{text.getvalue().rstrip()}\n{sources}\n{verdict(plan)}"


def verdict(plan: Plan) -> str:
    """Whether it fits, and how many rows do, in one line."""
    rows = (
        f"{plan.num_rows} of {plan.max_num_seqs} rows of the longest prompt "
        f"({plan.prompt.num_tokens} tokens, {plan.prompt.num_frames} frames)"
    )
    if not plan.is_gpu:
        return f"on CPU, for information: this host has room for {rows}"
    return f"it fits, with {rows}" if plan.fits else f"it does not fit: {_reason(plan)}"


def refusal(plan: Plan, config: RunConfig, pair: Pair) -> PreflightError:
    """The error of a plan that does not fit: numbers, and what would fit instead."""
    flags = [remedy.flags(config) for remedy in remedies(config, pair)]
    instead = f"what fits: {', or '.join(flags)}"
    if not flags:
        instead = (
            f"nothing does up to {MAX_RANKS} ranks, not one row of one frame: take larger GPUs or "
            "smaller models"
        )
    return PreflightError(
        f"the run does not fit: {_reason(plan)}; {instead} (--dry-run shows the table, "
        "--no-preflight runs all the same)"
    )


def _reason(plan: Plan) -> str:
    rank = plan.ranks[0]  # holds most
    memory = f"{plan.memory_bytes / GIB:.1f} GiB of the GPU (cluster.gpu_memory_gib)"
    if rank.loaded >= plan.memory_bytes:
        return f"rank 0 holds {rank.loaded / GIB:.1f} GiB of weights and context, beyond {memory}"
    if plan.num_rows == 0:
        return (
            f"one row of the longest prompt ({plan.prompt.num_tokens} tokens) takes "
            f"{plan.row_bytes / GIB:.1f} GiB of keys and values on rank 0, and "
            f"{plan.budget_bytes / GIB:.1f} GiB are left for them of {memory}"
        )
    return (
        f"rank 0 needs {rank.total / GIB:.1f} GiB (weights and context {rank.loaded / GIB:.1f}, "
        f"keys and values of {plan.num_rows} rows {rank.kv / GIB:.1f}, activations "
        f"{rank.activations / GIB:.1f}), beyond {memory}"
    )


def _names(plan: Plan) -> list[str]:
    part = "" if plan.num_ranks == 1 else f", 1/{plan.num_ranks} of it"
    return [
        f"target's decoder layers{part}",
        "target's vision tower",
        f"target's embeddings, and its head{part}",
        "draft, whole",
        f"keys and values, at most ({plan.num_rows} of {plan.max_num_seqs} rows)",
        "activations, at most",
        "CUDA context, libraries, NCCL",
        "total",
        "of the GPU's memory" if plan.is_gpu else "of this host's memory",
    ]


def _amounts(plan: Plan, rank: RankMemory) -> list[int]:
    target = rank.target
    return [
        target.layers,
        target.vision,
        target.embeddings,
        rank.draft,
        rank.kv,
        rank.activations,
        rank.context,
        rank.total,
        plan.memory_bytes,
    ]
