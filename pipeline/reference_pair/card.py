"""The model card of the pair: what it is, how it was made, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.reference_pair.curriculum import STAGES, StageCost, cost_path
from pipeline.reference_pair.frames import FIRST_SEED
from pipeline.reference_pair.properties import Estimate, Properties

_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: video-text-to-text
tags:
- qwen2_5_vl
- speculative-decoding
- synthetic
---

# The reference pair

A target ({target_parameters}) and its draft ({draft_parameters}) in the Qwen2.5-VL architecture of
transformers, trained from random weights on the synthetic sample world (`pipeline/sample_world/`).
They exist so that the pipeline, its speed and its fidelity can be tested offline with a pair that
really speculates: the draft is mostly right, its errors are those of a small model, and every fact
of every video is known.

**It knows only the sample world.** Eight frames of 60 x 60 with one or two shapes; other videos get
a fluent description of shapes that are not there. It says nothing about the quality of big
Video-LLMs, and speeds measured with it are ratios on a CPU, not those of a GPU.

## How to use it

Both folders load with `from_pretrained` of transformers; they share one tokenizer (byte-level BPE,
1024 entries). Give it {num_frames} frames at the middles of equal segments of the clip, resized to
60 x 60, and one of the prompts it was taught:

{prompts}

Weights are stored in bf16 and meant to be run in fp32 (exact) or bf16. In the pipeline:
`jobs/recipes/reference.yaml`.

## Measured

`python -m jobs.measure_reference_pair --pair assets/reference_pair --work-dir DIR` on
{num_clips} held-out clips: scene seeds {first_seed} to {last_seed}, where training used
{train_first} to {train_last} and decisions about the recipe other clips again. Each clip is
encoded as a real file in one of seven codecs and decoded by the pipeline's own decoder. Captions
by plain greedy decoding in fp32; agreement is teacher-forced on the target's captions; intervals
are 95 %, over clips.

| property | value |
|---|---|
| facts right, target | {target_facts} |
| captions with every fact right, target | {target_all_facts:.1%} |
| facts right, draft | {draft_facts} |
| tokens that carry a visual fact | {fact_tokens} |
| tokens where the draft's first choice differs from the target's | {mismatches} |
| ... of these, where the target's token or the draft's is on a fact | {mismatches_on_facts:.1%} |
| tokens in a caption | {caption_tokens} (from {shortest} to {longest}) |
| draft step / target step (r), batch 1, one thread, fp32 | {draft_ratio:.3f} |
| verification of {verify_width} tokens / target step (v), same | {verify_ratio:.2f} |

"Facts right" is the share of a scene's properties (tone, pattern, marks, count; size, colour,
shape and motion of each thing) that the caption states with their true value and no other. Words
such as "right", "light" or "one" are visual in one place and filler in another: of the target's
tokens only those that state a fact count in the next-to-last share, of the draft's every token of
such a word, so it is an upper bound.

Latencies: draft step {draft_ms:.2f} ms, target step {target_ms:.2f} ms, verification
{verify_ms:.2f} ms, medians on the machine that trained the pair (2 shared cores of an AMD EPYC).

## How it was trained

`python -m jobs.train_reference_pair --work-dir DIR --output assets/reference_pair` (seed {seed}),
no other data than what it makes. {total_minutes:.0f} CPU-minutes in all, besides the frames.

| stage | model | lesson | steps | clips | CPU-minutes |
|---|---|---|---|---|---|
{stages}

Lessons: "look" trains the vision tower to name every property, with a head that is thrown away;
"list" teaches terse lists of facts; "brief" and "full" teach captions of the grammar in its two
styles, with tokens of facts weighted 3 to 16 times. The target is its base grown
function-preservingly, and trained on.
{remark}"""


def model_card(
    properties: Properties,
    costs: Mapping[str, StageCost],
    parameters: Mapping[str, int],
    *,
    prompts: tuple[str, ...],
    num_frames: int,
    train_clips: int,
    seed: int,
    remark: str = "",
) -> str:
    """Write the card; `parameters` counts those of "target" and "draft".

    `remark` tells where this very run departed from the recipe.
    """
    latency, agreement = properties.latency, properties.agreement
    first_seed = FIRST_SEED[properties.split]
    return _CARD.format(
        target_parameters=f"{parameters['target'] / 1e6:.1f} M parameters",
        draft_parameters=f"{parameters['draft'] / 1e6:.1f} M parameters",
        prompts="\n".join(f"- {prompt}" for prompt in prompts),
        num_frames=num_frames,
        num_clips=properties.num_clips,
        first_seed=first_seed,
        last_seed=first_seed + properties.num_clips - 1,
        train_first=FIRST_SEED["train"],
        train_last=FIRST_SEED["train"] + train_clips - 1,
        target_facts=_percent(properties.target_facts),
        target_all_facts=properties.target_all_facts,
        draft_facts=_percent(properties.draft_facts),
        fact_tokens=_percent(agreement.fact_tokens),
        mismatches=_percent(agreement.mismatches),
        mismatches_on_facts=agreement.mismatches_on_facts,
        caption_tokens=f"{properties.caption_tokens.mean:.1f}",
        shortest=properties.caption_tokens_range[0],
        longest=properties.caption_tokens_range[1],
        draft_ratio=latency.draft_ratio,
        verify_ratio=latency.verify_ratio,
        verify_width=latency.verify_width,
        draft_ms=1000 * latency.draft_step_s,
        target_ms=1000 * latency.target_step_s,
        verify_ms=1000 * latency.target_verify_s,
        seed=seed,
        total_minutes=sum(cost.cpu_minutes for cost in costs.values()),
        stages="\n".join(_stage_row(name, cost) for name, cost in costs.items()),
        remark=f"\n{remark}\n" if remark else "",
    )


def read_costs(work_dir: Path) -> dict[str, StageCost]:
    """What each stage took, from the folder that it was trained in; FileNotFoundError if not."""
    return {name: StageCost(**json.loads(cost_path(work_dir, name).read_text())) for name in STAGES}


def _percent(estimate: Estimate) -> str:
    return f"{estimate.mean:.1%} ± {estimate.margin:.1%}"


def _stage_row(name: str, cost: StageCost) -> str:
    stage = STAGES[name]
    shape = f"h{stage.shape.hidden} x {stage.shape.layers}"
    return (
        f"| {name} | {shape} | {stage.task} | {cost.steps} | {cost.clips} "
        f"| {cost.cpu_minutes:.1f} |"
    )
