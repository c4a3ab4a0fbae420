"""verify(), which is vectorised, finds exactly what reading row by row finds."""

from __future__ import annotations

from typing import Any

import pytest
from dataset_rows import LABELS, MemoryStorage, caption_of, clip, failure_of, video
from hypothesis import given, settings
from hypothesis import strategies as st
from verify_oracle import oracle_problems

from pipeline.dataset import verify_ids, verify_part
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part
from pipeline.dataset.verify import verify

LAYOUT = Layout.of("s3://out", LABELS.config_digest)
NAMES = "abcd"

specs = st.builds(
    lambda name, index, num_clips: clip(name, index, num_clips),
    st.sampled_from(NAMES),
    st.integers(-1, 3),
    st.integers(1, 3),
)
attempts = st.integers(1, 3).map(lambda attempt: {"attempt": attempt})
wrong_values = st.sampled_from(
    [
        {},
        {"config_digest": "f" * 16},
        {"clip_id": "not {hex}"},
        {"clip_id": "F" * 32},
        {"clip_id": "+" + "0" * 31},
        {"anchor_tokens": 13},
        {"rejected_by_cause": [("mismatch", 3), ("guard", 2)]},
        {"rejected_by_cause": []},
        {"output_tokens": 12},
        {"accepted_histogram": [2, 0, 0, 2]},
        {"accepted_histogram": []},
    ]
)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Table, dict[str, Any]]:
    table = draw(st.sampled_from(list(Table)))
    wrong = draw(wrong_values)
    wrong |= draw(attempts)
    if table is Table.CAPTIONS:
        return table, caption_of(draw(specs)) | wrong
    whole = draw(st.booleans())
    source = video(draw(st.sampled_from(NAMES)))
    row = failure_of(None, source) if whole else failure_of(draw(specs))
    return table, row | {key: value for key, value in wrong.items() if key in row}


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(st.lists(rows(), max_size=5), max_size=5),
    lost=st.sets(st.integers(1, 5), max_size=2),
    listed=st.sets(st.sampled_from("abcdxyz")),
)
def test_what_row_by_row_finds(
    parts: list[list[tuple[Table, dict[str, Any]]]], lost: set[int], listed: set[str]
) -> None:
    """Any rows in any parts: the same problems in the same words, and the same counts."""
    storage = MemoryStorage()
    for number, part in enumerate(parts, start=1):
        for table in Table:
            of_table = [row for kind, row in part if kind is table]
            if not (table is Table.CAPTIONS and number in lost):
                storage.put(LAYOUT.part_uri(table, number), encode_part(table, of_table, "test"))
    listing = [video(name) for name in sorted(listed)]
    report = verify(storage, LAYOUT.uri, listing)
    wanted = sorted(oracle_problems(storage, LAYOUT, listing))
    assert report.num_problems == len(wanted)
    assert sorted(report.problems) == wanted


@pytest.fixture
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two rows, and buckets that leave memory at once."""
    monkeypatch.setattr(verify_part, "_ROWS_PER_BATCH", 2)
    monkeypatch.setattr(verify_ids, "_BYTES_IN_MEMORY", 1)


@pytest.mark.usefixtures("_small_steps")
def test_many_batches_and_temporary_files() -> None:
    """What a large corpus goes through: lists of later batches begin elsewhere in their buffers."""
    storage = MemoryStorage()
    captions = [caption_of(clip(f"v{n}", i, 2)) for n in range(7) for i in range(2)]
    captions[5] |= {"accepted_histogram": [2, 0, 0, 2]}
    captions[9] |= {"rejected_by_cause": [("mismatch", 9)]}
    data = encode_part(Table.CAPTIONS, [*captions, captions[3]], "test")
    storage.put(LAYOUT.part_uri(Table.CAPTIONS, 1), data)
    report = verify(storage, LAYOUT.uri)
    assert sorted(report.problems) == sorted(oracle_problems(storage, LAYOUT))
    assert report.num_problems == 3
