"""Guards what reports say of where they were made: true, and of no one's machine."""

from pathlib import Path

import pytest

from pipeline.report.provenance import commit, shown_path

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (str(ROOT / "assets" / "pair.json"), "assets/pair.json"),
        ("/elsewhere/pair.json", "/elsewhere/pair.json"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    ],
)
def test_paths_in_the_project_are_shown_without_where_it_lies(path, shown):
    assert shown_path(path) == shown


def test_a_commit_is_one_word():
    assert commit() == "unknown" or len(commit()) >= 7
