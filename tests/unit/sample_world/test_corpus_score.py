"""Guards the demo's verdict: every file of the corpus has the one row that it should have."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sample_world.corpus_score import score_corpus
from pipeline.sample_world.facts import scene_facts
from pipeline.sample_world.grammar import write_caption
from pipeline.sample_world.scene import sample_scene

GOOD = ("a.mp4", "b.mp4")
DAMAGED = "damaged-0.mp4"


@pytest.fixture(scope="module")
def right_captions():
    """A correct caption of each good file."""
    return {
        name: write_caption(sample_scene(seed), random.Random(seed)).text
        for seed, name in enumerate(GOOD)
    }


@pytest.fixture
def corpus(tmp_path):
    """Names and facts of two good files and a damaged one; the score opens no video."""
    folder = tmp_path / "corpus"
    (folder / "videos").mkdir(parents=True)
    for name in (*GOOD, DAMAGED):
        (folder / "videos" / name).touch()
    lines = [
        {"file": name, "facts": sorted(scene_facts(sample_scene(seed)))}
        for seed, name in enumerate(GOOD)
    ]
    lines.append({"file": DAMAGED, "damage": "truncated"})
    (folder / "facts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def score(tmp_path, corpus):
    """Score a data set of (file, caption) pairs and of failed files."""

    def write(folder, **columns):
        folder.mkdir(parents=True)
        pq.write_table(pa.table(columns), folder / "part-00000001.parquet")

    def run(captions, failures):
        dataset = tmp_path / "dataset"
        write(
            dataset / "captions",
            source_uri=[f"s3://bucket/videos/{name}" for name, _ in captions],
            caption=[text for _, text in captions],
        )
        if failures:
            uris = [f"s3://bucket/videos/{name}" for name in failures]
            write(dataset / "failures", source_uri=uris)
        return score_corpus(dataset, corpus)

    return run


def test_a_complete_data_set(score, right_captions):
    result = score(list(right_captions.items()), [DAMAGED])
    assert result.is_complete
    assert result.num_files == 3
    assert (result.facts_right.value, result.facts_right.num_samples) == (1.0, 2)


def test_wrong_captions_are_complete_and_score_low(score, right_captions):
    result = score([("a.mp4", right_captions["a.mp4"]), ("b.mp4", "Nothing.")], [DAMAGED])
    assert result.is_complete
    assert result.facts_right.value == 0.5


def test_a_missing_file(score, right_captions):
    result = score([("a.mp4", right_captions["a.mp4"])], [DAMAGED])
    assert result.missing == ("b.mp4",)
    assert not result.is_complete


def test_a_damaged_file_may_not_be_missing_either(score, right_captions):
    result = score(list(right_captions.items()), [])
    assert result.missing == (DAMAGED,)
    assert not result.is_complete


@pytest.mark.parametrize("twice", ["captioned", "failed", "both"])
def test_a_repeated_file(score, right_captions, twice):
    captions, failures = list(right_captions.items()), [DAMAGED]
    if twice == "captioned":
        captions.append(captions[0])
    else:
        failures.append({"failed": DAMAGED, "both": "a.mp4"}[twice])
    result = score(captions, failures)
    assert result.repeated == ((DAMAGED,) if twice == "failed" else ("a.mp4",))
    assert not result.is_complete


def test_a_good_file_that_failed(score, right_captions):
    result = score([("a.mp4", right_captions["a.mp4"])], [DAMAGED, "b.mp4"])
    assert result.failed_good_files == ("b.mp4",)
    assert not result.is_complete


@pytest.mark.parametrize("name", [DAMAGED, "stranger.mp4"])
def test_a_captioned_file_that_has_no_true_caption(score, right_captions, name):
    """It is told, and enters no mean."""
    failures = [] if name == DAMAGED else [DAMAGED]
    result = score([*right_captions.items(), (name, "A red circle.")], failures)
    assert result.captioned_damaged_files == (name,)
    assert not result.is_complete
    assert (result.facts_right.value, result.facts_right.num_samples) == (1.0, 2)


def test_no_caption_at_all_has_no_score(score):
    with pytest.raises(ValueError, match="at least one sample"):
        score([], [DAMAGED])
