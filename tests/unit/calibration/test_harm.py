"""Guards which mismatches are harmful: those that lead to a caption of other facts, no others."""

from collections import Counter

import numpy as np
import pytest

from pipeline.calibration.harm import harmful
from pipeline.calibration.mismatches import Mismatch, continued, find_mismatches
from pipeline.calibration.reading import TargetCaption
from pipeline.calibration.sample_truth import true_facts
from pipeline.decoding.facts import VisualWords
from pipeline.decoding.row import StopRule
from pipeline.models.scripted import EOS_TOKEN_ID
from tests.unit.calibration.planted import PlantedVideoLM, clip_request

WORDS = (
    *("<end>", "<video>", "it", "is", "a", "small", "large", "red", "blue", "circle", "square"),
    *("which", "that", "drifts", "heads", "left", "right", "away", "."),
)
IDS = {word: token for token, word in enumerate(WORDS)}
VISUAL = {"small", "large", "red", "blue", "circle", "square", "left", "right"}


def tokens_of(text):
    return (*(IDS[word] for word in text.split()), EOS_TOKEN_ID)


def decode_text(token_ids):
    return " ".join(WORDS[token] for token in token_ids if token != EOS_TOKEN_ID)


def captions_of(*texts):
    return [TargetCaption(clip_request(5 + i), tokens_of(t)) for i, t in enumerate(texts)]


def judged(captions, endings, extractor=true_facts):
    """Of mismatches that lead to (index of the caption, text)."""
    mismatches = [Mismatch(index, 1, 0, 0) for index, _ in endings]
    texts = [tokens_of(text) for _, text in endings]
    return harmful(captions, mismatches, texts, extractor, decode_text).tolist()


OWN = "it is a small red circle . it drifts left ."


@pytest.mark.parametrize(
    ("ending", "is_harmful"),
    [
        (OWN, False),
        ("a small red circle heads left", False),  # other words, other sentences
        ("it is a small blue circle . it drifts left .", True),  # another fact
        ("it is a small red circle . it drifts .", True),  # a fact is missing
        ("it is a small red circle . it drifts left right .", True),  # a fact too many
        ("it is . it drifts .", True),  # nothing is left of it
        ("right away it is a small red circle . it drifts left .", False),  # says nothing of it
    ],
)
def test_harm_is_another_fact_one_less_or_one_more(ending, is_harmful):
    assert judged(captions_of(OWN), [(0, ending)]) == [is_harmful]


def test_each_mismatch_is_judged_by_its_own_caption_in_order():
    captions = captions_of("a small red circle", "a large blue square")
    endings = [(1, "a small red circle"), (0, "a small red circle"), (1, "a large blue square")]
    assert judged(captions, endings) == [True, False, False]


def test_what_states_nothing_can_only_be_harmed_by_a_fact():
    captions = captions_of("it is .")
    endings = [(0, "it is that ."), (0, "it is a small red circle")]
    assert judged(captions, endings) == [False, True]


def test_the_extractor_tells_what_a_fact_is():
    """Visual words: "blue" more is harm, "away" is not; and by ids alone, whatever the text is."""
    words = VisualWords(WORDS, [float(word in VISUAL) for word in WORDS], 0.5)
    endings = [(0, "it is a red circle away"), (0, "it is a red blue circle")]
    assert judged(captions_of("it is a red circle"), endings, words) == [False, True]


def test_one_fact_of_many_is_enough():
    own = ["red"] * 50
    captions = captions_of(" ".join(own))
    one_blue = " ".join(["blue", *own[1:]])

    def extractor(token_ids, text):
        return Counter((word,) for word in text.split())

    assert judged(captions, [(0, one_blue)], extractor) == [True]


def test_facts_are_counted_and_told_of_ids_and_their_text():
    """Twice the same is not once; the extractor gets both, the end of sequence included."""
    seen = []

    def extractor(token_ids, text):
        seen.append((tuple(token_ids), text))
        return Counter((word,) for word in text.split())

    assert judged(captions_of("red red"), [(0, "red"), (0, "red red")], extractor) == [True, False]
    assert {(tokens_of(text), text) for text in ("red red", "red")} == set(seen)


def test_no_mismatch_is_an_empty_mask():
    """It is used as a mask: an empty list of no type would not do."""
    found = harmful(captions_of(OWN), [], [], true_facts, decode_text)
    assert found.dtype == bool
    assert found.shape == (0,)
    assert np.zeros(0)[found].shape == (0,)


def test_a_missing_ending_is_an_error():
    with pytest.raises(ValueError):
        harmful(captions_of(OWN), [Mismatch(0, 1, 0, 0)], [], true_facts, decode_text)


def test_planted_slips_of_a_draft_are_told_apart():
    """The draft takes the circle for blue, and says "that" for "which"; the target goes on from
    either with the same words, so that only one of them states other facts."""
    own = tokens_of("it is a small red circle which drifts left .")
    slips = {IDS["red"]: IDS["blue"], IDS["which"]: IDS["that"]}
    target = PlantedVideoLM(lambda _, ids: own[len(ids)], words=WORDS)
    draft = PlantedVideoLM(lambda _, ids: slips.get(own[len(ids)], own[len(ids)]), words=WORDS)
    captions = [TargetCaption(clip_request(5), own)]
    mismatches = find_mismatches(draft, captions, lambda done: None)
    assert [WORDS[m.drafted] for m in mismatches] == ["blue", "that"]
    stop = StopRule(target.eos_token_ids, 30)
    endings = continued(target, captions, mismatches, stop, lambda done: None)
    harm = harmful(captions, mismatches, endings, true_facts, target.decode_text)
    assert harm.tolist() == [True, False]
