"""Guards the oracle: strict where a fact is at stake, and in step with the rule it serves."""

import math

import pytest
import torch

from pipeline.benchmark.methods import oracle_anchors
from pipeline.benchmark.oracle import FactOracle, kind_of_verb, oracle_of, touches_fact
from pipeline.config import GenerationConfig
from pipeline.decoding.acceptance import TokenKind, VerifiedBlock
from pipeline.decoding.calibration import resolve
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.rules import Rules, Vocabulary
from pipeline.decoding.session import PrefillOutput
from pipeline.models.scripted import scripted_prompt

TEXT = "a the small big red blue circle moves slides left right we see there on it stays is"
WORDS = ["<end>", *TEXT.split()]
ID = {word: n for n, word in enumerate(WORDS)}
END = frozenset([0])


def ids(text):
    return [ID[word] for word in text.split()]


def decode_text(token_ids):
    return " ".join(WORDS[token] for token in token_ids)


def block(drafted, choices):
    return VerifiedBlock(ids(drafted), ids(choices), torch.zeros(1 + len(ids(drafted)), len(WORDS)))


@pytest.mark.parametrize(
    ("text", "word", "is_fact"),
    [
        ("there is a small red circle on it", "red", True),
        ("there is a small red circle on it", "there", False),
        ("it moves left and then it stays there", "moves", False),
        ("a small red circle moves left and it stays there", "left", True),
        ("a small red", "red", True),  # cut off: every visual word is taken for a fact
        ("a small", "a", False),
        ("a small red circle, bl", "bl", True),  # blinking, of which a token is the beginning
        ("a small red circle, grow and it stays there", "grow", True),
    ],
)
def test_facts_are_told_by_their_context(text, word, is_fact):
    start = text.index(word)
    assert touches_fact(text, start, start + len(word)) is is_fact


def test_the_drafted_and_the_targets_token_both_count():
    """A detail that the draft invents, one that it misses, a filler, and the end."""
    oracle = FactOracle(ids("we see"), decode_text, END)
    scores = oracle(block("a small red circle moves", "the small blue circle slides it"))
    assert [math.isinf(s) for s in scores] == [False, False, True, False, False]
    oracle = FactOracle(ids("we see"), decode_text, END)
    ended = oracle(VerifiedBlock([0], [ID["it"], 0], torch.zeros(2, len(WORDS))))
    assert math.isinf(ended[0])


def test_the_oracle_follows_the_caption_as_the_rule_decides_it():
    method = oracle_anchors()
    rules = Rules(
        resolve(method.at(4), None, num_layers=2),
        GenerationConfig(),
        Vocabulary(WORDS, END, END),
        score_of_row=oracle_of(decode_text, END),
    )
    prompt = scripted_prompt([5, 6], num_visual_tokens=2)
    first = torch.zeros(len(WORDS))
    first[ID["we"]] = 1.0
    prefill = PrefillOutput(first)
    request = CaptionRequest("clip", prompt, prompt)
    rule = rules.of(None)(request, prefill)
    oracle = oracle_of(decode_text, END)(request, prefill)
    caption = ids("we")
    for drafted, choices in [
        ("see a small", "see the small red"),  # a filler passes
        ("circle moves right", "circle slides left it"),  # the fact does not
        ("it moves", "it is there"),
    ]:
        given = block(drafted, choices)
        acceptance = rule(given)
        oracle(given)
        caption += given.drafted[: acceptance.num_accepted]
        caption.append(given.choices[acceptance.num_accepted])
        assert oracle.token_ids == caption
    assert decode_text(caption) == "we see a small red circle moves left it moves there"
    assert TokenKind.RELAXED in acceptance.kinds or acceptance.num_accepted == 2


def test_a_verb_of_another_kind_of_motion_is_at_stake():
    """ "stays" leaves no place for "left"; "slides" for "moves" is a matter of style."""
    assert kind_of_verb("slides") == kind_of_verb("mo") == "glide"
    assert kind_of_verb("stay") == kind_of_verb("remains") == "rest"
    assert kind_of_verb("h") is None  # holds or heads
    assert kind_of_verb("the") is None
    assert kind_of_verb("") is None
