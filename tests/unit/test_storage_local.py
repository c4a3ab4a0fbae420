"""Local storage keeps the promises of S3: versions, atomic puts, and order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.storage import (
    AlreadyExistsError,
    NotFoundError,
    ObjectChangedError,
    Storage,
    UnsupportedUriError,
    join_uri,
    parent_uri,
    resolve_uri,
    storage_for,
    uri_suffix,
)
from pipeline.storage.retry import LONGEST_DELAY_S, full_jitter_s


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storage_for(str(tmp_path), StorageConfig())


def test_listing_has_the_order_of_keys_and_hides_unfinished_writes(
    storage: Storage, tmp_path: Path
) -> None:
    """Same order as S3 (a.mp4 < a/b), and no temporary or resource-fork files."""
    for name in ("a/b.mp4", "a.mp4", "a-c.mp4", "z ü#?%+.mp4", ".hidden.mp4", ".d/x.mp4"):
        storage.put(str(tmp_path / name), b"")
    names = [os.path.relpath(item.uri, tmp_path) for item in storage.list(str(tmp_path))]
    assert names == sorted(["a/b.mp4", "a.mp4", "a-c.mp4", "z ü#?%+.mp4"], key=str.encode)


def test_an_id_does_not_depend_on_the_spelling_of_the_folder(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, absolute and file:// are one corpus, or a change of directory captions it again."""
    storage.put(str(tmp_path / "v/a.mp4"), b"x")
    monkeypatch.chdir(tmp_path)
    spellings = ("v", "./v/", str(tmp_path / "v"), f"file://{tmp_path}/v")
    assert len({tuple(storage.list(spelling)) for spelling in spellings}) == 1


def test_etag_changes_with_the_content_only(storage: Storage, tmp_path: Path) -> None:
    """A rewrite of equal length, and a file moved over another with its old time, are changes."""
    uri = str(tmp_path / "v.mp4")
    storage.put(uri, b"aaaa")
    first = storage.stat(uri)
    assert storage.stat(uri) == first
    os.chmod(uri, 0o600)
    assert storage.stat(uri) == first
    times = os.stat(uri)
    storage.put(uri, b"bbbb")
    os.utime(uri, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert storage.stat(uri).etag != first.etag
    with pytest.raises(ObjectChangedError):
        storage.open(uri, first.etag)
    with storage.open(uri, storage.stat(uri).etag) as stream:
        assert stream.read() == b"bbbb"


def test_missing_things_are_named(storage: Storage, tmp_path: Path) -> None:
    """A typo in the input folder must not be an empty corpus."""
    with pytest.raises(NotFoundError, match="nowhere"):
        list(storage.list(str(tmp_path / "nowhere")))
    with pytest.raises(NotFoundError, match="nothing"):
        storage.open(str(tmp_path / "nothing"))


def test_put_if_absent_keeps_the_first_and_leaves_nothing_aside(
    storage: Storage, tmp_path: Path
) -> None:
    """The file is whole or absent, and a loser cleans up."""
    uri = str(tmp_path / "deep/er/part")
    storage.put_if_absent(uri, b"first")
    with pytest.raises(AlreadyExistsError):
        storage.put_if_absent(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert os.listdir(tmp_path / "deep/er") == ["part"]


RACER = """
import sys
from pipeline.config import StorageConfig
from pipeline.storage import AlreadyExistsError, storage_for
folder, me = sys.argv[1:]
storage = storage_for(folder, StorageConfig())
won = 0
for number in range(50):
    try:
        storage.put_if_absent(f"{folder}/{number}", me.encode())
        won += 1
    except AlreadyExistsError:
        pass
print(won)
"""


def test_of_two_processes_one_wins_each_name(storage: Storage, tmp_path: Path) -> None:
    """link(2) decides between processes as If-None-Match does between hosts."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    won = [int(racer.communicate()[0]) for racer in racers]
    assert sum(won) == 50
    owners = [storage.read_bytes(str(tmp_path / str(number))) for number in range(50)]
    assert [owners.count(b"a"), owners.count(b"b")] == won


@pytest.mark.parametrize("uri", ["http://host/v.mp4", "gs://bucket/v.mp4"])
def test_other_schemes_are_refused(storage: Storage, uri: str) -> None:
    """Never a local folder named http:."""
    with pytest.raises(UnsupportedUriError, match="neither"):
        storage.stat(uri)


def test_uri_arithmetic() -> None:
    """What a manifest means, and how names are joined and cut."""
    assert join_uri("s3://b/out/", "x", "y") == "s3://b/out/x/y"
    assert parent_uri("s3://b/a/m.csv") == "s3://b/a"
    assert parent_uri("s3://b/m.csv") == "s3://b"
    assert parent_uri("/d/m.csv") == "/d"
    assert resolve_uri("s3://b/a", "v 1.mp4") == "s3://b/a/v 1.mp4"
    assert resolve_uri("s3://b/a", "s3://c/v.mp4") == "s3://c/v.mp4"
    assert resolve_uri("s3://b/a", "/abs/v.mp4") == "/abs/v.mp4"
    assert resolve_uri("/d", "sub/v.mp4") == "/d/sub/v.mp4"
    assert resolve_uri("/d", "http://host/v.mp4") == "http://host/v.mp4"
    assert uri_suffix("s3://b.c/V.MP4") == ".mp4"
    assert uri_suffix("s3://b.c/x.d/noext") == ""


def test_back_off_is_uniform_from_zero_and_bounded() -> None:
    """Full jitter: clients that failed together must not return together."""
    assert full_jitter_s(1, 0.0) == 0.0
    assert full_jitter_s(3, 0.5) == pytest.approx(0.5 * 0.1 * 4)
    assert full_jitter_s(60, 1.0) == LONGEST_DELAY_S
