"""The pair in assets/ is the one that this code makes and describes."""

from pathlib import Path

import pytest

from pipeline.reference_pair.architecture import DRAFT_SHAPE, TARGET_SHAPE, build_model
from pipeline.reference_pair.card import model_card
from pipeline.reference_pair.curriculum import STAGES, StageCost
from pipeline.reference_pair.properties import (
    Agreement,
    Estimate,
    Latency,
    Properties,
    load_member,
    write_captions,
)
from pipeline.sample_world.facts import caption_facts, facts_right, scene_facts

PAIR = Path(__file__).parents[3] / "assets" / "reference_pair"


def test_the_pair_fits_the_size_limit_and_has_a_card():
    files = [path for path in PAIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64_000_000
    card = (PAIR / "README.md").read_text()
    assert card.startswith("---\nlicense:")
    assert "held-out" in card


@pytest.mark.parametrize(("name", "shape"), [("target", TARGET_SHAPE), ("draft", DRAFT_SHAPE)])
def test_members_have_the_shape_and_the_tokenizer_of_the_recipe(name, shape, tokenizer):
    model, processor = load_member(PAIR / name)
    expected = {key: value.shape for key, value in build_model(shape).state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == expected
    # A change of the grammar would change a newly built tokenizer, and strand the trained weights.
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_members_know_the_world(clips):
    right = {}
    for name in ("target", "draft"):
        model, processor = load_member(PAIR / name)
        captions = write_captions(model, processor, clips)
        shares = [
            facts_right(caption_facts(caption), scene_facts(clip.scene))
            for caption, clip in zip(captions, clips)
        ]
        right[name] = sum(shares) / len(shares)
    assert right["target"] >= 0.9
    assert right["draft"] >= 0.6


def test_the_card_states_what_was_measured():
    third = Estimate(1 / 3, 0.011)
    properties = Properties(
        split="test",
        num_clips=400,
        target_facts=third,
        target_all_facts=0.5,
        draft_facts=third,
        caption_tokens=Estimate(80.0, 1.0),
        caption_tokens_range=(60, 120),
        agreement=Agreement(third, third, 0.25),
        latency=Latency(0.001, 0.02, 0.03, 10),
    )
    card = model_card(
        properties,
        {name: StageCost(10, 320, 1.5) for name in STAGES},
        {"target": 25_000_000, "draft": 1_400_000},
        prompts=("Describe.",),
        num_frames=8,
        train_clips=512,
        seed=7,
        remark="The cat sat on the keyboard.",
    )
    for stated in ("33.3% ± 1.1%", "3000399", "0.050", "1.50", "(seed 7)", "25.0 M", "keyboard"):
        assert stated in card
    assert f"{1.5 * len(STAGES):.0f} CPU-minutes" in card
