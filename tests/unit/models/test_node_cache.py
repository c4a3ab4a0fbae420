"""Models of S3 through the node's cache: a real S3 API over HTTP, real processes, real kills.

What it promises: one download for all processes of a node, and a folder that is there is whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from s3_server import Answer, S3Bucket

from pipeline.config import ModelConfig, StorageConfig
from pipeline.models import node_cache
from pipeline.models.checkpoint import find_checkpoint, folder_digest, pin_revision
from pipeline.models.errors import ModelLoadError
from pipeline.models.loading import load_model
from pipeline.models.node_cache import NodeCache, cache_root
from pipeline.storage import retry
from tests.tiny_models import write_tiny_model

PATTERNS = ("*.json", "*.safetensors")
PART_BYTES = 1000
FILES = {
    "config.json": b'{"model_type": "qwen2_5_vl"}',
    "tokenizer.json": b"{}",
    "model-1.safetensors": bytes(range(256)) * 40,  # 11 parts, the last one short
    "model-2.safetensors": b"",
}
DEADLINE_S = 60.0

OPEN_MODEL = """
import sys
from pipeline.config import ModelConfig, StorageConfig
from pipeline.models.checkpoint import find_checkpoint

storage = StorageConfig.model_validate_json(sys.argv[2])
print(find_checkpoint(ModelConfig(name=sys.argv[1]), storage).folder)
"""


class Gate(list):
    """The server's record of requests; a GET of an object waits here while the gate is shut."""

    def __init__(self, is_shut: Callable[[Gate], bool]) -> None:
        super().__init__()
        self._is_shut = is_shut

    def append(self, request: tuple[str, str]) -> None:
        super().append(request)
        deadline = time.monotonic() + DEADLINE_S
        while is_object(request) and self._is_shut(self) and time.monotonic() < deadline:
            time.sleep(0.01)


def is_object(request: tuple[str, str]) -> bool:
    method, path = request
    return method == "GET" and path.count("/") > 1


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and small parts, so that small files have several."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(node_cache, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.001)
    return tmp_path / "cache/lvspec/models"


@pytest.fixture
def model_uri(s3_bucket: S3Bucket) -> str:
    """An uploaded model that ``find_checkpoint`` accepts, with others beside and below it."""
    upload(s3_bucket, "models/qwen", FILES)
    upload(s3_bucket, "models/qwen/checkpoint-5", FILES)
    upload(s3_bucket, "models/qwen-old", FILES)
    upload(s3_bucket, "models/qwen", {"pytorch_model.bin": b"pickle", "README.md": b""})
    return s3_bucket.uri("models/qwen")


def upload(bucket: S3Bucket, prefix: str, files: dict[str, bytes]) -> None:
    client = bucket.client()
    for name, data in files.items():
        client.put_object(Bucket=bucket.name, Key=f"{prefix}/{name}", Body=data)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def models_in(root: Path) -> list[Path]:
    """What any reader would take for a complete model."""
    return [path for path in root.glob("*") if path.is_dir() and "." not in path.name]


def num_objects_read(bucket: S3Bucket) -> int:
    return sum(map(is_object, bucket.server.requests))


