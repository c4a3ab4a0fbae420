"""S3 storage over a network that fails: the right bytes or the right error, whatever the fault."""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from fault_proxy import Fault, FaultProxy, fault_proxy
from moto.backends import get_backend
from s3_server import CREDENTIALS, S3Bucket

from pipeline.config import StorageConfig
from pipeline.storage import (
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    StorageError,
    TransientStorageError,
    UnsupportedUriError,
    retry,
    s3,
    s3_body,
    s3_upload,
    storage_for,
)
from pipeline.storage.s3 import S3Storage

DATA = bytes(range(251)) * 400
ANSWERED_PARTLY = (Fault.CUT, Fault.SHORT, Fault.STALL, Fault.TRICKLE)
NOT_ANSWERED = (Fault.LATENCY, Fault.SLOW_DOWN, Fault.RESET, Fault.LOST)


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultProxy]:
    with fault_proxy(s3_bucket.server.endpoint_url) as started:
        yield started


@pytest.fixture
def config(proxy: FaultProxy, s3_bucket: S3Bucket) -> StorageConfig:
    return s3_bucket.config.model_copy(
        update={"endpoint_url": proxy.endpoint_url, "read_timeout_s": 0.5}
    )


@pytest.fixture
def storage(config: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(s3_body, "FIRST_BYTES_S", 0.5)
    monkeypatch.setattr(s3, "IN_PARTS_FROM_BYTES", 1000_000)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)  # S3 takes no smaller ones
    return S3Storage(config)


