"""Calibrate a pair of models: which drafted tokens must be exact, measured on your own videos.

    python jobs/calibrate.py --recipe qwen2.5-vl-32b --input s3://bucket/some-videos \\
        --output qwen2.5-vl-32b.calibration.json

Chooses score, layer, state, scope, lambda, window and K on some clips, measures the choice on
others, and writes three files side by side: the calibration, its lexicon (.lexicon.npy), and a
report (.md). Captions then use it by --calibration FILE with --speculation.method safe. No labels
are needed. All other flags are those of caption_corpus.py. Exit codes: 0 done; 1 it failed; 2 the
configuration is wrong.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pipeline.calibration.calibrator import Goal, calibrate
from pipeline.calibration.clips import TooFewClipsError, two_splits
from pipeline.calibration.evidence import Pair
from pipeline.calibration.report import Provenance, markdown
from pipeline.config import RunConfig
from pipeline.config_digest import mask_secrets
from pipeline.config_errors import ConfigError
from pipeline.dataset.catalog import NoVideosError
from pipeline.dataset.manifest import ManifestError
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.models.errors import ModelLoadError, PairError
from pipeline.models.loading import load_pair
from pipeline.report.provenance import commit, hardware, shown_path
from pipeline.settings import load_run_config
from pipeline.storage import StorageError

EXIT_DONE, EXIT_FAILED, EXIT_CONFIG = 0, 1, 2

EXPECTED_ERRORS = (
    TooFewClipsError,
    StorageError,
    ManifestError,
    NoVideosError,
    ModelLoadError,
    PairError,
    PromptTooLongError,
)
"""What a person can mend: told in one line. Anything else is ours, and shows its traceback."""

_print = partial(print, flush=True)


def main(argv: list[str]) -> int:
    """Run the job; returns the exit code."""
    arguments, rest = _parse(argv)
    try:
        config = _config(rest)
    except ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    if not arguments.output.parent.is_dir():
        return _fail(f"--output: there is no folder {arguments.output.parent}", EXIT_CONFIG)
    try:
        _run(arguments, config, argv)
    except EXPECTED_ERRORS as error:
        return _fail(error, EXIT_FAILED)
    return EXIT_DONE


def _run(arguments: argparse.Namespace, config: RunConfig, argv: list[str]) -> None:
    target, draft = load_pair(config.models, config.storage)
    assert draft is not None  # the config of method exact has one
    sizes = (arguments.num_clips, arguments.num_report_clips)
    requests, report_requests = two_splits(config, target, draft, sizes, _print)
    pair = Pair(target, draft, config.prompt.id, config.generation, config.speculation.drafting)
    goal = Goal(arguments.min_facts_kept, arguments.facts == "sample-world")
    outcome = calibrate(pair, goal, requests, report_requests, _print)
    provenance = Provenance(
        date=datetime.now(UTC).date().isoformat(),
        commit=commit(),
        hardware=hardware(),
        command=mask_secrets(shlex.join(["python", "jobs/calibrate.py", *argv])),
        models=(
            f"Target {shown_path(target.model_id)} ({config.models.target.dtype}), "
            f"draft {shown_path(draft.model_id)} "
            f"({config.models.draft.dtype if config.models.draft else ''})"
        ),
        input_uri=mask_secrets(config.input.uri),
    )
    outcome.save(arguments.output)
    report = arguments.output.with_suffix(".md")
    report.write_text(markdown(outcome, provenance), encoding="utf-8")
    _print(f"wrote {arguments.output}, its lexicon and {report}")


def _config(rest: list[str]) -> RunConfig:
    """The run's config. The method is what is calibrated, and no calibration is needed for it."""
    unset = ["--speculation.method", "exact", "--speculation.calibration", "None"]
    return load_run_config([*rest, "--output", "unused", *unset])


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the file to write (.json)")
    parser.add_argument("--num-clips", type=int, default=240, help="to choose on")
    parser.add_argument("--num-report-clips", type=int, default=160, help="to measure on")
    parser.add_argument(
        "--min-facts-kept", type=float, default=0.998, help="mean share that the choice must keep"
    )
    parser.add_argument(
        "--facts",
        choices=["visual-words", "sample-world"],
        default="visual-words",
        help="what tells facts: the lexicon, or the grammar of the synthetic sample corpus",
    )
    return parser.parse_known_args(argv)


def _fail(error: Exception | str, exit_code: int) -> int:
    print(f"error: {mask_secrets(str(error))}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
