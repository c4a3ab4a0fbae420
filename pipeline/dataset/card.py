"""The data set's card, ``README.md``: for people, and (its front matter) for the Hugging Face hub.

Made anew from metadata at the end of every run and of every compaction. Only a view: nothing reads
it back, so two that are written at once do no harm, and the next one corrects what is late.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.config_digest import mask_secrets
from pipeline.dataset.card_body import body
from pipeline.dataset.card_columns import hub_columns, hub_features
from pipeline.dataset.card_facts import CardFacts, card_facts
from pipeline.dataset.layout import Layout, Table
from pipeline.storage import Storage, join_uri

# as the hub names them, by the least number of rows
_SIZES = (
    (10**12, "n>1T"),
    (10**11, "100B<n<1T"),
    (10**10, "10B<n<100B"),
    (10**9, "1B<n<10B"),
    (10**8, "100M<n<1B"),
    (10**7, "10M<n<100M"),
    (10**6, "1M<n<10M"),
    (10**5, "100K<n<1M"),
    (10**4, "10K<n<100K"),
    (10**3, "1K<n<10K"),
    (0, "n<1K"),
)
# `datasets` takes the size of the first row group for one, and some parts have no rows
_BATCH_ROWS = 1000


def write_card(storage: Storage, layout: Layout) -> None:
    """Replace the card. Raises StorageError, ArrowException of a damaged part's footer."""
    storage.put(join_uri(layout.uri, "README.md"), card(card_facts(storage, layout)).encode())


def card(facts: CardFacts) -> str:
    """Markdown with YAML in front. No secret of a URL is in it, whatever a config holds."""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    return mask_secrets(f"---\n{front}---\n\n{body(facts)}")


def front_matter(facts: CardFacts) -> dict[str, Any]:
    """What the hub and `datasets.load_dataset` read. The license is the publisher's to say."""
    num_captions = facts.num_rows[Table.CAPTIONS]
    configs, features = _configs(facts)
    return {
        "pretty_name": f"Video captions {facts.digest}",
        "task_categories": ["video-text-to-text"],
        "tags": ["video-captioning", "synthetic-captions", "speculative-decoding", "lvspec"],
        "size_categories": [next(name for least, name in _SIZES if num_captions >= least)],
        **({"configs": configs, "dataset_info": features} if configs else {}),
    }


def _configs(facts: CardFacts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A config for each table that has files (one without would be an error for `datasets`)."""
    tables = {}
    if facts.num_commits:
        tables["captions"] = Table.CAPTIONS, Path("captions")
    if facts.has_failure_parts:
        tables["failures"] = Table.FAILURES, Path("failures")
    if facts.snapshot:
        folder = Path("snapshots", facts.snapshot.name)
        tables["snapshot_captions"] = Table.CAPTIONS, folder / "captions"
        tables["snapshot_failures"] = Table.FAILURES, folder / "failures"
    configs, features = [], []
    for name, (table, path) in tables.items():
        columns = [field.name for field in hub_columns(table.schema)]
        configs.append(
            {
                "config_name": name,
                **({"default": True} if name == "captions" else {}),
                "data_files": [{"split": "train", "path": str(path / "part-*.parquet")}],
                "batch_size": _BATCH_ROWS,
                **({"columns": columns} if len(columns) < len(table.schema) else {}),
            }
        )
        features.append({"config_name": name, "features": hub_features(table.schema)})
    return configs, features