@pytest.mark.parametrize("fault", ANSWERED_PARTLY + NOT_ANSWERED)
def test_reads_end_in_the_whole_object(
    fault: Fault, storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """Ranges and whole objects, met twice each: never a byte less, never an error."""
    uri = s3_bucket.uri("v.bin")
    storage.put(uri, DATA)
    version = storage.stat(uri)
    proxy.fail_next("GET", fault, fault)
    assert storage.read_range(version, 1000, 50_000) == DATA[1000:51_000]
    proxy.fail_next("GET", fault, fault)
    assert storage.read_bytes(uri) == DATA
    proxy.fail_next("GET", fault, fault)
    with storage.open(uri, version.etag) as stream:
        assert stream.read() == DATA
    assert proxy.num_planned == 0, "a fault was not met"


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SHORT, Fault.STALL, *NOT_ANSWERED])
def test_listings_and_lookups_are_whole(
    fault: Fault, storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """Half a page of XML is no shorter listing: nobody would miss the videos left out."""
    uris = [s3_bucket.uri(f"{number:02d} +%é.mp4") for number in range(20)]
    for uri in uris:
        storage.put(uri, b"x")
    proxy.fail_next("GET", fault, fault)
    assert [item.uri for item in storage.list(s3_bucket.uri(""), page_size=10)] == uris
    proxy.fail_next("HEAD", fault)
    assert storage.stat(uris[0]).size_bytes == 1
    assert proxy.num_planned == 0


@pytest.mark.parametrize("fault", NOT_ANSWERED)
def test_a_put_whose_answer_is_lost_meets_its_own_object(
    fault: Fault, storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """Carried out and not answered: AlreadyExistsError, and what is stored is what was sent."""
    uri = s3_bucket.uri("part")
    proxy.fail_next("PUT", fault)
    if fault is Fault.LOST:
        with pytest.raises(AlreadyExistsError):
            storage.put_if_absent(uri, DATA)
    else:
        storage.put_if_absent(uri, DATA)
    assert storage.read_bytes(uri) == DATA


def test_a_newline_in_a_key(storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket) -> None:
    """The one odd key that the tests' server can't route: what is sent, and what is listed."""
    uri = s3_bucket.uri("new\nline\r%0A+ .mp4")
    with pytest.raises(NotFoundError) as caught:
        storage.stat(uri)
    assert proxy.requests[-1].target.endswith("/new%0Aline%0D%250A%2B%20.mp4")
    assert "\n" not in str(caught.value), "an error is one line of a log"
    backend = get_backend("s3")["123456789012"]["aws"]
    backend.put_object(s3_bucket.name, "new\nline\r%0A+ .mp4", b"x")
    assert [item.uri for item in storage.list(s3_bucket.uri(""))] == [uri]


def test_a_body_in_parts_is_whole(
    storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """Its ETag is no MD5, so half a body with the length of half a body shows by the size alone."""
    uri, data = s3_bucket.uri("large"), DATA * 60
    storage.put(uri, data)
    assert storage.stat(uri).etag.endswith("-2")
    proxy.fail_next("GET", Fault.SHORT, Fault.SHORT, Fault.CUT)
    assert storage.read_bytes(uri) == data


@pytest.mark.parametrize("fault", NOT_ANSWERED)
def test_parts_are_put_once_and_nothing_is_left(
    fault: Fault, storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """If-None-Match holds where the upload is completed; the loser's parts are aborted."""
    uri, data = s3_bucket.uri("captions/part-1"), DATA * 60
    proxy.fail_next("PUT", fault, path="part-1")
    if fault is not Fault.LOST:  # an upload whose name was lost can't be aborted
        proxy.fail_next("POST", fault, path="part-1")
    storage.put_if_absent(uri, data)
    with pytest.raises(AlreadyExistsError):
        storage.put_if_absent(uri, b"x" * len(data))
    assert storage.read_bytes(uri) == data
    assert "Uploads" not in s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name)


def test_the_answer_to_a_completed_upload_is_lost(
    storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket
) -> None:
    """Either S3 says that it is complete, or that one's own object is there."""
    uri, data = s3_bucket.uri("captions/part-1"), DATA * 60
    create, complete = Fault.LATENCY, Fault.LOST
    proxy.fail_next("POST", create, complete, path="part-1")
    with suppress(AlreadyExistsError):
        storage.put_if_absent(uri, data)
    assert proxy.num_planned == 0
    assert storage.read_bytes(uri) == data


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, MemoryError, TransientStorageError])
def test_an_upload_that_ends_early_is_aborted(
    interrupt: type[BaseException],
    storage: S3Storage,
    s3_bucket: S3Bucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts that nobody completes are paid for until somebody finds them."""
    call = storage._call

    def stop_at_second_part(uri: str, method: str, request: dict[str, Any], *rest: Any) -> Any:
        if request.get("PartNumber") == 2:
            raise interrupt(uri, "stopped")
        return call(uri, method, request, *rest)

    monkeypatch.setattr(storage, "_call", stop_at_second_part)
    with pytest.raises(interrupt):
        storage.put(s3_bucket.uri("large"), DATA * 60)
    assert "Uploads" not in s3_bucket.client().list_multipart_uploads(Bucket=s3_bucket.name)
    with pytest.raises(NotFoundError):
        storage.stat(s3_bucket.uri("large"))


def test_a_server_that_ignores_conditions_of_uploads_is_refused(
    storage: S3Storage, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would let two jobs overwrite each other's parts: found before a part is put."""
    call = storage._call

    def ignore(uri: str, method: str, request: dict[str, Any], *rest: Any) -> Any:
        if method == "complete_multipart_upload":
            request.pop("IfNoneMatch", None)
        return call(uri, method, request, *rest)

    monkeypatch.setattr(storage, "_call", ignore)
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        storage.put_if_absent(s3_bucket.uri("captions/part-1"), DATA * 60)
    with pytest.raises(NotFoundError):
        storage.stat(s3_bucket.uri("captions/part-1"))


def test_objects_deleted_or_replaced_since_the_listing(
    storage: S3Storage, s3_bucket: S3Bucket
) -> None:
    """Each is an error of its own, also in the middle of reading, and not retried for ever."""
    for name in ("gone", "new"):
        storage.put(s3_bucket.uri(name), DATA * 60)
    gone, new = storage.list(s3_bucket.uri(""))
    with storage.open(gone.uri, gone.etag) as stream:
        assert stream.read(10) == DATA[:10]
        s3_bucket.client().delete_object(Bucket=s3_bucket.name, Key="gone")
        stream.seek(5_000_000)
        with pytest.raises(NotFoundError):
            stream.read(10)
    storage.put(new.uri, b"y" * new.size_bytes)
    with pytest.raises(ObjectChangedError):
        storage.read_range(new, 0, 10)


def test_a_server_that_ignores_if_match_is_seen_by_the_etag() -> None:
    """The version is read off every answer, not believed."""

    class Body:
        def close(self) -> None:
            pass

    version = s3_body.VideoObject("s3://b/k", "e" * 32, 100)
    answer = {"Body": Body(), "ETag": '"other"', "ContentLength": 10, "ContentRange": "bytes 0-9/9"}
    with pytest.raises(ObjectChangedError):
        s3_body.read_range_body(answer, version, 0, 10)
    answer |= {"ETag": f'"{version.etag}"'}
    with pytest.raises(StorageError, match="range"):
        s3_body.read_range_body(answer, version, 5, 10)


def test_etags_that_only_look_like_an_md5(
    storage: S3Storage, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose versions are 32 hex digits can be read: two reads that agree are good."""
    uri = s3_bucket.uri("k")
    storage.put(uri, DATA)
    monkeypatch.setattr(s3, "md5", lambda data: hashlib.sha256(data).hexdigest()[:32])
    assert storage.read_bytes(uri) == DATA


def test_requests_of_a_process_share_a_retry_budget(
    proxy: FaultProxy, config: StorageConfig, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When everything fails, retries end: a thousand requests must not become eight thousand."""
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.0)
    proxy.rates = {Fault.SLOW_DOWN: 1.0}
    storages = [S3Storage(config), S3Storage(config)]
    for number in range(40):
        with pytest.raises(TransientStorageError):
            storages[number % 2].stat(s3_bucket.uri("k"))
    assert len(proxy.requests) == 40 + 100
    proxy.rates = {}
    for _ in range(10):
        with pytest.raises(NotFoundError):
            storages[0].stat(s3_bucket.uri("k"))  # an answer, which brings some retries back
    proxy.fail_next("HEAD", Fault.SLOW_DOWN)
    with pytest.raises(NotFoundError):
        storages[1].stat(s3_bucket.uri("k"))


def test_a_budget_lasts_for_ever_at_the_rates_of_a_bad_night() -> None:
    """One request in five fails: no request is given up for want of a token."""
    budget = retry.RetryBudget()
    random = Random(0)
    for _ in range(20_000):
        num_retries = 0
        while random.random() < 0.2:
            assert budget.take()
            num_retries += 1
        budget.earn(num_retries > 0)


def test_patience_is_of_the_reader_not_of_each_request(
    storage: S3Storage, proxy: FaultProxy, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many requests that each lose some time must not add up to a decode time-out."""
    monkeypatch.setattr(s3, "READ_AHEAD_BYTES", 1 << 16)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    uri = s3_bucket.uri("v.bin")
    storage.put(uri, DATA)
    with storage.open(uri) as stream:
        proxy.fail_next("GET", Fault.SLOW_DOWN)
        with pytest.raises(TransientStorageError):
            stream.read(10)
    assert proxy.num_planned == 0


@pytest.mark.parametrize("mode", ["when_supported", "when_required", None])
def test_checksum_modes(mode: Any, config: StorageConfig, proxy: FaultProxy, s3_bucket) -> None:
    """Some servers reject the checksums that botocore sends by default."""
    update = {"request_checksum_calculation": mode, "response_checksum_validation": mode}
    storage = S3Storage(config.model_copy(update=update))
    storage.put_if_absent(s3_bucket.uri("k"), DATA)
    assert storage.read_bytes(s3_bucket.uri("k")) == DATA
    (put,) = (request for request in proxy.requests if request.method == "PUT")
    names = {name.lower() for name, _ in put.headers}
    assert ("x-amz-checksum-crc32" in names) == (mode != "when_required")


def test_secrets_are_in_no_error_log_or_traceback(
    config: StorageConfig, proxy: FaultProxy, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    """Keys of the environment, passwords in its endpoint, signatures of presigned URLs."""
    secrets = [*CREDENTIALS.values(), "hunter2", "5ec4e7516", "t0ken-of-session"]
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken-of-session")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hunter2@127.0.0.1:9")
    from_environment = config.model_copy(update={"endpoint_url": None, "max_attempts": 1})
    presigned = (
        "https://b.s3.amazonaws.com/k?X-Amz-Credential=AKIATESTONLY%2F1&X-Amz-Signature=5ec4e7516"
    )
    proxy.rates = {Fault.RESET: 1.0}
    caplog.set_level(logging.INFO)
    attempts: list[Any] = [
        lambda: storage_for("s3://b/k", from_environment).read_bytes("s3://b/k"),
        lambda: S3Storage(config.model_copy(update={"max_attempts": 1})).stat("s3://b/k"),
        lambda: storage_for(presigned, config).stat(presigned),
    ]
    expected = (TransientStorageError, TransientStorageError, UnsupportedUriError)
    for attempt, kind in zip(attempts, expected, strict=True):
        with pytest.raises(kind) as caught:
            attempt()
        text = "".join(traceback.format_exception(caught.value))
        text += str(caught.value) + repr(caught.value) + caplog.text
        assert not [secret for secret in secrets if secret in text], text
    assert not [secret for secret in secrets if secret in repr(config) + config.model_dump_json()]
