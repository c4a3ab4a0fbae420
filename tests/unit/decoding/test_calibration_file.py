"""Guards the calibration file: it loads as it was saved, says what is wrong, and fills settings."""

import numpy as np
import pytest

from pipeline.decoding.calibration import (
    CalibrationError,
    PairIdentity,
    calibration_digest,
    lexicon_path,
    load_calibration,
    resolve,
)
from pipeline.speculation_config import SpeculationConfig
from tests.calibration_files import write_calibration


@pytest.fixture
def path(tmp_path):
    write_calibration(
        tmp_path / "pair.json", vocab_size=5, num_speculative_tokens=9, confidence_threshold=0.6
    )
    return tmp_path / "pair.json"


def test_it_loads_as_it_was_saved(path):
    calibration, lexicon = load_calibration(path)
    assert calibration.num_speculative_tokens == 9
    assert lexicon.tolist() == [0.5] * 5
    calibration.check_pair(PairIdentity(target_revision="t", draft_revision="d", vocab_size=5))


@pytest.mark.parametrize(
    ("target", "draft", "vocab_size"), [("s", "d", 5), ("t", "e", 5), ("t", "d", 6), ("s", None, 5)]
)
def test_it_refuses_another_pair(path, target, draft, vocab_size):
    other = PairIdentity(target_revision=target, draft_revision=draft, vocab_size=vocab_size)
    with pytest.raises(CalibrationError, match=r"run jobs/calibrate\.py for this pair"):
        load_calibration(path)[0].check_pair(other)


def test_without_a_draft_it_is_of_the_target(path):
    alone = PairIdentity(target_revision="t", draft_revision=None, vocab_size=5)
    load_calibration(path)[0].check_pair(alone)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "can't be read"),
        (lambda path: path.write_text("{"), "can't be read"),
        (lambda path: path.write_text('{"pair": 1}'), "can't be read"),
        (lambda path: lexicon_path(path).unlink(), "can't be read"),
        (lambda path: np.save(lexicon_path(path), np.ones(4, np.float32)), "expected"),
    ],
)
def test_damage_is_an_error_that_names_the_file(path, damage, message):
    damage(path)
    with pytest.raises(CalibrationError, match=message) as caught:
        load_calibration(path)
    assert "pair" in str(caught.value)


def test_its_digest_covers_both_files(path):
    before = calibration_digest(path)
    np.save(lexicon_path(path), np.full(5, 0.25, np.float32))
    assert calibration_digest(path) != before


def test_what_is_set_wins_over_the_calibration_and_that_over_the_defaults(path):
    calibration, _ = load_calibration(path)

    def resolved(calibration, **settings):
        config = SpeculationConfig.model_validate({"method": "safe", **settings})
        found = resolve(config, calibration, num_layers=8)
        return found.num_speculative_tokens, found.drafting.confidence_threshold

    assert resolved(None) == (4, 0.0)
    assert resolved(calibration) == (9, 0.6)
    own = {"num_speculative_tokens": 2, "drafting": {"confidence_threshold": 0.1}}
    assert resolved(calibration, **own) == (2, 0.1)
    # How drafts are made was chosen for the loose rule: an exact chain wants shorter ones.
    assert resolved(calibration, method="exact") == (4, 0.0)