@contextmanager
def opening(uri: str, storage: StorageConfig) -> Iterator[subprocess.Popen[str]]:
    """Another process of the node that opens a model and prints its folder."""
    command = [sys.executable, "-c", OPEN_MODEL, uri, storage.model_dump_json()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_model_is_its_files_in_the_cache(s3_bucket: S3Bucket, model_uri: str, root: Path) -> None:
    """The wanted files right below the prefix, byte for byte, and asked for once only."""
    checkpoint = find_checkpoint(ModelConfig(name=model_uri), s3_bucket.config)
    assert content(checkpoint.folder) == FILES
    assert checkpoint.folder == root / checkpoint.revision.removeprefix("s3:sha256:")
    assert num_objects_read(s3_bucket) == 1 + 1 + 11
    assert find_checkpoint(ModelConfig(name=model_uri), s3_bucket.config) == checkpoint
    assert num_objects_read(s3_bucket) == 1 + 1 + 11
    assert {path.name for path in root.iterdir()} == {checkpoint.folder.name, "lock"}


def test_processes_at_once_share_one_download(
    s3_bucket: S3Bucket, model_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks have all listed the model before any byte of it arrives: one of them reads it."""

    def num_lists(requests: Gate) -> int:
        return sum(method == "GET" for method, _ in requests) - sum(map(is_object, requests))

    gate = Gate(lambda requests: num_lists(requests) < 4)
    monkeypatch.setattr(s3_bucket.server, "requests", gate)
    with (
        opening(model_uri, s3_bucket.config) as first,
        opening(model_uri, s3_bucket.config) as second,
        opening(model_uri, s3_bucket.config) as third,
        opening(model_uri, s3_bucket.config) as fourth,
    ):
        answers = [rank.communicate() for rank in (first, second, third, fourth)]
    folders = {out.strip() for out, _ in answers}
    assert len(folders) == 1, answers
    assert content(Path(folders.pop())) == FILES
    assert num_objects_read(s3_bucket) == 3  # in parts of full size each file is one
    assert num_lists(gate) == 4


def test_a_killed_download_is_done_again_and_never_seen(
    s3_bucket: S3Bucket, model_uri: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle: the one that waited goes on at once, and nothing torn has a name."""
    dead = threading.Event()
    gate = Gate(lambda requests: sum(map(is_object, requests)) > 1 and not dead.is_set())
    monkeypatch.setattr(s3_bucket.server, "requests", gate)
    with opening(model_uri, s3_bucket.config) as victim:
        wait_until(lambda: num_objects_read(s3_bucket) > 1)
        (partial,) = root.glob("*.partial")
        assert partial.is_dir()
        assert not models_in(root)
        with opening(model_uri, s3_bucket.config) as heir:
            assert heir.stderr is not None
            assert "waiting for another process" in heir.stderr.readline()
            os.kill(victim.pid, signal.SIGKILL)
            assert victim.wait() == -signal.SIGKILL
            dead.set()
            out, error = heir.communicate()
    assert content(Path(out.strip())) == FILES, error
    assert models_in(root) == [Path(out.strip())]
    assert not list(root.glob("*.partial"))


def test_what_is_left_of_another_revision_goes_too(
    s3_bucket: S3Bucket, model_uri: str, root: Path
) -> None:
    """Nobody may ever ask again for what a killed process downloaded in part."""
    left = root / f"{'0' * 40}.partial"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"torn")
    find_checkpoint(ModelConfig(name=model_uri), s3_bucket.config)
    assert not left.exists()


@pytest.mark.parametrize("answer", [Answer.TRUNCATED, Answer.SLOW_DOWN, Answer.LOST])
def test_a_torn_answer_is_asked_for_again(
    answer: Answer, s3_bucket: S3Bucket, model_uri: str
) -> None:
    """Half a part is no part."""
    cache = NodeCache(s3_bucket.config, PATTERNS)
    model = cache.list(model_uri)
    s3_bucket.server.fail_next("GET", answer, answer)
    assert content(cache.download(model)) == FILES
    assert s3_bucket.server.faults == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer.TRUNCATED, "no complete answer|bytes arrived"),
        (Answer.DENIED, "s3:GetObject"),
        (Answer.EXPIRED, "credentials that this node finds"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    answer: Answer, told: str, s3_bucket: S3Bucket, model_uri: str, root: Path
) -> None:
    """The error names the model and the remedy; the next try succeeds."""
    cache = NodeCache(s3_bucket.config.model_copy(update={"max_attempts": 2}), PATTERNS)
    model = cache.list(model_uri)
    s3_bucket.server.fail_next("GET", *[answer] * 40)
    with pytest.raises(ModelLoadError, match=f"{model_uri} can't be read .*({told})"):
        cache.download(model)
    assert [path.name for path in root.iterdir()] == ["lock"]
    s3_bucket.server.faults.clear()
    assert content(cache.download(model)) == FILES


