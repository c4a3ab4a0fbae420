"""Guards that a gang of ranks captions as one process does, and is gone with its job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import dataset_problems, run_job
from tests.integration.test_caption_corpus import VOLATILE, dataset_folder, rows

SHARED_MEMORY = Path("/dev/shm")


def job(cluster, config, corpus, output, *arguments):
    return run_job(
        "--config", config, "--input", corpus, "--output", output, "--address", cluster.address,
        "--tensor-parallel-size", 2, *arguments,
    )  # fmt: skip


def lasting(folder: Path, table: str) -> list[dict]:
    """Rows without what two runs may differ in."""
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows(folder, table)]


def unused_shared_memory() -> set[str]:
    """DeepSpeed's buffers that no process has mapped: nobody will ever remove them."""
    names = {path.name for path in SHARED_MEMORY.glob("deepspeed_*")}
    for process in psutil.process_iter():
        try:
            names -= {Path(region.path).name for region in process.memory_maps()}
        except psutil.Error:
            continue
    return names


@pytest.mark.parametrize("method", ["exact", "safe"])
def test_two_ranks_give_the_rows_of_one_process(
    standing_cluster, corpus, write_config, tmp_path, method
):
    """All of them: captions token by token, failures of damaged files, and each just once."""
    config = write_config(speculation={"method": method})
    videos = corpus / "videos"
    one = run_job(
        "--config", config, "--input", videos, "--output", tmp_path / "one", "--runner", "local"
    )
    assert one.returncode == 0, one.stderr[-3000:]
    before = unused_shared_memory()
    two = job(standing_cluster, config, videos, tmp_path / "two")
    assert two.returncode == 0, two.stderr[-3000:]
    assert "a gang was lost" not in two.stdout
    folders = [dataset_folder(tmp_path / name) for name in ("one", "two")]
    assert folders[0].name == folders[1].name, "the config digest depends on the number of ranks"
    for table, num_rows in (("captions", 10), ("failures", 6)):
        alone, together = (lasting(folder, table) for folder in folders)
        assert len(alone) == num_rows
        assert together == alone
    assert dataset_problems(tmp_path / "two") == []
    standing_cluster.assert_nothing_left()
    assert unused_shared_memory() <= before


def test_number_of_ranks_that_does_not_divide_the_heads_is_told(
    standing_cluster, corpus, write_config, tmp_path
):
    """At once, by the loader's own words: building the gang anew would not help."""
    result = job(
        standing_cluster, write_config(), corpus / "videos", tmp_path / "out",
        "--tensor-parallel-size", 3,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout[-3000:]
    assert "num_key_value_heads 2 does not divide by models.tensor_parallel_size 3" in result.stderr
    assert "use one of [1, 2]" in result.stderr
    assert "Traceback" not in result.stderr
    standing_cluster.assert_nothing_left()


def test_error_of_the_captioning_stops_the_run(
    standing_cluster, corpus, write_config, tiny_pair, tmp_path
):
    """A draft whose configuration is wrong loads, and fails at the first video. All ranks are well
    then and a new gang would fail again: the error is raised as one process would raise it."""
    draft = shutil.copytree(tiny_pair[1], tmp_path / "draft")
    model_config = json.loads((draft / "config.json").read_text())
    model_config["video_token_id"] = model_config["image_token_id"]
    (draft / "config.json").write_text(json.dumps(model_config))
    result = job(
        standing_cluster, write_config(), corpus / "videos", tmp_path / "out",
        "--draft-model", draft,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout[-3000:]
    assert "ValueError: 8 video features for 0 placeholders" in result.stderr
    assert "GangError" not in result.stderr
    standing_cluster.assert_nothing_left()


def test_gang_that_never_starts_is_given_up(standing_cluster, corpus, write_config, tmp_path):
    """Ranks that can't meet are tried anew, and not for ever; the job says what they said."""
    result = job(
        standing_cluster, write_config(), corpus / "videos", tmp_path / "out",
        "--cluster.gang.network-interface", "nosuch0", "--cluster.gang.max-rebuilds", 1,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout[-3000:]
    assert "no gang of 2 ranks could be started in 2 attempts: " in result.stderr
    assert "nosuch0" in result.stderr
    assert "Traceback" not in result.stderr
    standing_cluster.assert_nothing_left()
