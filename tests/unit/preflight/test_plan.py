"""Runs reckoned: the shipped recipes without a network, and what would fit where they don't."""

from collections.abc import Callable

import pytest

from pipeline.config import RunConfig
from pipeline.preflight.device import GIB
from pipeline.preflight.errors import PreflightError
from pipeline.preflight.plan import Pair, Plan, reckon
from pipeline.preflight.remedy import Remedy, remedies
from pipeline.preflight.report import refusal, report
from pipeline.settings import PROJECT_ROOT

Configured = Callable[..., RunConfig]
RECIPES = ("qwen2.5-vl-32b", "qwen2.5-vl-72b", "llava-onevision-72b")


def ranks(count: int) -> str:
    return f"--tensor-parallel-size {count} --cluster.captioner-gpus {count}"


def plan_of(config: RunConfig) -> Plan:
    return reckon(config, Pair.of(config))


@pytest.mark.parametrize("recipe", RECIPES)
def test_shipped_recipes_fit_with_all_their_rows(configured: Configured, recipe: str) -> None:
    plan = plan_of(configured(recipe))
    assert plan.fits
    assert plan.num_rows == plan.max_num_seqs == 8
    assert plan.ranks[0].total < 0.9 * plan.memory_bytes


def test_72b_weights_are_the_known_ones(configured: Configured) -> None:
    """About 70, 37 and 20 GiB a rank, and 327,680 bytes of keys and values a token over all."""
    for num_ranks, expected_gib in ((2, 70), (4, 37), (8, 20)):
        plan = plan_of(configured("qwen2.5-vl-72b", ranks(num_ranks)))
        assert plan.ranks[1].target.total / GIB == pytest.approx(expected_gib, abs=0.5)
        assert plan.ranks[1].draft == 0
    alone = plan_of(configured("qwen2.5-vl-72b", "--speculation.method none"))
    assert alone.row_bytes == 25_344 * 327_680 / 8  # 24,576 visual tokens, text, 512 to write


def test_longest_prompts_are_the_recipes(configured: Configured) -> None:
    assert plan_of(configured("qwen2.5-vl-32b")).prompt.visual_tokens == 24_576
    assert plan_of(configured("llava-onevision-72b")).prompt.visual_tokens == 32 * 196 + 1


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("qwen2.5-vl-32b", ranks(1)),
        ("qwen2.5-vl-72b", ranks(2)),
        ("qwen2.5-vl-72b", ranks(4)),
        ("qwen2.5-vl-72b", f"{ranks(2)} --cluster.gpu-memory-gib 40"),
        ("qwen2.5-vl-72b", "--cluster.gpu-memory-gib 40 --video.sampling.policy fps"),
        ("llava-onevision-72b", ranks(2)),
        ("llava-onevision-72b", "--video.sampling.num-frames 512 --cluster.gpu-memory-gib 48"),
        ("qwen2.5-vl-32b", f"{ranks(2)} --generation.kv-cache-memory-bytes 60000000000"),
    ],
)
def test_a_remedy_fits_when_it_is_typed(configured: Configured, recipe: str, flags: str) -> None:
    config = configured(recipe, flags)
    pair = Pair.of(config)
    plan = reckon(config, pair)
    assert not plan.fits
    found = remedies(config, pair)
    assert found
    message = str(refusal(plan, config, pair))
    for remedy in found:
        typed = remedy.flags(config)
        assert typed in message
        again = configured(recipe, f"{flags} {typed}")
        assert again == remedy.applied(config)
        assert reckon(again, pair).fits


def test_a_remedy_is_the_mildest_of_its_kind(configured: Configured) -> None:
    config = configured("qwen2.5-vl-72b", ranks(4))
    assert remedies(config, Pair.of(config)) == [
        Remedy(num_ranks=8),
        Remedy(max_num_seqs=4),
        Remedy(num_frames=32),
    ]


