"""Write a snapshot of a data set: its rows again, sorted, in few large files, beside the parts.

    python jobs/compact_corpus.py s3://bucket/captions/0123456789abcdef

The URI is a data set (the folder of a config digest), or the folder above: then every data set
below. Nothing live is changed, and captioning may go on meanwhile. A snapshot is published by one
conditional put of snapshots/latest.json. Exit codes: 0 done, or nothing new since the last one; 1
it failed: the old snapshot stays the one to read; 2 the command line is wrong; 4 another compaction
was faster: what this one wrote is not referenced. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from jobs.written_dataset import (
    NothingThereError,
    datasets_at,
    parse_with_storage,
    print_masked,
)
from pipeline.config_digest import mask_secrets
from pipeline.dataset.card import write_card
from pipeline.dataset.compact import TARGET_BYTES, ForeignPartError, LostRaceError, compact
from pipeline.dataset.layout import Layout
from pipeline.dataset.snapshot import dataset_of
from pipeline.storage import Storage, StorageError, storage_for

EXIT_DONE, EXIT_FAILED, EXIT_LOST_RACE = 0, 1, 4


def main(argv: Sequence[str]) -> int:
    """Run the job; returns the exit code."""
    arguments = _parse(argv)
    results: list[dict[str, Any]] = []
    try:
        storage = storage_for(arguments.uri, arguments.storage)
        for layout in datasets_at(storage, arguments.uri):
            if dataset_of(layout.uri):
                return _fail(f"{layout.uri} is a snapshot already", EXIT_FAILED)
            results.append(_compact(storage, layout, arguments.target_mb << 20))
    except LostRaceError as error:
        return _fail(str(error), EXIT_LOST_RACE)
    except pa.ArrowException as error:
        return _fail(f"a part is damaged: {error}", EXIT_FAILED)
    except (StorageError, NothingThereError, ForeignPartError) as error:
        return _fail(str(error), EXIT_FAILED)
    except OSError as error:
        return _fail(f"temporary files: {error.strerror}", EXIT_FAILED)
    print(json.dumps({"datasets": results}), flush=True)
    return EXIT_DONE


def _compact(storage: Storage, layout: Layout, target_bytes: int) -> dict[str, Any]:
    result = compact(storage, layout.uri, target_bytes, print_masked)
    told: dict[str, Any] = {"dataset": mask_secrets(layout.uri)}
    if result is None:
        print_masked(f"{layout.uri} has no commit yet that can't change any more")
        return told | {"is_new": False, "snapshot": None}
    write_card(storage, layout)
    state = "is now the one to read" if result.is_new else "holds every commit already"
    print_masked(f"the snapshot {result.snapshot.name} of {layout.uri} {state}")
    return told | {"is_new": result.is_new, "snapshot": asdict(result.snapshot)}


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("uri", help="a data set, or the folder of several")
    parser.add_argument(
        "--target-mb", type=_positive, default=TARGET_BYTES >> 20, help="size of a file, MiB"
    )
    return parse_with_storage(parser, argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _fail(reason: str, exit_code: int) -> int:
    print(f"error: {mask_secrets(reason)}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