@pytest.mark.parametrize("name", ["config.json", "model-1.safetensors"])
def test_an_object_replaced_after_the_listing(
    name: str, s3_bucket: S3Bucket, model_uri: str, root: Path
) -> None:
    """A folder never holds files of two uploads, be their sizes the same."""
    cache = NodeCache(s3_bucket.config, PATTERNS)
    model = cache.list(model_uri)
    upload(s3_bucket, "models/qwen", {name: FILES[name][::-1]})
    with pytest.raises(ModelLoadError, match=f"changed since listed.*{name}.*run again once"):
        cache.download(model)
    assert not models_in(root)


def test_an_object_deleted_after_the_listing(
    s3_bucket: S3Bucket, model_uri: str, root: Path
) -> None:
    cache = NodeCache(s3_bucket.config, PATTERNS)
    model = cache.list(model_uri)
    s3_bucket.client().delete_object(Bucket=s3_bucket.name, Key="models/qwen/config.json")
    with pytest.raises(
        ModelLoadError, match=r"no such object.*config\.json.*all the model's files"
    ):
        cache.download(model)
    assert not models_in(root)


class TestRevision:
    def test_it_follows_names_and_content_and_not_the_bucket(
        self, s3_bucket: S3Bucket, model_uri: str
    ) -> None:
        """Copying a model elsewhere, or adding what loading does not read, changes nothing."""
        cache = NodeCache(s3_bucket.config, PATTERNS)
        before = cache.list(model_uri).revision
        upload(s3_bucket, "elsewhere/qwen", FILES | {"notes.md": b"of no interest"})
        assert cache.list(s3_bucket.uri("elsewhere/qwen/")).revision == before
        upload(s3_bucket, "renamed", {n.replace("-2", "-3"): d for n, d in FILES.items()})
        assert cache.list(s3_bucket.uri("renamed")).revision != before
        upload(s3_bucket, "models/qwen", {"tokenizer.json": b"[]"})
        assert cache.list(model_uri).revision != before

    def test_pinning_downloads_nothing(
        self, s3_bucket: S3Bucket, model_uri: str, root: Path
    ) -> None:
        pinned = pin_revision(ModelConfig(name=f"{model_uri}/"), s3_bucket.config)
        assert pinned.name == model_uri
        assert num_objects_read(s3_bucket) == 0
        assert not root.exists()
        assert find_checkpoint(pinned, s3_bucket.config).revision == pinned.revision
        assert pin_revision(pinned, s3_bucket.config) == pinned

    def test_two_revisions_side_by_side(
        self, s3_bucket: S3Bucket, model_uri: str, root: Path
    ) -> None:
        """A run that was planned before the model changed goes on with what it began with."""
        old = pin_revision(ModelConfig(name=model_uri), s3_bucket.config)
        find_checkpoint(old, s3_bucket.config)
        changed = FILES | {"model-1.safetensors": b"other weights"}
        upload(s3_bucket, "models/qwen", changed)
        new = pin_revision(ModelConfig(name=model_uri), s3_bucket.config)
        assert content(find_checkpoint(new, s3_bucket.config).folder) == changed
        s3_bucket.server.requests.clear()
        assert content(find_checkpoint(old, s3_bucket.config).folder) == FILES
        assert pin_revision(old, s3_bucket.config) == old
        assert s3_bucket.server.requests == []  # a revision that is here needs no network
        assert len(models_in(root)) == 2

    @pytest.mark.parametrize(
        "revision", ["", "main", "s3:sha256:../../qwen", f"s3:sha256:{'0' * 40}"]
    )
    @pytest.mark.parametrize("use", [find_checkpoint, pin_revision])
    def test_a_revision_that_is_neither_here_nor_in_s3(
        self, use: Callable[..., object], revision: str, s3_bucket: S3Bucket, model_uri: str
    ) -> None:
        config = ModelConfig(name=model_uri, revision=revision)
        with pytest.raises(
            ModelLoadError, match=f"{model_uri}.* changed since the run was planned"
        ):
            use(config, s3_bucket.config)
        assert num_objects_read(s3_bucket) == 0


