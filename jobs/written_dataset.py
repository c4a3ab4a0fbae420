"""What jobs that work on a written data set have in common: its URI, and how to reach S3."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipeline.config import StorageConfig
from pipeline.config_digest import mask_secrets
from pipeline.dataset.layout import Layout
from pipeline.dataset.parts import list_parts
from pipeline.dataset.snapshot import dataset_of
from pipeline.storage import NotFoundError, Storage


class NothingThereError(Exception):
    """Neither a data set nor a folder of some."""


def parse_with_storage(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse, with the flags of S3 as the captioning job has them; the result has ``storage``."""
    _add_storage(parser)
    arguments = parser.parse_args(argv)
    try:
        arguments.storage = StorageConfig(
            endpoint_url=arguments.endpoint_url,
            region=arguments.region,
            addressing_style=arguments.addressing_style,
        )
    except ValueError as error:
        parser.error(mask_secrets(str(error)))
    return arguments


def print_masked(line: str) -> None:
    """Print what may hold a signed URL."""
    print(mask_secrets(line), flush=True)


def datasets_at(storage: Storage, uri: str) -> list[Layout]:
    """The data set at a URI, or those right below it. Raises StorageError, NothingThereError."""
    here = Layout(uri.rstrip("/"))
    if dataset_of(here.uri) or list_parts(storage, here).last:
        return [here]
    try:
        below = [Layout(folder) for folder in storage.folders(here.uri)]
    except NotFoundError:
        below = []
    found = [layout for layout in below if list_parts(storage, layout).last]
    if not found:
        raise NothingThereError(f"no data set in {uri}, and none right below it")
    return found


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-url", help="URL of an S3-compatible server")
    parser.add_argument("--storage.region", dest="region", help="default: of the environment")
    parser.add_argument(
        "--storage.addressing-style",
        dest="addressing_style",
        choices=("auto", "path", "virtual"),
        default=StorageConfig().addressing_style,
    )
