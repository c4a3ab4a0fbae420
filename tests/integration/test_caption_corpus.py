"""Guards the job as people run it: every object once, resume, exit codes, local equals Ray."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.dataset
import pytest

from tests.integration.conftest import run_job

# What two runs of one config may differ in.
VOLATILE = {
    "run_id",
    "created_at",
    "video_decode_s",
    "prefill_s",
    "draft_s",
    "verify_s",
    "decode_s",
    "scoring_s",
}


def rows(dataset: Path, table: str) -> list[dict]:
    found = pyarrow.dataset.dataset(dataset / table).to_table().to_pylist()
    return sorted(found, key=lambda row: row["clip_id"])


def dataset_folder(output: Path) -> Path:
    (folder,) = output.iterdir()
    return folder


def last_line_json(output: str) -> dict:
    return json.loads(output.strip().splitlines()[-1])


# File of each damage in the sample corpus: the stable code of its failure row.
CODES = {
    "empty": "empty",
    "text": "not_a_video",
    "truncated": "truncated",
    "truncated_index_first": "truncated",
    "corrupt_middle": "corrupt",
    "audio_only": "no_video_stream",
}


def test_local_and_ray_runners_give_the_same_rows(corpus, write_config, tmp_path):
    """With several clips a video, so that nothing rests on one clip being one file."""
    config = write_config(
        video={
            "sampling": {"policy": "uniform", "num_frames": 4},
            "frame_size": {"fixed_px": [56, 56]},
            "clips": {"policy": "windows", "window_s": 0.8, "min_clip_s": 0.4},
        },
    )
    for runner in ("local", "ray"):
        result = run_job(
            "--config", config, "--input", corpus / "videos", "--output", tmp_path / runner,
            "--runner", runner,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
    folders = [dataset_folder(tmp_path / runner) for runner in ("local", "ray")]
    assert folders[0].name == folders[1].name, "the config digest depends on the runner"
    for table in ("captions", "failures"):
        local, ray = (
            [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows(folder, table)]
            for folder in folders
        )
        assert local == ray
    captions, failures = rows(folders[1], "captions"), rows(folders[1], "failures")
    plans = Counter(row["video_id"] for row in captions)
    assert len(plans) == 10
    assert max(plans.values()) > 1
    assert all(row["num_clips"] == plans[row["video_id"]] for row in captions)
    codes = {row["source_uri"].rpartition("/")[2].split("-", 2)[2]: row["code"] for row in failures}
    assert codes == {f"{damage}.mp4": code for damage, code in CODES.items()}
    for name in ("config.yaml", "versions.json", "metrics.json"):
        assert list(folders[1].glob(f"runs/*/{name}")), name


def test_second_run_captions_nothing_and_says_so(corpus, write_config, tmp_path):
    arguments = (
        "--config", write_config(), "--input", corpus / "videos", "--output", tmp_path / "out",
        "--runner", "local",
    )  # fmt: skip
    first = run_job(*arguments)
    assert first.returncode == 0, first.stderr[-3000:]
    before = rows(dataset_folder(tmp_path / "out"), "captions")
    second = run_job(*arguments)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "nothing to do" in second.stdout
    assert last_line_json(second.stdout)["num_captions"] == 0
    assert rows(dataset_folder(tmp_path / "out"), "captions") == before


def test_changed_and_new_files_alone_are_captioned(corpus, write_config, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    names = sorted(path.name for path in (corpus / "videos").glob("clip-*"))
    for name in names[:2]:
        shutil.copy(corpus / "videos" / name, videos / name)
    arguments = (
        "--config", write_config(), "--input", videos, "--output", tmp_path / "out",
        "--runner", "local",
    )  # fmt: skip
    assert run_job(*arguments).returncode == 0
    shutil.copy(corpus / "videos" / names[2], videos / names[2])  # new
    shutil.copy(corpus / "videos" / names[7], videos / names[0])  # changed: same codec, other scene
    result = run_job(*arguments)
    assert last_line_json(result.stdout)["num_captions"] == 2
    uris = [row["source_uri"] for row in rows(dataset_folder(tmp_path / "out"), "captions")]
    assert sorted(uri.rpartition("/")[2] for uri in uris) == sorted([*names[:3], names[0]])


def test_failures_over_budget_end_with_exit_code_3(corpus, write_config, tmp_path):
    result = run_job(
        "--config", write_config(failures={"max_share": 0.1}), "--input", corpus / "videos",
        "--output", tmp_path / "out", "--runner", "local",
    )  # fmt: skip
    assert result.returncode == 3
    assert len(rows(dataset_folder(tmp_path / "out"), "captions")) == 10, "done all the same"
    assert "6 of 16" in result.stderr


def test_dry_run_says_what_would_be_done_and_writes_nothing(corpus, write_config, tmp_path):
    result = run_job(
        "--config", write_config(), "--input", corpus / "videos", "--output", tmp_path / "out",
        "--dry-run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert last_line_json(result.stdout)["num_videos"] == 16
    assert not (tmp_path / "out").exists()


def test_limit_takes_that_many_videos_that_are_not_done(corpus, write_config, tmp_path):
    arguments = (
        "--config", write_config(), "--input", corpus / "videos", "--output", tmp_path / "out",
        "--runner", "local", "--limit", 3,
    )  # fmt: skip
    for num_rows in (3, 6):
        assert run_job(*arguments).returncode == 0
        assert len(rows(dataset_folder(tmp_path / "out"), "captions")) == num_rows


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--input", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--num-speculative-token", "4"), "num-speculative-tokens"),
        (("--model", "./no-such-model"), "./no-such-model"),
        (("--runner", "ray", "--models.device", "cuda:99"), "cuda:99"),  # said by the actor
    ],
)
def test_errors_name_what_is_wrong_without_a_traceback(
    corpus, write_config, tmp_path, arguments, named
):
    result = run_job(
        "--config", write_config(), "--input", corpus / "videos", "--output", tmp_path / "out",
        "--runner", "local", *arguments,
    )  # fmt: skip
    assert result.returncode == (2 if named == "num-speculative-tokens" else 1)
    assert named in result.stderr
    assert "Traceback" not in result.stderr
