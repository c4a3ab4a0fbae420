"""Guards the order of the benchmark: who decodes what when, and what tuning looks at."""

import pytest

from pipeline.benchmark.interleaved import Entry, decode_in_turn, group_size
from pipeline.benchmark.tuning import CANDIDATES, best_of, tune
from tests.benchmark_runs import clip_run


class Recorder:
    """A contestant that writes down what it is asked; ``decode_s`` is its time for a clip."""

    def __init__(self, name, calls, decode_s=1.0):
        self.name = name
        self.calls = calls
        self.decode_s = decode_s

    def caption(self, clips, first):
        self.calls.append((self.name, first, len(clips)))
        return [clip_run(first + n, decode_s=self.decode_s) for n in range(len(clips))]


class Refuser:
    def caption(self, clips, first):
        raise ValueError("not with this batch")


def run(entries, num_clips, batch):
    lines = []
    outcome = decode_in_turn(
        entries, list(range(num_clips)), list(range(batch)), batch, "main", lines.append
    )
    return outcome, lines


def test_methods_take_turns_in_being_first():
    calls = []
    entries = {name: Entry(Recorder(name, calls)) for name in "abc"}
    outcome, lines = run(entries, num_clips=14, batch=2)
    assert calls[:3] == [("a", 0, 2), ("b", 0, 2), ("c", 0, 2)]  # the warm-up
    assert [name for name, _, _ in calls[3:]] == list("abc" + "bca" + "cab")
    assert [(first, size) for _, first, size in calls[3::3]] == [(0, 6), (6, 6), (12, 2)]
    for name in "abc":
        assert [r.clip for r in outcome.runs[name]] == list(range(14))
    assert lines == ["main, clips: 14/14, 0 s elapsed, 0 s left"]


def test_alone_every_clip_is_a_turn():
    assert group_size(1) == 1
    assert group_size(8) == 24


def test_slow_methods_sit_turns_out():
    calls = []
    entries = {"a": Entry(Recorder("a", calls)), "slow": Entry(Recorder("slow", calls), every=4)}
    outcome, _ = run(entries, num_clips=6, batch=1)
    assert [r.clip for r in outcome.runs["slow"]] == [0, 4]
    assert len(outcome.runs["a"]) == 6


def test_a_method_that_refuses_is_left_out_and_named():
    outcome, lines = run({"a": Entry(Recorder("a", [])), "no": Entry(Refuser())}, 3, 1)
    assert set(outcome.runs) == {"a"}
    assert outcome.refused == {"no": "ValueError: not with this batch"}
    assert lines[0] == "main: no refuses: ValueError: not with this batch"


@pytest.mark.parametrize(("start", "peak"), [(5, 8), (5, 5), (10, 1), (7, 16), (1, 1), (16, 16)])
def test_tuning_walks_uphill_to_the_best_k(start, peak):
    asked = []

    def contestant_at(k):
        asked.append(k)
        return Recorder(str(k), [], decode_s=1.0 + 0.1 * abs(k - peak))

    rates = tune(contestant_at, list(range(4)), [0], 1, start, "tuning", lambda line: None)
    assert best_of(rates) == peak
    assert sorted(set(asked)) == sorted(asked), "a K was timed twice"
    place = CANDIDATES.index(peak)
    assert set(CANDIDATES[max(0, place - 1) : place + 2]) <= set(rates)


def test_tuning_tells_that_a_method_refuses():
    with pytest.raises(ValueError, match="not with this batch"):
        tune(lambda k: Refuser(), [0], [0], 1, 5, "tuning", lambda line: None)


def test_of_equal_rates_the_smaller_k_is_taken():
    assert best_of({8: 2.0, 4: 2.0, 6: 1.0}) == 4
