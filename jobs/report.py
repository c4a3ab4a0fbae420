"""Make the report of a finished run: one HTML page that needs nothing else, from its data set.

    python jobs/report.py s3://bucket/captions/0123456789abcdef --output report.html

Without --run-id it is the newest run that captioned anything; without --output the page goes to
runs/<run id>/report.html in the data set. Key frames are read from the videos anew, where they can
be reached. Exit codes: 0 done; 1 something can't be read or written; 2 the command line is wrong.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import pyarrow as pa

from jobs.written_dataset import (
    NothingThereError,
    datasets_at,
    parse_with_storage,
    print_masked,
)
from pipeline.config_digest import mask_secrets
from pipeline.dataset.layout import Layout
from pipeline.dataset.run_rows import NoSuchRunError, newest_run
from pipeline.dataset.snapshot import dataset_of
from pipeline.report.html_facts import report_facts
from pipeline.report.html_frames import KeyFrames, read_key_frames
from pipeline.report.html_page import report_page
from pipeline.storage import AccessDeniedError, Storage, StorageError, storage_for

EXIT_DONE, EXIT_FAILED = 0, 1


def main(argv: Sequence[str]) -> int:
    """Run the job; returns the exit code."""
    arguments = _parse(argv)
    try:
        storage = storage_for(arguments.uri, arguments.storage)
        layout = _dataset(storage, arguments.uri)
        run_id = arguments.run_id or newest_run(storage, layout)
        facts = report_facts(storage, layout, run_id, arguments.max_clips)
    except pa.ArrowException as error:
        return _fail(f"a part is damaged: {error}")
    except (StorageError, NothingThereError, NoSuchRunError) as error:
        return _fail(str(error))
    frames = KeyFrames()
    if arguments.key_frames and facts.gallery:
        print_masked(f"reading key frames of {len(facts.gallery)} clips")
        frames = read_key_frames(facts.gallery, arguments.key_frames, arguments.storage)
        if frames.stopped:
            print_masked(f"some clips have no key frames: {frames.stopped}")
        if frames.unreadable:
            print_masked(f"{len(frames.unreadable)} clips can't be opened again for key frames")
    output = arguments.output or layout.run_file_uri(run_id, "report.html")
    page = report_page(facts, frames)
    try:
        storage_for(output, arguments.storage).put(output, page.encode())
    except AccessDeniedError as error:
        return _fail(f"{error}: name a file that may be written with --output")
    except StorageError as error:
        return _fail(str(error))
    told = {
        "report": mask_secrets(output),
        "run_id": run_id,
        "num_captions": facts.summary.num_captions,
        "num_failures": facts.summary.num_failures,
        "num_clips_shown": len(facts.gallery),
        "num_clips_with_key_frames": len(frames.by_clip),
    }
    print(json.dumps(told), flush=True)
    return EXIT_DONE


def _dataset(storage: Storage, uri: str) -> Layout:
    """The one data set there. Raises StorageError, NothingThereError."""
    if dataset_of(uri.rstrip("/")):
        raise NothingThereError(f"{uri} is a snapshot, which has no runs: name its data set")
    layouts = datasets_at(storage, uri)
    if len(layouts) > 1:
        names = ", ".join(layout.uri.rpartition("/")[2] for layout in layouts)
        raise NothingThereError(f"{uri} holds several data sets, name one of them: {names}")
    return layouts[0]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("uri", help="a data set: the folder of a config digest")
    parser.add_argument("--run-id", help="default: the newest run that captioned anything")
    parser.add_argument("--output", help="file or s3:// object; default: in the run's folder")
    parser.add_argument(
        "--max-clips", type=_count, default=200, help="clips shown, the token sample first"
    )
    parser.add_argument(
        "--key-frames", type=_count, default=4, help="pictures of a clip; 0: open no video"
    )
    return parse_with_storage(parser, argv)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is not 0 or more")
    return number


def _fail(reason: str) -> int:
    print(f"error: {mask_secrets(reason)}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
