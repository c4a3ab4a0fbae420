"""Is a data set whole? Every clip once, counters that add up, parts without gaps.

Proved from the written data alone, many rows at a time: parts are read by several threads into a
few numbers a row, and what must be compared across parts is sorted by id in buckets that spill to
temporary files (verify_ids.py). So neither time nor memory is that of Python objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import PartList, list_parts
from pipeline.dataset.snapshot import Snapshot, dataset_of, description_uri, read_description
from pipeline.dataset.verify_clips import Clips
from pipeline.dataset.verify_expected import ExpectedVideos
from pipeline.dataset.verify_part import PartScan, scan_part
from pipeline.dataset.verify_problems import Problems, RowPlaces
from pipeline.progress import StepProgress
from pipeline.records import VideoObject
from pipeline.storage import NotFoundError, Storage

_THREADS = 8  # parts that are read at once: from S3 most of the time is waiting for answers


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found. ``problems`` holds the first hundred; ``num_problems`` counts all."""

    uri: str
    num_commits: int
    num_captions: int
    num_failures: int
    num_videos: int
    num_problems: int
    problems: tuple[str, ...]
    num_superseded: int = 0
    """Failure rows after which the clip got a caption or failed again; ``num_failures`` has them
    too."""
    num_expected_videos: int = field(default=0, compare=False)
    """Videos of the corpus, and of the plans of finished runs, that were looked for."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return self.num_problems == 0


def verify(
    storage: Storage,
    dataset_uri: str,
    videos: Iterable[VideoObject] | None = None,
    print_line: Callable[[str], None] = lambda line: None,
) -> VerifyReport:
    """Read a whole data set (one config digest), or a snapshot of one, and check it.

    With ``videos`` (the corpus, see catalog.list_videos) every one of them must be complete;
    without, the videos that have a row and those that finished runs had planned. Of a snapshot,
    whose rows end at some commit, the plans are not asked. ``print_line`` is told the progress.
    Raises StorageError; a damaged part is a problem of the storage, so its ArrowException goes
    through.
    """
    layout = Layout(dataset_uri.rstrip("/"))
    dataset = dataset_of(layout.uri)
    parts = list_parts(storage, layout)
    problems, rows = Problems(), RowPlaces()
    with Clips(rows) as clips, ExpectedVideos() as expected:
        if dataset is None:
            problems.extend(_gaps(layout, parts))
            expected.add_plans(storage, layout)
        expected.add_listing(videos or ())
        digest = (dataset or layout).uri.rpartition("/")[2]
        num_parts = len(parts.captions) + len(parts.failures)
        progress = StepProgress(f"reading the parts of {layout.uri}", num_parts, print_line)
        for num_done, part in enumerate(_scans(storage, layout, parts, digest), start=1):
            if not part.fits:
                problems.add(f"{part.uri} has another schema than {part.table} of this version")
            first = rows.add_part(part.table, part.uri, part.num_rows)
            clips.add(part, first)
            problems.extend(problem.at(first) for problem in part.problems)
            progress.show(num_done)
        num_captions, num_failures = rows.num_captions, rows.num_rows - rows.num_captions
        num_commits = parts.last
        if dataset is not None:
            snapshot = _description(storage, layout)
            num_commits = snapshot.last_commit if snapshot else 0
            problems.extend(_snapshot_problems(layout, snapshot, parts, rows))
        problems.extend(clips.clip_problems())
        problems.extend(clips.video_problems())
        if dataset is not None and clips.num_superseded:
            problems.add(f"{clips.num_superseded} failures of {layout.uri} are superseded")
        problems.extend(expected.missing(clips.video_ids()))
        return VerifyReport(
            uri=layout.uri,
            num_commits=num_commits,
            num_captions=num_captions,
            num_failures=num_failures,
            num_videos=clips.num_videos,
            num_problems=problems.num_found,
            problems=problems.told(rows, storage),
            num_superseded=clips.num_superseded,
            num_expected_videos=expected.num_videos,
        )


def _scans(storage: Storage, layout: Layout, parts: PartList, digest: str) -> Iterator[PartScan]:
    """All parts, captions first, in the order of their numbers; a few are read ahead."""
    todo = ((table, layout.part_uri(table, n)) for table in Table for n in parts.of(table))
    with ThreadPoolExecutor(_THREADS) as pool:
        reading: deque[Future[PartScan]] = deque()
        try:
            for table, uri in todo:
                reading.append(pool.submit(scan_part, storage, table, uri, digest))
                if len(reading) == 2 * _THREADS:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            for future in reading:  # after an error nobody wants the rest
                future.cancel()


def _gaps(layout: Layout, parts: PartList) -> Iterator[str]:
    for number in sorted(set(range(1, parts.last + 1)) - set(parts.captions)):
        yield f"{layout.part_uri(Table.CAPTIONS, number)} is missing"


def _description(storage: Storage, layout: Layout) -> Snapshot | None:
    try:
        return read_description(storage, layout)
    except NotFoundError:
        return None


def _snapshot_problems(
    layout: Layout, snapshot: Snapshot | None, parts: PartList, rows: RowPlaces
) -> Iterator[str]:
    """Is it what was written? A lost file of whole videos would show in nothing else."""
    if snapshot is None:
        yield f"{description_uri(layout)} is missing: the snapshot was not finished"
        return
    num_rows = {
        Table.CAPTIONS: rows.num_captions,
        Table.FAILURES: rows.num_rows - rows.num_captions,
    }
    for table in Table:
        wanted = snapshot.of(table)
        if parts.of(table) != tuple(range(1, wanted.num_parts + 1)):
            yield f"{layout.table_uri(table)} has not the parts 1 to {wanted.num_parts}"
        if num_rows[table] != wanted.num_rows:
            yield f"{layout.table_uri(table)} has {num_rows[table]} rows, not {wanted.num_rows}"
