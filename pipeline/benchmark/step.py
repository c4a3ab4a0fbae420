"""What one decode step costs: ours against transformers' ``generate``, the draft's, a verification.

All costs of one batch size are measured in turn, round after round, and the medians are compared:
the machine's speed drifts, so nothing is timed as a whole after something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.peers import generate_inputs
from pipeline.config import PromptConfig
from pipeline.decoding.session import DecodeSession, ModelInputs
from pipeline.models.transformers_model import TransformersVideoLM

WIDTHS = (2, 5, 9, 11, 13, 17)
BATCHES = (1, 4, 8)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How much is measured: ``num_tokens`` timed steps after ``num_skipped``, ``rounds`` times."""

    num_skipped: int = 4
    num_tokens: int = 24
    rounds: int = 7


@dataclass(frozen=True, slots=True)
class StepCost:
    """Medians at one batch size, milliseconds a call.

    ``step_ms`` and ``draft_ms`` feed one token a row and take the argmax; ``generate_ms`` is what a
    token more costs ``generate``; ``verify_ms`` is by tokens fed a row (K + 1).
    """

    batch: int
    step_ms: float
    generate_ms: float
    draft_ms: float
    verify_ms: Mapping[int, float]

    @property
    def share_of_generate(self) -> float:
        """Our step over ``generate``'s."""
        return self.step_ms / self.generate_ms

    @property
    def draft_cost(self) -> float:
        """r: the draft's step over the target's."""
        return self.draft_ms / self.step_ms

    def verify_cost(self, width: int) -> float:
        """v: a verification of ``width`` tokens a row over the target's step."""
        return self.verify_ms[width] / self.step_ms


@dataclass(frozen=True, slots=True)
class StepCosts:
    """One pair in its dtypes, at several batch sizes."""

    dtype: str
    draft_dtype: str
    num_threads: int
    costs: tuple[StepCost, ...]


def measure_steps(
    target: TransformersVideoLM,
    draft: TransformersVideoLM,
    clips: Sequence[BenchmarkClip],
    prompt: PromptConfig,
    batches: Sequence[int] = BATCHES,
    widths: Sequence[int] = WIDTHS,
    plan: StepPlan | None = None,
) -> StepCosts:
    """Measure at each batch size on the first clips, with torch's present number of threads.

    Raises ValueError if there are fewer clips than rows, or if prompts of a batch differ in length
    (``generate`` would pad them).
    """
    if len(clips) < max(batches):
        raise ValueError(f"{len(clips)} clips for a batch of {max(batches)}")
    plan = plan or StepPlan()
    return StepCosts(
        dtype=_name(target),
        draft_dtype=_name(draft),
        num_threads=torch.get_num_threads(),
        costs=tuple(
            _measure_batch(target, draft, clips[:batch], prompt, widths, plan) for batch in batches
        ),
    )


def markdown(measured: Sequence[StepCosts]) -> str:
    """A table: one row for each pair of dtypes and batch size."""
    widths = list(measured[0].costs[0].verify_ms)
    heads = ["target", "draft", "batch", "our step ms", "generate ms", "ours / generate"]
    heads += ["draft step ms", "r", *(f"v({width})" for width in widths)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for pair in measured:
        for cost in pair.costs:
            cells = [pair.dtype, pair.draft_dtype, str(cost.batch), f"{cost.step_ms:.2f}"]
            cells += [f"{cost.generate_ms:.2f}", f"{cost.share_of_generate:.2f}"]
            cells += [f"{cost.draft_ms:.2f}", f"{cost.draft_cost:.3f}"]
            cells += [f"{cost.verify_cost(width):.2f}" for width in widths]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _measure_batch(
    target: TransformersVideoLM,
    draft: TransformersVideoLM,
    clips: Sequence[BenchmarkClip],
    prompt: PromptConfig,
    widths: Sequence[int],
    plan: StepPlan,
) -> StepCost:
    room = plan.num_skipped + plan.num_tokens + max(widths)
    ours = _Stepper(target, [clip.request.target for clip in clips], room)
    drafts = [clip.request.draft for clip in clips if clip.request.draft is not None]
    theirs = _Stepper(draft, drafts, room)
    inputs = generate_inputs(target, prompt, clips)

    def generate(num_tokens: int) -> float:
        return _timed(lambda: _generate(target, inputs, num_tokens))

    last = plan.num_skipped + plan.num_tokens
    timers: dict[str, Callable[[], float]] = {
        "step": lambda: ours.step_s(plan),
        "generate": lambda: (generate(last) - generate(plan.num_skipped)) / plan.num_tokens,
        "draft": lambda: theirs.step_s(plan),
    }
    for width in widths:
        timers[f"verify {width}"] = lambda width=width: ours.verify_s(width, plan)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(plan.rounds + 1):
        for name, timer in timers.items():
            took = timer()
            if turn > 0:  # the first round warms up
                seconds[name].append(took)
    in_ms = {name: 1e3 * median(values) for name, values in seconds.items()}
    return StepCost(
        batch=len(clips),
        step_ms=in_ms["step"],
        generate_ms=in_ms["generate"],
        draft_ms=in_ms["draft"],
        verify_ms={width: in_ms[f"verify {width}"] for width in widths},
    )


class _Stepper:
    """A session with every row's prompt cached; what is timed is rolled back."""

    def __init__(
        self, model: TransformersVideoLM, prompts: Sequence[ModelInputs], room: int
    ) -> None:
        longest = max(prompt.num_tokens for prompt in prompts)
        self._session: DecodeSession = model.open_session(len(prompts), longest + room)
        self._slots = range(len(prompts))
        outputs = [self._session.prefill(slot, prompt) for slot, prompt in enumerate(prompts)]
        self._first = [int(output.logits.argmax()) for output in outputs]

    def step_s(self, plan: StepPlan) -> float:
        """Seconds a greedy step, over the plan's tokens."""
        tokens = self._greedy(self._first, plan.num_skipped)
        took = _timed(lambda: self._greedy(tokens, plan.num_tokens))
        self._roll_back(plan.num_skipped + plan.num_tokens)
        return took / plan.num_tokens

    def verify_s(self, width: int, plan: StepPlan) -> float:
        """Seconds of a call with ``width`` tokens a row, after as many tokens as a mean step."""
        before = plan.num_skipped + plan.num_tokens // 2
        self._greedy(self._first, before)
        took = _timed(lambda: self._score([[token] * width for token in self._first]))
        self._roll_back(before + width)
        return took

    def _greedy(self, tokens: list[int], num_steps: int) -> list[int]:
        for _ in range(num_steps):
            tokens = [scored[-1] for scored in self._score([[token] for token in tokens])]
        return tokens

    def _score(self, tokens: list[list[int]]) -> list[list[int]]:
        logits = self._session.forward(self._slots, tokens).logits
        best: list[list[int]] = logits.argmax(-1).tolist()
        return best

    def _roll_back(self, num_tokens: int) -> None:
        for slot in self._slots:
            self._session.roll_back(slot, num_tokens)


def _generate(target: TransformersVideoLM, inputs: Mapping[str, object], num_tokens: int) -> None:
    pad = target.tokenizer.pad_token_id
    with torch.inference_mode():
        target.model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            eos_token_id=sorted(target.eos_token_ids),
            pad_token_id=min(target.eos_token_ids) if pad is None else pad,
        )


def _timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


def _name(model: TransformersVideoLM) -> str:
    return str(model.model.dtype).removeprefix("torch.")
