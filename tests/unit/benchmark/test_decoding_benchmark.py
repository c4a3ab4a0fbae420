"""Guards the benchmark's book-keeping on scripted models: who ran when, and what is reported."""

import json
from datetime import date

import pytest
import torch

from pipeline.benchmark import decoding
from pipeline.benchmark.decoding import PLAIN, BenchmarkClip, measure, standard_methods
from pipeline.benchmark.report import hardware, markdown, table, write_summary
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.request import CaptionRequest
from pipeline.models.scripted import Script, ScriptedVideoLM
from tests.make_records import clip_spec, decoded_clip

K = 3
NUM_CLIPS = 7


def clips(score=lambda text: 1.0):
    model = ScriptedVideoLM(Script())
    benchmark_clips = []
    for index in range(NUM_CLIPS):
        clip = decoded_clip(clip_spec(f"{index}.mp4"), seed=index)
        inputs = model.prepare(clip, PromptConfig())
        benchmark_clips.append(BenchmarkClip(CaptionRequest(clip.clip_id, inputs, inputs), score))
    return benchmark_clips


def results(agreement=0.7, batch=2, max_tokens=30, **options):
    return measure(
        ScriptedVideoLM(Script()),
        ScriptedVideoLM(Script(agreement=agreement)),
        GenerationConfig(max_tokens=max_tokens),
        standard_methods([1, K]),
        clips(**options),
        batch,
    )


def test_methods_take_turns_in_being_first(monkeypatch):
    """Warm-up by each; then every batch by all, starting with the next one each time."""
    calls = []

    class RecordingEngine(CaptionEngine):
        def caption(self, requests):
            calls.append((self._speculation.num_speculative_tokens, len(requests)))
            return super().caption(requests)

    monkeypatch.setattr(decoding, "CaptionEngine", RecordingEngine)
    plain = standard_methods([])[0].speculation.num_speculative_tokens
    results(batch=3)
    order = [name for name, _ in calls]
    assert order[:3] == [plain, 1, K]
    assert order[3:] == [plain, 1, K, 1, K, plain, K, plain, 1]
    assert [size for _, size in calls] == [3] * 3 + [3] * 3 + [3] * 3 + [1] * 3


def test_every_method_is_reported_once_for_all_clips():
    reported = results()
    assert [r.method for r in reported] == [PLAIN, "exact K=1", f"exact K={K}"]
    for r in reported:
        assert (r.batch, r.num_clips, r.speed_up.num_samples) == (2, NUM_CLIPS, NUM_CLIPS)
        assert r.speed_up.low <= r.speed_up.value <= r.speed_up.high
        assert r.same_text_share == 1.0
        assert r.tokens_per_s > 0
        assert r.clips_per_min > 0
    assert (reported[0].speed_up.value, reported[0].speed_up_with_prefill.high) == (1.0, 1.0)


def test_the_accepted_length_follows_the_drafts_agreement():
    always, never = results(agreement=1.0), results(agreement=0.0)
    assert [r.mean_accepted_length for r in never] == [0.0, 0.0, 0.0]
    assert always[0].mean_accepted_length == 0.0
    # Less than 1 and K: a caption that ends leaves no room for a whole block.
    assert 0.8 < always[1].mean_accepted_length <= 1
    assert 1 < always[2].mean_accepted_length <= K


def test_a_method_that_says_something_else_is_found_out(monkeypatch):
    """The check must be able to fail: the first clip's caption by K=1 is changed here."""
    caption = CaptionEngine.caption
    first = clips()[0].request.clip_id

    def changed(self, requests):
        captions = caption(self, requests)
        if self._speculation.num_speculative_tokens == 1 and requests[0].clip_id == first:
            object.__setattr__(captions[0], "token_ids", (9, 9))
        return captions

    monkeypatch.setattr(CaptionEngine, "caption", changed)
    shares = [r.same_text_share for r in results()]
    assert shares == [1.0, pytest.approx(1 - 1 / NUM_CLIPS), 1.0]


def test_right_facts_are_the_mean_score_of_the_captions():
    texts = []

    def score(text):
        texts.append(text)
        return 0.25

    for r in results(score=score):
        assert (r.facts_right.value, r.facts_right.low, r.facts_right.high) == (0.25,) * 3
    assert len(texts) == 3 * NUM_CLIPS
    assert all(text.startswith("w") for text in texts)


def test_the_summary_has_its_keys_and_keeps_those_of_others(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"cluster": {"videos_per_min": 7}, "commit": "old"}))
    reported = [*results(batch=1), *results(batch=2)]
    write_summary(path, reported, day=date(2026, 11, 22), commit="abc")
    summary = json.loads(path.read_text())
    assert summary["cluster"] == {"videos_per_min": 7}
    assert (summary["commit"], summary["date"]) == ("abc", "2026-11-22")
    assert summary["hardware"] == hardware()
    assert list(summary["decoding"]) == [PLAIN, "exact K=1", f"exact K={K}"]
    for batches in summary["decoding"].values():
        assert list(batches) == ["1", "2"]
        for numbers in batches.values():
            assert set(numbers) == {
                "speedup", "speedup_low", "speedup_high", "tokens_per_s", "clips_per_min",
                "mean_accepted_length", "same_text", "facts_right", "facts_right_low",
                "facts_right_high", "n",
            }  # fmt: skip
            assert numbers["n"] == NUM_CLIPS


def test_a_first_summary_needs_no_file(tmp_path):
    write_summary(tmp_path / "summary.json", results(), day=date(2026, 1, 2), commit="abc")
    assert "decoding" in json.loads((tmp_path / "summary.json").read_text())


def test_the_report_names_what_ran_and_has_a_row_for_each_method():
    reported = results()
    report = markdown(
        reported, day=date(2026, 1, 2), command="python x.py", setting="7 clips", commit="abc"
    )
    for part in ("2026-01-02", "`python x.py`", "commit: abc", hardware(), "setting: 7 clips"):
        assert part in report
    rows = table(reported).splitlines()
    assert len(rows) == 2 + len(reported)
    assert rows[2].startswith(f"| 2 | {PLAIN} | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] |")
    assert {row.count("|") for row in rows} == {10}


@pytest.mark.parametrize(
    ("names", "said"), [([], "no GPU"), (["H100", "H100", "L4"], "2 x H100, 1 x L4")]
)
def test_the_hardware_is_what_torch_sees(monkeypatch, names, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    assert hardware().endswith(f" cores, {said}")
