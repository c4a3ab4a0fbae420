"""Guards the calibration job on the real pair: its file is taken by the captioning job."""

import json

import pyarrow.dataset

from jobs import calibrate
from pipeline.decoding.calibration import load_calibration
from pipeline.sample_world.corpus import CorpusPlan, write_corpus
from tests.integration.conftest import run_job


def test_a_calibration_is_made_and_used(tmp_path, monkeypatch):
    """A few clips are enough to see that everything fits; the choice itself means little.

    A damaged file is passed over, if it comes before enough good ones: by hash of its path.
    """
    monkeypatch.setattr("pipeline.calibration.candidates.MAX_LAYERS", 2)
    list(write_corpus(tmp_path, CorpusPlan(9, num_damaged=1, seed=77)))
    file = tmp_path / "pair.json"
    arguments = ["--recipe", "reference", "--input", str(tmp_path / "videos")]
    wanted = ["--num-clips", "5", "--num-report-clips", "3", "--facts", "sample-world"]
    assert calibrate.main([*arguments, "--output", str(file), *wanted]) == calibrate.EXIT_DONE
    calibration, lexicon = load_calibration(file)
    assert calibration.num_speculative_tokens >= 1
    assert 0.9 < lexicon.max() <= 1
    report = file.with_suffix(".md").read_text()
    assert f"scope {calibration.anchors.quantile_scope}" in report
    assert "word oracle" in report

    loose = ["--speculation.method", "safe", "--calibration", str(file)]
    output = ["--output", str(tmp_path / "captions"), "--runner", "local"]
    done = run_job(*arguments, *output, *loose, "--failures.max-share", "1")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["num_captions"] == 9
    (dataset,) = (tmp_path / "captions").iterdir()
    rows = pyarrow.dataset.dataset(dataset / "captions").to_table().to_pylist()
    assert len(rows) == 9
    for row in rows:
        assert row["drafted_tokens"] >= row["accepted_tokens"] > 0
        assert row["relaxed_share"] == calibration.anchors.relaxed_share
