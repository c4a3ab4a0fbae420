"""Caption the videos of a bucket, a folder or a manifest into a Parquet data set.

    ray job submit --working-dir . -- python jobs/caption_corpus.py \\
        --recipe qwen2.5-vl-32b --input s3://bucket/videos --output s3://bucket/captions

Run it again to go on where it ended, or to caption what is new; with --retry-failed also what
failed for no fault of the video. Exit codes: 0 done; 1 the run failed or was interrupted (what was
committed stays); 2 the configuration is wrong, or can't fit the GPUs; 3 more failures than the
budget allows: at the end, or so surely that the run was ended early. SIGTERM and Ctrl-C commit what
is captioned, within 30 s. The last line of a run with exit code 0 or 3 is the summary as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

from actors.errors import ClusterError, WorkerError
from pipeline.config import RunConfig
from pipeline.config_digest import config_digest, mask_secrets
from pipeline.config_errors import ConfigError
from pipeline.dataset.catalog import NoVideosError
from pipeline.dataset.commit import CommitError
from pipeline.dataset.manifest import ManifestError
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.failure_budget import complaint
from pipeline.models.checkpoint import pin_revision
from pipeline.models.errors import ModelLoadError, PairError
from pipeline.preflight.device import uses_gpu
from pipeline.preflight.errors import PreflightError, PreflightUnavailableError
from pipeline.records import CaptionerTiming, Outcome
from pipeline.report.summary_table import summary_table
from pipeline.run import Runner, RunRequest, forecast_run, new_run_id, run_corpus
from pipeline.settings import JobOptions, parse_command_line
from pipeline.storage import StorageError

EXIT_DONE, EXIT_FAILED, EXIT_CONFIG, EXIT_OVER_BUDGET = 0, 1, 2, 3

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


EXPECTED_ERRORS = (
    StorageError,
    ManifestError,
    NoVideosError,
    CommitError,
    ModelLoadError,
    PairError,
    ClusterError,
    WorkerError,
)
"""What a person can mend: told in one line. Anything else is ours, and shows its traceback."""


def main(argv: list[str]) -> int:
    """Run the job; returns the exit code."""
    try:
        command = parse_command_line(argv)
        _check_runner(command.config, command.options)
    except ConfigError as error:
        return _fail(error, EXIT_CONFIG)
    options = command.options
    try:
        with _interrupted_by_signals():
            if options.preflight:
                _preflight(command.config, options)
            request = _request(command.config, options)
            if options.dry_run:
                return _dry_run(request, options)
            summary = run_corpus(request, _runner(options), lambda line: _print(line, options))
    except PreflightError as error:
        return _fail(error, EXIT_CONFIG)
    except EXPECTED_ERRORS as error:
        return _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        print("interrupted; what was committed stays, run again to go on", file=sys.stderr)
        return EXIT_FAILED
    if options.log_format == "text":
        print(summary_table(summary, mask_secrets(request.layout.uri)), flush=True)
    if reason := complaint(summary, request.config.failures):
        print(reason, file=sys.stderr)
    _print_json(request, summary.as_json())
    return EXIT_OVER_BUDGET if reason else EXIT_DONE


def _check_runner(config: RunConfig, options: JobOptions) -> None:
    """Raise ConfigError if one process is asked to be several ranks."""
    size = config.models.tensor_parallel_size
    if options.runner == "local" and size > 1:
        raise ConfigError(
            f"--runner local is one process, and models.tensor_parallel_size is {size}: drop "
            "--runner local, or set --tensor-parallel-size 1 --cluster.captioner-gpus 1"
        )


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt inside, once: the commit that follows can end."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    _interrupt_on_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_on_signals() -> None:
    def interrupt(number: int, frame: object) -> NoReturn:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in STOP_SIGNALS:
        signal.signal(number, interrupt)


def _preflight(config: RunConfig, options: JobOptions) -> None:
    """Reckon whether the run fits its GPUs, before anything is loaded; a dry run shows how.

    On CPU only a dry run is reckoned. Says so if it can't be. Raises PreflightError.
    """
    on_gpu = uses_gpu(config)
    if not on_gpu and not options.dry_run:
        return
    # Imported where they are used: sizes are torch's to tell, on its meta device.
    from pipeline.preflight.plan import Pair, reckon
    from pipeline.preflight.report import refusal, report

    try:
        pair = Pair.of(config)
    except PreflightUnavailableError as error:
        _print(f"whether the run fits can't be reckoned: {error}", options)
        return
    plan = reckon(config, pair)
    if options.dry_run:
        _print(report(plan, pair), options)
    if on_gpu and not plan.fits:
        raise refusal(plan, config, pair)


def _request(config: RunConfig, options: JobOptions) -> RunRequest:
    """Pin the models, so that the digest says exactly what captions.

    A draft that the method does not ask is dropped: no captioner loads it.
    """
    draft = config.effective_draft
    pinned = config.models.model_copy(
        update={
            "target": pin_revision(config.models.target, config.storage),
            "draft": pin_revision(draft, config.storage) if draft else None,
        }
    )
    config = config.model_copy(update={"models": pinned})
    run_id = options.run_id or new_run_id()
    return RunRequest(config, config_digest(config), run_id, options.resume, options.retry)


def _runner(options: JobOptions) -> Runner:
    """What captions. Nothing is started or connected to before it is called."""

    # Imported where they are used: the local runner needs no Ray, the driver of the other no torch.
    def locally(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome | CaptionerTiming]:
        from pipeline.local_runner import caption_locally

        return caption_locally(config, plan)

    def on_ray(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome | CaptionerTiming]:
        from actors.connection import connect_to_ray
        from actors.corpus_run import caption_on_ray
        from actors.telemetry import observed

        connect_to_ray(options.address)
        _interrupt_on_signals()  # ray.init takes SIGTERM for itself
        return observed(caption_on_ray(config, plan), config)

    return locally if options.runner == "local" else on_ray


def _dry_run(request: RunRequest, options: JobOptions) -> int:
    forecast = forecast_run(request, options.cost_per_gpu_hour)
    counts = forecast.counts
    _print(
        f"would caption {counts.num_videos} videos ({counts.num_bytes / 1e9:.3f} GB) "
        f"of {request.config.input.uri} into {request.layout.uri}",
        options,
    )
    for line in forecast.lines():
        _print(line, options)
    _print_json(request, forecast.as_json())
    return EXIT_DONE


def _print(line: str, options: JobOptions) -> None:
    line = mask_secrets(line)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    print(
        json.dumps({"time": now, "message": line}) if options.log_format == "json" else line,
        flush=True,
    )


def _print_json(request: RunRequest, values: dict[str, Any]) -> None:
    identity = {"run_id": request.run_id, "dataset": mask_secrets(request.layout.uri)}
    print(json.dumps(identity | values), flush=True)


def _fail(error: Exception, exit_code: int) -> int:
    print(f"error: {mask_secrets(str(error))}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
