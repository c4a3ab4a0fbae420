"""Guards a night on a bad network: re-runs end whole, and no good video is blamed for it."""

from __future__ import annotations

import pytest
from fault_proxy import Fault, fault_proxy

from pipeline.config import InputConfig
from pipeline.dataset.catalog import list_videos
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import iter_rows
from pipeline.dataset.verify import verify
from pipeline.storage import storage_for
from tests.integration.conftest import run_job, start_job

MAX_RUNS = 8
NETWORK_CODES = {"storage_unavailable", "timeout", "read_failed", "object_changed", "not_found"}


def upload_interleaved(bucket, corpus) -> tuple[set[str], set[str]]:
    """Good and damaged files in turn, under odd keys; their URIs."""
    good = sorted((corpus / "videos").glob("clip-*.mp4"))
    damaged = sorted((corpus / "videos").glob("damaged-*"))
    client, uris = bucket.client(), (set(), set())
    for index in range(2 * len(damaged)):
        is_damaged = index % 2
        path = (damaged if is_damaged else good)[index // 2 % len(good)]
        key = f"in/{index:02d} é+%20/{path.name}"
        client.upload_file(str(path), bucket.name, key)
        uris[is_damaged].add(bucket.uri(key))
    return uris


def job_arguments(bucket, config, endpoint_url: str, *more: object) -> tuple[object, ...]:
    return (
        "--config", config, "--runner", "local", "--endpoint-url", endpoint_url,
        "--storage.region", "us-east-1", "--storage.addressing-style", "path",
        "--storage.read-timeout-s", "2", "--input", bucket.uri("in"),
        "--output", bucket.uri("out"), *more,
    )  # fmt: skip


def assert_whole(bucket, good: set[str], damaged: set[str]) -> None:
    """As seen without the proxy: every video, each once, captioned if it is good."""
    storage = storage_for(bucket.uri("out"), bucket.config)
    (dataset,) = storage.folders(bucket.uri("out"))
    videos = list_videos(InputConfig(uri=bucket.uri("in")), bucket.config)
    report = verify(storage, dataset, list(videos))
    assert report.is_whole, report.problems
    layout = Layout(dataset)
    captions = [row["source_uri"] for row in iter_rows(storage, layout, Table.CAPTIONS)]
    failures = list(iter_rows(storage, layout, Table.FAILURES))
    assert sorted(captions) == sorted(good)
    assert sorted(row["source_uri"] for row in failures) == sorted(damaged)
    assert not {row["code"] for row in failures} & NETWORK_CODES


RATES: dict[str, dict[Fault, float]] = {
    "1%": dict.fromkeys(Fault, 0.01),
    "20%": dict.fromkeys(Fault, 0.04)
    | {Fault.STALL: 0.005, Fault.TRICKLE: 0.0, Fault.LATENCY: 0.05},
    "lost answers": {Fault.LOST: 0.2},
}


@pytest.mark.parametrize("name", RATES)
def test_a_night_on_a_bad_network(name, s3_bucket, corpus, write_config):
    good, damaged = upload_interleaved(s3_bucket, corpus)
    config = write_config(output={"uri": "overridden", "rows_per_part": 2})
    with fault_proxy(s3_bucket.server.endpoint_url, seed=len(name)) as proxy:
        proxy.rates = RATES[name]
        ends = []
        for _ in range(MAX_RUNS):
            result = run_job(*job_arguments(s3_bucket, config, proxy.endpoint_url))
            ends.append(result)
            if result.returncode == 0:
                break
            assert result.returncode == 1, result.stderr[-3000:]
            assert "Traceback" not in result.stderr, result.stderr[-3000:]
        assert result.returncode == 0, [end.stderr[-500:] for end in ends]
        assert proxy.met, "no request met a fault"
    assert_whole(s3_bucket, good, damaged)
    assert not any("not-a-real-secret" in end.stdout + end.stderr for end in ends)


def test_a_store_that_goes_down_stops_the_run_and_costs_no_video(s3_bucket, corpus, write_config):
    """Everything fails from the third commit on; the next night all is well."""
    good, damaged = upload_interleaved(s3_bucket, corpus)
    config = write_config(output={"uri": "overridden", "rows_per_part": 1})
    with fault_proxy(s3_bucket.server.endpoint_url) as proxy:
        hold = proxy.hold(
            lambda request: request.method == "PUT" and "part-00000003" in request.path,
            is_carried_out=True,
        )
        job = start_job(*job_arguments(s3_bucket, config, proxy.endpoint_url))
        hold.wait()
        proxy.rates = {Fault.SLOW_DOWN: 1.0}
        hold.release()
        _, errors = job.communicate(timeout=240)
        assert job.returncode == 1, errors[-3000:]
        assert "Traceback" not in errors, errors[-3000:]
        proxy.rates = {}
        result = run_job(*job_arguments(s3_bucket, config, proxy.endpoint_url))
        assert result.returncode == 0, result.stderr[-3000:]
    assert_whole(s3_bucket, good, damaged)
