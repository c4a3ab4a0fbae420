"""Guards drafts from earlier text: the longest suffix, the newest place, a bounded memory."""

import pytest
import torch

from pipeline.decoding.ngram_proposer import NgramProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import PrefillOutput
from pipeline.models.scripted import scripted_prompt

EOS = 0
REQUEST = CaptionRequest("clip", scripted_prompt([5]), None)
PREFILL = PrefillOutput(torch.zeros(1))


def proposer(longest=3, shortest=2, remembers=False, max_corpus_tokens=100, rows=(0,)):
    lookup = NgramProposer(
        frozenset([EOS]),
        longest=longest,
        shortest=shortest,
        remembers=remembers,
        max_corpus_tokens=max_corpus_tokens,
    )
    for slot in rows:
        lookup.admit(slot, REQUEST, PREFILL)
        assert lookup.read_prompt(slot, 1) == (0, True)
    return lookup


def proposed(lookup, committed, wanted=4, slot=0):
    (proposal,) = lookup.propose([slot], [committed], [wanted])
    assert proposal.probs is None
    return list(proposal.token_ids)


def test_what_followed_the_suffix_is_proposed():
    lookup = proposer()
    assert proposed(lookup, [7, 8, 9]) == []
    assert proposed(lookup, [7, 8, 9, 6, 7, 8]) == [9, 6, 7, 8]
    assert proposed(lookup, [7, 8, 9, 6, 7, 8, 9], wanted=2) == [6, 7]


def test_the_longest_suffix_wins_and_then_its_newest_place():
    assert proposed(proposer(), [1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], wanted=1) == [4]
    assert proposed(proposer(longest=2), [1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], wanted=1) == [5]


def test_a_suffix_shorter_than_asked_is_not_looked_up():
    assert proposed(proposer(shortest=2), [7, 8, 9, 7]) == []
    assert proposed(proposer(shortest=1), [7, 8, 9, 7]) == [8, 9, 7]


def test_rejected_drafts_leave_no_trace():
    lookup = proposer()
    proposed(lookup, [7, 8, 9, 6, 7, 8])
    assert proposed(lookup, [7, 8, 9, 6, 7, 8, 5]) == []


def test_nothing_follows_an_end():
    lookup = proposer(remembers=True)
    lookup.release(0, [3, 4, 5, EOS])
    lookup.admit(0, REQUEST, PREFILL)
    assert proposed(lookup, [3, 4]) == [5, EOS]


def test_a_row_that_wants_nothing_gets_nothing():
    assert proposed(proposer(), [7, 8, 7, 8], wanted=0) == []


@pytest.mark.parametrize("remembers", [True, False])
def test_ended_captions_are_remembered_if_asked(remembers):
    lookup = proposer(remembers=remembers, rows=(0, 1))
    lookup.release(0, [3, 4, 5, 6, EOS])
    assert proposed(lookup, [9, 3, 4], slot=1) == ([5, 6, EOS] if remembers else [])


def test_the_rows_own_text_comes_before_that_of_others():
    lookup = proposer(remembers=True, rows=(0, 1))
    lookup.release(0, [3, 4, 5])
    assert proposed(lookup, [3, 4, 8, 3, 4], slot=1, wanted=1) == [8]


def test_the_oldest_captions_are_forgotten():
    lookup = proposer(remembers=True, max_corpus_tokens=8, rows=(0, 1, 2, 3))
    lookup.release(0, [11, 12, 13, 14])
    lookup.release(1, [21, 22, 23, 24])
    lookup.release(2, [31, 32, 33, 34])
    assert proposed(lookup, [11, 12], slot=3) == []
    lookup.release(3, [])
    lookup.admit(3, REQUEST, PREFILL)
    assert proposed(lookup, [21, 22], slot=3) == [23, 24]
    assert len(lookup._corpus_ends) == 2 * 3  # of each caption 1 triple and 2 pairs with a follower


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="prompt_lookup_min 4 > prompt_lookup_max 2"):
        proposer(longest=2, shortest=4)
