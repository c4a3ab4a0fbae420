"""Which videos must have a row: those of a listing, and those that finished runs had planned."""

from __future__ import annotations

import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.layout import Layout
from pipeline.dataset.run_folder import went_to_its_end
from pipeline.dataset.verify_ids import Buckets, Records, as_numbers, same_as_before
from pipeline.records import VideoObject
from pipeline.storage import NotFoundError, Storage

_VIDEOS_PER_BATCH = 1 << 14
_TEXT_IN_MEMORY_BYTES = 16 << 20
_ROW, _EXPECTED = 0, 1


class ExpectedVideos:
    """Ids in buckets, names aside: only the names of videos that are missing are read again."""

    def __init__(self) -> None:
        self.num_videos = 0
        self._ids = Buckets([("name", np.int64)])
        self._names = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by __exit__
            _TEXT_IN_MEMORY_BYTES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ids.__exit__(kind, error, traceback)
        self._names.close()

    def add_listing(self, videos: Iterable[VideoObject]) -> None:
        """Expect the videos of a corpus."""
        ids: list[str] = []
        names: list[str] = []
        for video in videos:
            ids.append(video.video_id)
            names.append(video.uri)
            if len(ids) == _VIDEOS_PER_BATCH:
                self._add(pa.array(ids, pa.string()), names)
                ids, names = [], []
        self._add(pa.array(ids, pa.string()), names)

    def add_plans(self, storage: Storage, layout: Layout) -> None:
        """Expect what runs that went to their end had planned, where they kept their plans."""
        for run_id, uris in finished_plans(storage, layout).items():
            for uri in uris:
                with storage.open(uri) as stream:
                    batches = pq.ParquetFile(stream).iter_batches(columns=["video_id", "uri"])
                    for batch in batches:
                        uris_of_batch = batch.column("uri").to_pylist()
                        names = [f"{name}, planned by the run {run_id}" for name in uris_of_batch]
                        self._add(batch.column("video_id").cast(pa.string()), names)

    def missing(self, video_ids: Iterable[Records]) -> Iterator[str]:
        """Expected videos whose id is not among those, which come in the same buckets.

        A video that is expected twice is told once.
        """
        for there, expected in zip(video_ids, self._ids):
            if not len(expected):
                continue
            both = np.empty(len(there) + len(expected), [*_ID_TYPES, ("kind", "u1"), ("at", "i8")])
            for field in ("high", "low"):
                both[field] = np.concatenate((there[field], expected[field]))
            both["kind"] = np.repeat([_ROW, _EXPECTED], [len(there), len(expected)])
            both["at"] = np.concatenate((np.zeros(len(there), np.int64), expected["name"]))
            both = both[np.lexsort((both["at"], both["kind"], both["low"], both["high"]))]
            # the first of its id, and yet no row
            is_missing = ~same_as_before(both) & (both["kind"] == _EXPECTED)
            for at in np.sort(both["at"][is_missing]):
                self._names.seek(int(at))
                name = self._names.readline().rstrip(b"\n").decode("utf-8", "surrogateescape")
                yield f"no row for the video {name}"

    def _add(self, ids: pa.Array, names: list[str]) -> None:
        self.num_videos += len(names)
        self._ids.add(as_numbers(ids), name=self._write(names))

    def _write(self, names: list[str]) -> npt.NDArray[np.int64]:
        """Keep a line for each; where they begin."""
        self._names.seek(0, io.SEEK_END)
        start = self._names.tell()
        lines = [
            name.replace("\n", "\\n").encode("utf-8", "surrogateescape") + b"\n" for name in names
        ]
        self._names.write(b"".join(lines))
        ends = np.cumsum([0, *map(len, lines)])
        starts: npt.NDArray[np.int64] = start + ends[:-1]
        return starts


_ID_TYPES = [("high", "u8"), ("low", "u8")]


def finished_plans(storage: Storage, layout: Layout) -> dict[str, list[str]]:
    """The parts of the plans of runs that went to their end, by run.

    A run's figures are the last thing that it writes, and say how it ended; without them it may
    still be going on.
    """
    folder = f"{layout.runs_uri}/"
    plans: defaultdict[str, list[str]] = defaultdict(list)
    ended: dict[str, str] = {}
    try:
        for item in storage.list(folder):
            run_id, _, name = item.uri.removeprefix(folder).partition("/")
            if name == "metrics.json":
                ended[run_id] = item.uri
            elif name.startswith("plan/part-") and name.endswith(".parquet"):
                plans[run_id].append(item.uri)
    except NotFoundError:
        return {}  # a local data set without a run
    return {
        run_id: uris
        for run_id, uris in plans.items()
        if run_id in ended and went_to_its_end(json.loads(storage.read_bytes(ended[run_id])))
    }
