"""A run reckoned: what each kind of rank holds, how many rows fit, and whether it can run.

The engine's own order (pipeline/decoding/kv_budget.py): models are loaded, then rank 0, which holds
most, measures what is free and gives a share of it to keys and values, for as many rows as fit; the
rest is for activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import RunConfig, SpeculationMethod
from pipeline.decoding.calibration import DEFAULT_NUM_SPECULATIVE_TOKENS
from pipeline.decoding.kv_budget import (
    CPU_SHARE,
    CUDA_SHARE,
    KvBudget,
    SlotLengths,
    round_up,
    slot_length,
)
from pipeline.decoding.pruning import num_kept
from pipeline.preflight.device import memory_bytes, uses_gpu
from pipeline.preflight.memory import (
    CONTEXT_BYTES,
    Load,
    ModelSizes,
    Weights,
    activation_bytes,
    check_divides,
    kv_bytes_per_token,
    weights,
)
from pipeline.preflight.model_config import sizes_of
from pipeline.preflight.prompt import Prompt, longest_prompt
from pipeline.speculation_config import Drafter


@dataclass(frozen=True, slots=True)
class Pair:
    """Sizes of the target and of the draft that the method asks, and where they are from."""

    target: ModelSizes
    draft: ModelSizes | None
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: RunConfig) -> Pair:
        """Of the configured models. Raises PreflightUnavailableError."""
        target, source = sizes_of(config.models.target, config.storage)
        sources = [f"{config.models.target.name}: {source}"]
        draft = None
        if config.effective_draft is not None:
            draft, source = sizes_of(config.effective_draft, config.storage)
            sources.append(f"{config.effective_draft.name}: {source}")
        return cls(target, draft, tuple(sources))


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of one rank, bytes. ``kv`` is the most that the engine takes for the rows that fit."""

    target: Weights
    draft: int
    context: int
    kv: int = 0
    activations: int = 0

    @property
    def loaded(self) -> int:
        """What is taken once the models are loaded."""
        return self.target.total + self.draft + self.context

    @property
    def total(self) -> int:
        """All of it."""
        return self.loaded + self.kv + self.activations


@dataclass(frozen=True, slots=True)
class Plan:
    """A reckoned run. ``ranks`` has rank 0 and, if there are several, one for all others.

    ``row_bytes`` is a row of the longest prompt on rank 0, of ``budget_bytes`` for all.
    """

    num_ranks: int
    max_num_seqs: int
    num_rows: int
    row_bytes: int
    budget_bytes: int
    prompt: Prompt
    memory_bytes: int
    is_gpu: bool
    ranks: tuple[RankMemory, ...]

    @property
    def fits(self) -> bool:
        """At least one row of the longest prompt, and no rank beyond its memory."""
        return self.num_rows > 0 and all(rank.total <= self.memory_bytes for rank in self.ranks)


def reckon(config: RunConfig, pair: Pair) -> Plan:
    """Reckon a run. Raises PreflightError if the target does not deal out over the ranks."""
    num_ranks, generation = config.models.tensor_parallel_size, config.generation
    target, draft = pair.target, pair.draft
    check_divides(target, num_ranks)
    prompt = longest_prompt(config.video, config.prompt, target.vision)
    draft_prompt = longest_prompt(config.video, config.prompt, draft.vision) if draft else prompt
    drafts = config.speculation.method is not SpeculationMethod.NONE
    drafts_itself = drafts and config.speculation.drafting.drafter is Drafter.SELF
    lengths = SlotLengths(
        slot_length(prompt.num_tokens, generation.max_tokens),
        _draft_slot(config, draft_prompt) if draft or drafts_itself else 0,
    )

    is_gpu, memory = uses_gpu(config), memory_bytes(config)
    context = CONTEXT_BYTES if is_gpu else 0
    ranks = [RankMemory(weights(target, num_ranks), 0, context)]
    ranks.insert(0, RankMemory(ranks[0].target, weights(draft, 1).total if draft else 0, context))
    free = max(0, memory - ranks[0].loaded)
    budget_bytes = generation.kv_cache_memory_bytes or int(
        free * (CUDA_SHARE if is_gpu else CPU_SHARE)
    )
    token = kv_bytes_per_token(target, num_ranks)
    own_draft = token if drafts_itself else 0
    budgets = [
        KvBudget(budget_bytes, token, kv_bytes_per_token(draft, 1) if draft else own_draft),
        KvBudget(budget_bytes, token, own_draft),
    ]
    num_rows = budgets[0].num_slots(lengths, generation.max_num_seqs)

    load = Load(
        num_rows=num_rows,
        num_drafted=_num_drafted(config) if drafts else 0,
        chunk_tokens=generation.max_num_batched_tokens,
        slot_tokens=lengths.target,
    )
    states = _state_bytes(config, target, prompt, num_rows)
    targets = states + activation_bytes(target, num_ranks, prompt, load)
    most = targets
    if draft:
        most = max(most, states + activation_bytes(draft, 1, draft_prompt, load))
    kinds = tuple(
        RankMemory(
            rank.target,
            rank.draft,
            context,
            kv=min(budget_bytes, num_rows * budget.slot_bytes(grown(lengths))),
            activations=activations,
        )
        for rank, budget, activations in zip(ranks, budgets, (most, targets))
    )
    return Plan(
        num_ranks=num_ranks,
        max_num_seqs=generation.max_num_seqs,
        num_rows=num_rows,
        row_bytes=budgets[0].slot_bytes(lengths),
        budget_bytes=budget_bytes,
        prompt=prompt,
        memory_bytes=memory,
        is_gpu=is_gpu,
        ranks=kinds[: min(2, num_ranks)],
    )


def grown(lengths: SlotLengths) -> SlotLengths:
    """The longest that slots get for such prompts: KvBudget.shape makes a shorter slot longer by a
    quarter at least, as far as the budget reaches."""
    return SlotLengths(round_up(lengths.target * 5 // 4), round_up(lengths.draft * 5 // 4))


def _draft_slot(config: RunConfig, prompt: Prompt) -> int:
    """The drafting session's slot: the prompt without the video tokens that are pruned."""
    kept = num_kept(prompt.visual_tokens, config.speculation.drafting.keep_ratio)
    return slot_length(kept + prompt.text_tokens, config.generation.max_tokens)


def _num_drafted(config: RunConfig) -> int:
    return config.speculation.num_speculative_tokens or DEFAULT_NUM_SPECULATIVE_TOKENS


def _state_bytes(config: RunConfig, target: ModelSizes, prompt: Prompt, num_rows: int) -> int:
    """Anchors by cosine keep the video's states of every running row, in float32."""
    if not config.speculation.method.has_anchors:
        return 0
    return num_rows * prompt.visual_tokens * target.hidden * 4