class TestNoModel:
    @pytest.mark.parametrize("missing", ["config.json", "model-1.safetensors"])
    def test_an_upload_that_is_not_complete(self, missing: str, s3_bucket: S3Bucket) -> None:
        """Told when the run is planned, not when a GPU waits."""
        upload(s3_bucket, "m", {missing: b"", "vocab.json": b"{}"})
        with pytest.raises(ModelLoadError, match=r"/m: no config\.json and \*\.safetensors"):
            pin_revision(ModelConfig(name=s3_bucket.uri("m")), s3_bucket.config)

    def test_a_missing_prefix(self, s3_bucket: S3Bucket, model_uri: str) -> None:
        with pytest.raises(ModelLoadError, match=f"{model_uri}-7b: no config.*check the name"):
            find_checkpoint(ModelConfig(name=f"{model_uri}-7b"), s3_bucket.config)

    @pytest.mark.parametrize("name", ["s3://no-such-bucket-here/qwen", "s3://"])
    def test_a_bucket_that_is_not_there(self, name: str, s3_bucket: S3Bucket) -> None:
        with pytest.raises(ModelLoadError, match=f"{name}.*(check that|name s3)"):
            find_checkpoint(ModelConfig(name=name), s3_bucket.config)


class TestDisk:
    def test_too_full(
        self, s3_bucket: S3Bucket, model_uri: str, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Known before the first byte, and in numbers."""
        usage = namedtuple("usage", "total used free")(10_000, 9_900, 100)
        monkeypatch.setattr(node_cache.shutil, "disk_usage", lambda path: usage)
        size = sum(map(len, FILES.values()))
        with pytest.raises(ModelLoadError, match=rf"takes {size} bytes .* has 100 bytes .* larger"):
            find_checkpoint(ModelConfig(name=model_uri), s3_bucket.config)
        assert num_objects_read(s3_bucket) == 0

    def test_it_fills_up_during_the_download(
        self, s3_bucket: S3Bucket, model_uri: str, root: Path
    ) -> None:
        """A write fails (here at a limit of the process): what was written makes room again."""
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        command = [sys.executable, "-c", limit + OPEN_MODEL, model_uri]
        command.append(s3_bucket.config.model_dump_json())
        error = subprocess.run(command, capture_output=True, text=True).stderr
        assert "ModelLoadError" in error
        assert f"{model_uri} takes" in error
        assert "File too large" in error
        assert "set XDG_CACHE_HOME to a larger disk" in error
        assert [path.name for path in root.iterdir()] == ["lock"]

    def test_a_root_that_can_not_be_made(
        self, s3_bucket: S3Bucket, model_uri: str, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(ModelLoadError, match=r"can't be kept in .*Not a directory"):
            find_checkpoint(ModelConfig(name=model_uri), s3_bucket.config)


@pytest.mark.parametrize("unset", [None, "", "relative/folder"])
def test_the_root_follows_xdg(unset: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset, empty and relative mean the default, as the specification says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert cache_root() == Path("/scratch/lvspec/models")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME")
    if unset is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
    assert cache_root() == Path("/home/someone/.cache/lvspec/models")


def test_a_model_of_s3_is_the_model_of_its_folder(
    s3_bucket: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real checkpoint with its tokenizer and processor; the revision says where it is from."""
    monkeypatch.setattr(node_cache, "PART_BYTES", 50_000)
    folder = write_tiny_model("qwen2_5_vl", tmp_path / "qwen")
    upload(s3_bucket, "models/qwen", content(folder))
    cpu = torch.device("cpu")
    here = load_model(ModelConfig(name=str(folder), dtype="float32"), cpu)
    there = ModelConfig(name=s3_bucket.uri("models/qwen"), dtype="float32")
    loaded = load_model(there, cpu, s3_bucket.config)
    assert loaded.model_id == there.name
    assert here.revision == folder_digest(folder)
    assert loaded.revision == pin_revision(there, s3_bucket.config).revision
    assert loaded.revision.startswith("s3:sha256:")
    assert folder_digest(find_checkpoint(there, s3_bucket.config).folder) == here.revision
    weights, others = here.model.state_dict(), loaded.model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert loaded.tokenizer.get_vocab() == here.tokenizer.get_vocab()
