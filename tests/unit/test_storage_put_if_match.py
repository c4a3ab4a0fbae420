"""put_if_match: of several that replace one version, one does; locally and over HTTP alike."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Answer, S3Bucket

from pipeline.config import StorageConfig
from pipeline.storage import NotFoundError, ObjectChangedError, Storage, StorageError, storage_for

Place = tuple[Storage, str]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        yield storage_for(str(tmp_path), StorageConfig()), str(tmp_path / "pointer.json")
    else:
        bucket = request.getfixturevalue("s3_bucket")
        yield storage_for(bucket.uri("x"), bucket.config), bucket.uri("pointer.json")


def test_the_version_that_was_read_is_replaced(place: Place) -> None:
    storage, uri = place
    storage.put(uri, b"old")
    old = storage.stat(uri).etag
    storage.put_if_match(uri, b"new", old)
    assert storage.read_bytes(uri) == b"new"
    with pytest.raises(ObjectChangedError):
        storage.put_if_match(uri, b"late", old)
    assert storage.read_bytes(uri) == b"new"


def test_nothing_is_made_where_nothing_was(place: Place) -> None:
    storage, uri = place
    with pytest.raises(NotFoundError):
        storage.put_if_match(uri, b"new", "0123")
    with pytest.raises(NotFoundError):
        storage.stat(uri)


def test_of_many_at_once_one_wins(place: Place) -> None:
    """What makes a flip safe: threads and processes alike see one order of versions."""
    storage, uri = place
    storage.put(uri, b"old")
    old = storage.stat(uri).etag
    won: list[bytes] = []

    def replace(data: bytes) -> None:
        try:
            storage.put_if_match(uri, data, old)
        except StorageError:
            return
        won.append(data)

    threads = [threading.Thread(target=replace, args=(b"%d" % n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri) == won[0]


def test_a_lost_answer_is_told_as_a_change(s3_bucket: S3Bucket) -> None:
    """The put is sent again and meets its own object: the caller compares what is stored."""
    storage, uri = storage_for(s3_bucket.uri("x"), s3_bucket.config), s3_bucket.uri("pointer.json")
    storage.put(uri, b"old")
    old = storage.stat(uri).etag
    s3_bucket.server.fail_next("PUT", Answer.LOST)
    with pytest.raises(ObjectChangedError):
        storage.put_if_match(uri, b"new", old)
    assert storage.read_bytes(uri) == b"new"
