"""Prove from the written data alone that a data set is whole.

    python jobs/verify_corpus.py s3://bucket/captions/0123456789abcdef --input s3://bucket/videos

The URI is a data set (the folder of a config digest), a snapshot of one, or the folder above: then
every data set below. Of a data set its newest snapshot is proved as well. With --input every video
of that listing must be there, too. While a run goes on, some clips are not there yet.

Exit codes: 0 whole; 1 something can't be read; 2 the command line is wrong; 4 not whole: the
problems are told, one a line, a hundred of a data set at most. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from jobs.written_dataset import (
    NothingThereError,
    datasets_at,
    parse_with_storage,
    print_masked,
)
from pipeline.config import InputConfig
from pipeline.config_digest import mask_secrets
from pipeline.dataset.catalog import NoVideosError, list_videos
from pipeline.dataset.manifest import ManifestError
from pipeline.dataset.snapshot import dataset_of, read_pointer, snapshot_layout
from pipeline.dataset.verify import VerifyReport, verify
from pipeline.progress import format_duration
from pipeline.report.summary_table import WIDTH_CHARS
from pipeline.storage import StorageError, storage_for

EXIT_WHOLE, EXIT_FAILED, EXIT_NOT_WHOLE = 0, 1, 4


def main(argv: Sequence[str]) -> int:
    """Run the job; returns the exit code."""
    arguments = _parse(argv)
    started_s = time.monotonic()
    try:
        reports = list(_reports(arguments))
    except pa.ArrowException as error:
        return _fail(f"a part is damaged: {error}")
    except (StorageError, ManifestError, NoVideosError, NothingThereError) as error:
        return _fail(str(error))
    elapsed_s = time.monotonic() - started_s
    for report in reports:
        for problem in report.problems:
            print_masked(f"problem: {problem}")
        if (untold := report.num_problems - len(report.problems)) > 0:
            print_masked(f"{untold} more problems in {report.uri}")
    print_masked(_table(reports, elapsed_s))
    is_whole = all(report.is_whole for report in reports)
    print(json.dumps(_as_json(reports, elapsed_s, is_whole)), flush=True)
    return EXIT_WHOLE if is_whole else EXIT_NOT_WHOLE


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("uri", help="a data set, a snapshot, or the folder of several data sets")
    parser.add_argument("--input", help="folder, s3://bucket/prefix or manifest of the videos")
    arguments = parse_with_storage(parser, argv)
    try:
        arguments.videos = InputConfig(uri=arguments.input) if arguments.input else None
    except ValueError as error:
        parser.error(mask_secrets(str(error)))
    return arguments


def _reports(arguments: argparse.Namespace) -> Iterator[VerifyReport]:
    storage = storage_for(arguments.uri, arguments.storage)
    prove = partial(verify, storage, print_line=print_masked)
    for layout in datasets_at(storage, arguments.uri):
        listing = list_videos(arguments.videos, arguments.storage) if arguments.videos else None
        yield prove(layout.uri, listing)
        if dataset_of(layout.uri) is None and (pointer := read_pointer(storage, layout)):
            yield prove(snapshot_layout(layout, pointer[0].name).uri)


def _table(reports: Sequence[VerifyReport], elapsed_s: float) -> str:
    """One column a data set would not fit: a block of lines each."""
    table = Table(show_header=False, title="Verified", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for report in reports:
        for name, value in (
            ("data set", report.uri),
            ("commits", report.num_commits),
            ("captions", report.num_captions),
            ("failures", report.num_failures),
            *((("  superseded", report.num_superseded),) if report.num_superseded else ()),
            ("videos", report.num_videos),
            ("  that had to be there", report.num_expected_videos),
            ("verdict", "whole" if report.is_whole else f"{report.num_problems} problems"),
        ):
            table.add_row(name, str(value))
        table.add_section()
    table.add_row("time", format_duration(elapsed_s))
    text = io.StringIO()
    Console(file=text, width=WIDTH_CHARS, color_system=None).print(table)
    return text.getvalue().rstrip()


def _as_json(reports: Sequence[VerifyReport], elapsed_s: float, is_whole: bool) -> dict[str, Any]:
    return {
        "is_whole": is_whole,
        "elapsed_s": round(elapsed_s, 3),
        "datasets": [
            asdict(report)
            | {
                "uri": mask_secrets(report.uri),
                "problems": [mask_secrets(problem) for problem in report.problems],
            }
            for report in reports
        ],
    }


def _fail(reason: str) -> int:
    print(f"error: {mask_secrets(reason)}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