def test_a_refusal_has_the_numbers(configured: Configured) -> None:
    config = configured("qwen2.5-vl-72b", ranks(2))
    pair = Pair.of(config)
    message = str(refusal(reckon(config, pair), config, pair))
    assert "rank 0 holds 87.1 GiB of weights and context, beyond 79.0 GiB of the GPU" in message
    assert "what fits: --tensor-parallel-size 8 --cluster.captioner-gpus 8 (" in message
    config = configured("qwen2.5-vl-72b", f"{ranks(4)} --cluster.gpu-memory-gib 57")
    message = str(refusal(reckon(config, pair), config, pair))
    assert "one row of the longest prompt (24670 tokens) takes 3.3 GiB" in message
    config = configured("qwen2.5-vl-72b", "--cluster.gpu-memory-gib 16")
    assert "take larger GPUs" in str(refusal(reckon(config, pair), config, pair))


def test_rows_are_cut_as_the_engine_cuts_them(configured: Configured) -> None:
    """Too little room for all rows is no error: fewer run at once."""
    plan = plan_of(configured("qwen2.5-vl-32b", ranks(2)))
    assert plan.fits
    assert plan.num_rows == 5
    assert "it fits, with 5 of 8 rows" in report(plan, Pair.of(configured("qwen2.5-vl-32b")))


def test_ranks_that_do_not_divide_are_refused(configured: Configured) -> None:
    with pytest.raises(PreflightError, match=r"num_key_value_heads 8 .* 3: use 1, 2, 4 or 8"):
        plan_of(configured("qwen2.5-vl-32b", ranks(3)))


def test_who_drafts_decides_what_is_held(configured: Configured) -> None:
    """The draft on rank 0 only; the target drafting by itself has two sessions on every rank."""
    both = plan_of(configured("qwen2.5-vl-32b"))
    assert both.ranks[0].draft > 15 * GIB
    assert both.ranks[1].draft == 0
    assert both.ranks[1].kv < both.ranks[0].kv
    itself = plan_of(
        configured(
            "qwen2.5-vl-32b",
            "--speculation.drafting.drafter self --speculation.drafting.keep-ratio 0.1",
        )
    )
    alone = plan_of(configured("qwen2.5-vl-32b", "--speculation.method none"))
    assert itself.ranks[0].draft == 0
    assert itself.ranks[0].kv == itself.ranks[1].kv > alone.ranks[0].kv
    pruned = plan_of(configured("qwen2.5-vl-32b", "--speculation.drafting.keep-ratio 0.1"))
    assert pruned.row_bytes < both.row_bytes


def test_a_shared_gpu_is_shared(configured: Configured) -> None:
    flags = "--tensor-parallel-size 1 --cluster.captioner-gpus 0.5"
    assert plan_of(configured("qwen2.5-vl-32b", flags)).memory_bytes == int(39.5 * GIB)


def test_the_report_names_both_kinds_of_rank_and_the_sources(configured: Configured) -> None:
    config = configured("qwen2.5-vl-72b")
    pair = Pair.of(config)
    text = report(reckon(config, pair), pair)
    assert "each of ranks 1 to 7" in text
    assert "sizes of Qwen/Qwen2.5-VL-72B-Instruct: the published config, shipped here" in text
    assert max(map(len, text.splitlines()[:-1])) <= 100


def test_the_table_of_the_docs_is_true(configured: Configured) -> None:
    """docs/preflight.md: every row as the code reckons it."""
    text = (PROJECT_ROOT / "docs" / "preflight.md").read_text()
    for recipe in RECIPES:
        for num_ranks in (2, 4, 8):
            plan = plan_of(configured(recipe, ranks(num_ranks)))
            first, others = plan.ranks
            gib = [first.target.total, first.draft, plan.row_bytes, first.activations,
                   first.total, others.total]  # fmt: skip
            amounts = " | ".join(f"{num_bytes / GIB:.1f}" for num_bytes in gib)
            rows = f"{plan.num_rows} of 8" if plan.fits else "no"
            assert f"| {recipe} | {num_ranks} | {amounts} | {rows} |" in text
