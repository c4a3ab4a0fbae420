"""Guards what the benchmark's figures mean, on results that can be reckoned in the head."""

import dataclasses

import pytest

from pipeline.benchmark.figures import figures_of
from pipeline.benchmark.methods import EXACT, LVSPEC, PLAIN
from pipeline.benchmark.runs import MethodRuns, load, load_all, save
from tests.benchmark_runs import BLUE, RED, clip_run, drafted_run, part_runs


def figures(part=None, **options):
    return {f.method: f for f in figures_of(part or part_runs(), **options)}


def test_speed_ups_are_against_plain_decoding_of_the_same_clips():
    exact = figures()[EXACT]
    assert exact.speed_up.value == pytest.approx(2.0)  # 1 s instead of 2
    assert exact.end_to_end.value == pytest.approx(4 / 3)  # 3 s instead of 4
    assert exact.clips_ratio.value == pytest.approx(4 / 3)
    assert exact.tokens_per_s == pytest.approx(20.0)
    assert exact.clips_per_min == pytest.approx(20.0)
    assert (exact.num_clips, exact.speed_up.num_samples) == (4, 4)


def test_a_shorter_caption_is_no_speed_but_for_clips_per_minute():
    """Half the tokens in half the time: the same tokens/s, and more clips/min."""
    short = drafted_run(0, tokens=10, decode_s=1.0)
    part = part_runs()
    part = dataclasses.replace(part, methods=(part.methods[0], MethodRuns("short", 4, (short,))))
    reported = figures(part)["short"]
    assert reported.speed_up.value == pytest.approx(1.0)
    assert reported.clips_ratio.value > 1
    assert reported.length_ratio == pytest.approx(0.5)


def test_accepted_length_leaves_the_bonus_out():
    exact = figures()[EXACT]
    assert exact.mean_accepted_length == pytest.approx(14 / 5)
    assert exact.tokens_per_step == pytest.approx(19 / 5)  # the first token is the prefill's
    assert exact.accepted_histogram == (0, 4, 4, 4, 8)
    assert exact.disagreement == pytest.approx(2 / 20)


def test_facts_kept_are_against_the_plain_caption_and_facts_right_against_the_video():
    reported = figures()
    assert reported[EXACT].facts_kept.value == 1.0
    assert 0.8 < reported[LVSPEC].facts_kept.value < 1  # one of two clips has a wrong colour
    assert reported[LVSPEC].facts_right.value < 1
    assert reported[LVSPEC].same_text == 0.5
    assert reported[LVSPEC].num_clips == 2
    # The wrong colour is as bad whatever plain decoding says; what is kept is another matter.
    part = part_runs()
    plain = MethodRuns(PLAIN, None, tuple(clip_run(n, BLUE) for n in range(4)))
    reported = figures(dataclasses.replace(part, methods=(plain, *part.methods[1:])))
    assert reported[EXACT].facts_right.value == 1.0
    assert reported[EXACT].facts_kept.value < 1


def test_time_shares_add_up_to_the_wall_clock():
    time = figures()[EXACT].time
    assert sum(dataclasses.astuple(time)) == pytest.approx(1.0)
    assert time.other == pytest.approx(1.1 / 3)
    assert figures()[EXACT].scoring_share == pytest.approx(0.1)


def test_peers_tell_no_counts():
    plain = figures()[PLAIN]
    assert (plain.mean_accepted_length, plain.tokens_per_step, plain.disagreement) == (None,) * 3
    assert plain.k == "-"


def test_a_chosen_k_is_reported_as_the_mean_that_was_drafted():
    part = part_runs()
    chosen = dataclasses.replace(part.methods[1], num_speculative_tokens=None)
    part = dataclasses.replace(part, methods=(part.methods[0], chosen))
    assert figures(part)[EXACT].k == "4.0 (chosen)"


def test_likeness_is_asked_of_the_plain_caption():
    asked = []

    def likeness(caption, reference):
        asked.append((caption, reference))
        return 50.0

    assert figures(likeness=likeness)[LVSPEC].chrf == 50.0
    assert asked[-2:] == [(RED, RED), (BLUE, RED)]


def test_methods_that_refused_have_no_figures():
    assert list(figures()) == [PLAIN, EXACT, LVSPEC]


def test_results_survive_their_file(tmp_path):
    parts = [part_runs(batch=8), part_runs(batch=16), part_runs("frontier")]
    for part in reversed(parts):
        path = save(tmp_path, part)
        assert load(path) == part
    assert load_all(tmp_path) == [parts[2], parts[0], parts[1]]
