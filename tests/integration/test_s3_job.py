"""Guards the job between two S3 prefixes: odd keys, a server that stumbles, and a second writer."""

from __future__ import annotations

import pyarrow.dataset
import pyarrow.fs
from s3_server import Answer

from tests.integration.conftest import run_job, start_job
from tests.integration.test_caption_corpus import last_line_json

ODD_KEYS = ("a b.mp4", "100%.mp4", "plus+plus.mp4", "ünïcode/é.mp4", "what?.mp4", "hash#.mp4")


def upload(bucket, corpus):
    """Every odd key holds a good video; the damaged files come as they are."""
    good = sorted((corpus / "videos").glob("clip-*.mp4"))
    client = bucket.client()
    for index, key in enumerate(ODD_KEYS):
        client.upload_file(str(good[index % len(good)]), bucket.name, f"in/{key}")
    for path in (corpus / "videos").glob("damaged-*"):
        client.upload_file(str(path), bucket.name, f"in/{path.name}")


def rows(bucket, table):
    """The table as any reader of Parquet on S3 sees it."""
    filesystem = pyarrow.fs.S3FileSystem(
        endpoint_override=bucket.server.endpoint_url, region="us-east-1"
    )
    (digest,) = (
        prefix["Prefix"]
        for prefix in bucket.client().list_objects_v2(
            Bucket=bucket.name, Prefix="out/", Delimiter="/"
        )["CommonPrefixes"]
    )
    folder = f"{bucket.name}/{digest}{table}"
    return pyarrow.dataset.dataset(folder, filesystem=filesystem).to_table().to_pylist()


def arguments(bucket, config):
    return (
        "--config", config, "--runner", "local", "--endpoint-url", bucket.server.endpoint_url,
        "--storage.region", "us-east-1", "--storage.addressing-style", "path",
        "--input", f"s3://{bucket.name}/in", "--output", f"s3://{bucket.name}/out",
    )  # fmt: skip


def test_bucket_to_bucket_over_a_stumbling_server(s3_bucket, corpus, write_config):
    upload(s3_bucket, corpus)
    s3_bucket.server.fail_next("GET", Answer.SLOW_DOWN, Answer.TRUNCATED, Answer.SLOW_DOWN)
    s3_bucket.server.fail_next("PUT", Answer.SLOW_DOWN, Answer.LOST)
    result = run_job(*arguments(s3_bucket, write_config()))
    assert result.returncode == 0, result.stderr[-3000:]
    assert not s3_bucket.server.faults, "the faults were not met"
    captions, failures = rows(s3_bucket, "captions"), rows(s3_bucket, "failures")
    prefix = f"s3://{s3_bucket.name}/in/"
    assert sorted(row["source_uri"] for row in captions) == sorted(prefix + k for k in ODD_KEYS)
    assert len({row["source_uri"] for row in failures}) == len(failures) == 6
    summary = last_line_json(result.stdout)
    assert (summary["num_captions"], summary["num_failures"]) == (6, 6)
    assert "not-a-real-secret" not in result.stdout + result.stderr


def test_of_two_jobs_on_one_output_one_stops_and_nothing_is_lost(s3_bucket, corpus, write_config):
    upload(s3_bucket, corpus)
    config = write_config(output={"uri": "overridden", "rows_per_part": 1})
    jobs = [start_job(*arguments(s3_bucket, config)) for _ in range(2)]
    ends = [(*job.communicate(timeout=240), job.returncode) for job in jobs]
    codes = sorted(code for _, _, code in ends)
    assert codes[0] == 0, ends
    # If one was so much later that all was done, it had nothing to do; else it lost a fence.
    for output, errors, code in ends:
        assert code == 0 or "another job writes this data set" in errors, output + errors
    clip_ids = [row["clip_id"] for row in rows(s3_bucket, "captions")]
    clip_ids += [row["clip_id"] for row in rows(s3_bucket, "failures")]
    assert len(clip_ids) == len(set(clip_ids)) == 12
