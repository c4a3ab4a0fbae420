"""Guards pruning: survivors keep their place in the video, and the text is whole."""

from itertools import pairwise

import pytest
import torch

from pipeline.decoding.pruning import num_kept, prune, pruned_length, spread_evenly
from pipeline.decoding.session import ModelInputs
from pipeline.models.scripted import scripted_prompt
from pipeline.speculation_config import PruningPolicy

UNIFORM, ATTENTION = PruningPolicy.UNIFORM, PruningPolicy.ATTENTION


def prompt(num_visual=20):
    """Text, video, text; three axes of positions that tell every token apart."""
    num_tokens = num_visual + 5
    visual_mask = torch.zeros(num_tokens, dtype=torch.bool)
    visual_mask[2 : 2 + num_visual] = True
    positions = torch.stack([torch.arange(num_tokens) * scale for scale in (1, 100, 10_000)])
    return ModelInputs(torch.arange(num_tokens) + 50, positions, visual_mask, 77, {})


def test_uniform_keeps_tokens_spread_over_the_video():
    pruned = prune(prompt(), 0.2, UNIFORM)
    assert pruned.kept_visual.nonzero().flatten().tolist() == [2, 7, 12, 17]
    kept = [0, 1, 4, 9, 14, 19, 22, 23, 24]
    assert pruned.token_ids.tolist() == [50 + place for place in kept]
    assert pruned.position_ids.tolist() == [[s * p for p in kept] for s in (1, 100, 10_000)]
    assert pruned.visual_mask.tolist() == [False] * 2 + [True] * 4 + [False] * 3
    assert pruned.next_position == 77
    assert pruned.num_tokens == pruned_length(prompt(), 0.2) == 9


def test_attention_keeps_the_most_attended_in_their_order():
    attention = torch.zeros(20)
    attention[[3, 19, 8]] = torch.tensor([0.3, 0.9, 0.5])
    pruned = prune(prompt(), 0.15, ATTENTION, attention)
    assert pruned.kept_visual.nonzero().flatten().tolist() == [3, 8, 19]
    assert pruned.token_ids.tolist() == [50, 51, 55, 60, 71, 72, 73, 74]


def test_all_tokens_are_the_prompt_itself():
    inputs = prompt()
    assert prune(inputs, 1.0, ATTENTION) is inputs
    assert prune(prompt(1), 0.01, UNIFORM).num_visual_tokens == 1
    text = scripted_prompt([4, 5])
    assert prune(text, 0.1, ATTENTION) is text
    assert pruned_length(text, 0.1) == 2


def test_at_least_one_token_is_kept():
    assert [num_kept(m, 0.1) for m in (0, 1, 4, 15, 26, 1000)] == [0, 1, 1, 2, 3, 100]
    assert prune(prompt(), 0.001, UNIFORM).kept_visual.nonzero().flatten().tolist() == [10]


@pytest.mark.parametrize("num_all", [1, 7, 64])
def test_evenly_spread_indices_are_different_and_centred(num_all):
    for num_chosen in range(1, num_all + 1):
        chosen = spread_evenly(num_all, num_chosen).tolist()
        assert len(set(chosen)) == num_chosen
        assert chosen == sorted(chosen)
        assert chosen[0] >= 0
        assert chosen[-1] < num_all
        gaps = {after - before for before, after in pairwise(chosen)}
        assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("attention", [None, torch.zeros(19)])
def test_attention_of_another_video_is_refused(attention):
    with pytest.raises(ValueError, match="20 visual tokens by attention"):
        prune(prompt(), 0.5, ATTENTION, attention)


def test_positions_of_one_axis():
    pruned = prune(scripted_prompt([4, 5], 4), 0.5, UNIFORM)
    assert pruned.position_ids.tolist() == [1, 3, 4, 5]
