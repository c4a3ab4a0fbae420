"""S3 storage against a real server over HTTP: what pipeline.storage promises of S3."""

import http.server
import pickle
import socket
import subprocess
import sys
import threading
from urllib.parse import unquote

import botocore.exceptions
import pytest
from s3_server import CREDENTIALS, Answer, S3Bucket

from pipeline.config import DecodeLimits, StorageConfig
from pipeline.records import VideoObject
from pipeline.storage import (
    AccessDeniedError,
    AlreadyExistsError,
    CredentialsError,
    NotFoundError,
    ObjectChangedError,
    Opener,
    Storage,
    StorageError,
    TransientStorageError,
    retry,
    s3,
    s3_body,
    storage_for,
)

ODD_KEYS = (
    "plain.mp4",
    "with space/a b.mp4",
    "plus+plus.mp4",
    "percent%20literal%.mp4",
    "hash#fragment.mp4",
    "question?mark=1&x.mp4",
    "ünïcödé/видео/動画.mp4",
    "quote'\"<>&amp;.mp4",
    "double//slash.mp4",
    "dots/../up.mp4",
    "tab\there.mp4",
    "all at+once%2B%0A %?#&=;:@.mp4",
    "/slash first.mp4",
    "e\u0301 is not \u00e9.mp4",
)


@pytest.fixture
def storage(s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(retry, "FIRST_DELAY_S", 0.001)
    return storage_for(s3_bucket.uri(""), s3_bucket.config)


def test_the_server_of_the_tests_honours_conditions(s3_bucket: S3Bucket) -> None:
    """Guards every test below: a server that ignored conditions would prove nothing."""
    client = s3_bucket.client()
    client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"1", IfNoneMatch="*")
    with pytest.raises(botocore.exceptions.ClientError, match="PreconditionFailed"):
        client.put_object(Bucket=s3_bucket.name, Key="k", Body=b"2", IfNoneMatch="*")
    for call in (client.get_object, client.head_object):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(Bucket=s3_bucket.name, Key="k", IfMatch='"0123456789abcdef0123456789abcdef"')
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert client.get_object(Bucket=s3_bucket.name, Key="k")["Body"].read() == b"1"


def test_a_key_with_line_breaks_goes_over_the_wire_as_it_is(s3_bucket: S3Bucket) -> None:
    """On a bare server: that of the other tests has no route for a line break."""
    key, seen = "new\nline and\rreturn.mp4", []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.append((unquote(self.path), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        config = s3_bucket.config.model_copy(
            update={"endpoint_url": url, "request_checksum_calculation": "when_required"}
        )
        storage_for(s3_bucket.uri(key), config).put(s3_bucket.uri(key), b"data")
        server.shutdown()
    assert seen == [(f"/{s3_bucket.name}/{key}", b"data")]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_is_verbatim_in_every_operation(
    key: str, storage: Storage, s3_bucket: S3Bucket
) -> None:
    """A URI with odd characters names that very key: nothing is decoded, encoded or cut."""
    uri = s3_bucket.uri(key)
    storage.put(uri, key.encode())
    listed = s3_bucket.client().list_objects_v2(Bucket=s3_bucket.name)["Contents"]
    assert [item["Key"] for item in listed] == [key]
    (found,) = storage.list(s3_bucket.uri(""))
    assert found.uri == uri
    assert storage.stat(uri) == found
    with storage.open(found.uri, found.etag) as stream:
        assert stream.read() == key.encode()
    with pytest.raises(AlreadyExistsError):
        storage.put_if_absent(uri, b"other")


def test_listing_is_a_folder_sorted_paged_and_without_markers(
    storage: Storage, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one page; a prefix is a folder, so videos-old/ is not below videos."""
    monkeypatch.setattr(s3, "LIST_PAGE_KEYS", 10)
    client = s3_bucket.client()
    for number in range(33):
        client.put_object(Bucket=s3_bucket.name, Key=f"videos/{number:04d}.mp4", Body=b"")
    client.put_object(Bucket=s3_bucket.name, Key="videos/", Body=b"")
    client.put_object(Bucket=s3_bucket.name, Key="videos-old/1.mp4", Body=b"")
    uris = [item.uri for item in storage.list(s3_bucket.uri("videos"))]
    assert uris == [s3_bucket.uri(f"videos/{number:04d}.mp4") for number in range(33)]
    assert list(storage.list(s3_bucket.uri("nothing"))) == []


def test_a_range_reader_reads_what_a_file_would(
    storage: Storage, s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeks and reads of all kinds, across the read-ahead buffer's borders and the end."""
    monkeypatch.setattr(s3, "READ_AHEAD_BYTES", 1 << 16)
    data = bytes(range(251)) * 600  # more than two read-aheads
    uri = s3_bucket.uri("big.bin")
    storage.put(uri, data)
    with storage.open(uri) as stream:
        assert stream.seekable()
        assert stream.seek(0, 2) == len(data)
        assert stream.read(1) == b""
        for position, length in [(0, 10), (65_530, 10), (5, 140_000), (len(data) - 3, 100)]:
            assert stream.seek(position) == position
            assert stream.read(length) == data[position : position + length]
        stream.seek(-4, 2)
        assert stream.read() == data[-4:]
        with pytest.raises((ValueError, OSError)):
            stream.seek(-1)
        stream.seek(0)
        assert stream.read() == data


def test_small_reads_are_read_ahead(storage: Storage, s3_bucket: S3Bucket) -> None:
    """A demuxer reads in small bites; they must not be a request each."""
    uri = s3_bucket.uri("v.mp4")
    storage.put(uri, b"x" * 100_000)
    s3_bucket.server.requests.clear()
    with storage.open(uri) as stream:
        while stream.read(1000):
            pass
    assert [method for method, _ in s3_bucket.server.requests] == ["HEAD", "GET"]


def test_an_empty_object_reads_as_nothing(storage: Storage, s3_bucket: S3Bucket) -> None:
    """A zero-byte upload is a bad video, not a failing range request."""
    storage.put(s3_bucket.uri("empty.mp4"), b"")
    with storage.open(s3_bucket.uri("empty.mp4")) as stream:
        assert stream.read() == b""


def test_a_changed_object_is_an_error_before_and_during_reading(
    storage: Storage, s3_bucket: S3Bucket
) -> None:
    """Bytes of two versions never mix, and a row never names an etag that was not read."""
    uri = s3_bucket.uri("v.mp4")
    storage.put(uri, b"a" * 5_000_000)
    listed = storage.stat(uri)
    with storage.open(uri) as stream:
        assert stream.read(1) == b"a"
        storage.put(uri, b"b" * 5_000_000)
        stream.seek(4_000_000)
        with pytest.raises(ObjectChangedError, match="changed since"):
            stream.read(1)
    with pytest.raises(ObjectChangedError, match=r"s3://.*v\.mp4"):
        storage.open(uri, listed.etag)


@pytest.mark.parametrize("answer", [Answer.SLOW_DOWN, Answer.LOST, Answer.TRUNCATED])
def test_transient_answers_are_retried(
    answer: Answer, storage: Storage, s3_bucket: S3Bucket
) -> None:
    """503, a reset and half a body all end in the whole object."""
    uri = s3_bucket.uri("v.bin")
    storage.put(uri, b"0123456789" * 1000)
    with storage.open(uri) as stream:
        s3_bucket.server.fail_next("GET", answer, answer)
        assert stream.read() == b"0123456789" * 1000
    assert s3_bucket.server.faults == []


def test_retries_end(storage: Storage, s3_bucket: S3Bucket) -> None:
    """max_attempts is all attempts; the error names the object."""
    uri = s3_bucket.uri("v.bin")
    storage.put(uri, b"data")
    s3_bucket.server.requests.clear()
    s3_bucket.server.fail_next("GET", *[Answer.SLOW_DOWN] * 8)
    with pytest.raises(TransientStorageError, match=r"503 SlowDown\): s3://.*/v\.bin"):
        storage.read_bytes(uri)
    assert len(s3_bucket.server.requests) == s3_bucket.config.max_attempts == 8


def test_denied_and_missing_are_not_retried(storage: Storage, s3_bucket: S3Bucket) -> None:
    """Asking again for what is forbidden or not there only costs time."""
    s3_bucket.server.requests.clear()
    s3_bucket.server.fail_next("GET", Answer.DENIED)
    with pytest.raises(AccessDeniedError, match="AccessDenied"):
        storage.read_bytes(s3_bucket.uri("k"))
    with pytest.raises(NotFoundError):
        storage.open(s3_bucket.uri("k"))
    with pytest.raises(NotFoundError):
        list(storage.list("s3://no-such-bucket-here/x"))
    assert len(s3_bucket.server.requests) == 3


@pytest.mark.parametrize("answer", [Answer.EXPIRED, Answer.UNKNOWN_KEY])
def test_bad_credentials_are_not_a_forbidden_object(
    answer: Answer, storage: Storage, s3_bucket: S3Bucket
) -> None:
    """An expired token is about every object; HEAD has no body that says so, so a GET is asked."""
    s3_bucket.server.fail_next("GET", answer, answer)
    with pytest.raises(CredentialsError, match="does not accept the credentials"):
        storage.read_bytes(s3_bucket.uri("k"))
    num_heads = 2 if answer is Answer.EXPIRED else 1  # botocore asks for the region after a 400
    s3_bucket.server.fail_next("HEAD", *[answer] * num_heads)
    with pytest.raises(CredentialsError):
        storage.open(s3_bucket.uri("k"))
    assert s3_bucket.server.faults == []
    s3_bucket.server.fail_next("HEAD", Answer.DENIED)
    s3_bucket.server.fail_next("GET", Answer.DENIED)
    with pytest.raises(AccessDeniedError):
        storage.open(s3_bucket.uri("k"))


def test_no_credentials_are_an_error_of_their_own(
    s3_bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker without a role must not make a failure row of every video."""
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = s3_bucket.config.model_copy(update={"max_attempts": 3})  # a client of its own
    with pytest.raises(CredentialsError, match="no credentials"):
        storage_for("s3://b/k", config).stat("s3://b/k")


def test_a_server_that_stalls_is_transient(s3_bucket: S3Bucket) -> None:
    """It accepts the connection and says nothing: the reader gives up, in time by default."""
    read_timeout_s = StorageConfig().read_timeout_s
    body_s = s3_body.FIRST_BYTES_S + s3.READ_AHEAD_BYTES / s3_body.SLOWEST_BYTES_PER_S
    longest_attempt_s = s3.CONNECT_TIMEOUT_S + read_timeout_s + body_s
    assert retry.PATIENCE_S + longest_attempt_s < DecodeLimits().timeout_s
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config = s3_bucket.config.model_copy(
            update={"endpoint_url": url, "max_attempts": 2, "read_timeout_s": 0.2}
        )
        with pytest.raises(TransientStorageError, match="ReadTimeout"):
            storage_for("s3://b/k", config).open("s3://b/k")


def test_an_unreachable_server_is_transient(s3_bucket: S3Bucket) -> None:
    """A refused connection is retried, then named, without the address that was tried."""
    config = s3_bucket.config.model_copy(
        update={"endpoint_url": "http://127.0.0.1:9", "max_attempts": 2}
    )
    with pytest.raises(TransientStorageError) as caught:
        storage_for("s3://b/k", config).read_bytes("s3://b/k")
    assert "127.0.0.1" not in str(caught.value)


def test_put_if_absent_keeps_the_first(storage: Storage, s3_bucket: S3Bucket) -> None:
    """The one operation that exactly-once rests on."""
    uri = s3_bucket.uri("part")
    storage.put_if_absent(uri, b"first")
    with pytest.raises(AlreadyExistsError, match="part"):
        storage.put_if_absent(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_a_conflict_of_conditional_puts_is_tried_again(
    storage: Storage, s3_bucket: S3Bucket
) -> None:
    """S3 answers 409 while another put of the key is under way: neither success nor 'exists'."""
    s3_bucket.server.fail_next("PUT", Answer.CONFLICT)
    storage.put_if_absent(s3_bucket.uri("part"), b"mine")
    assert storage.read_bytes(s3_bucket.uri("part")) == b"mine"


def test_credentials_are_in_no_text(s3_bucket: S3Bucket) -> None:
    """Neither errors nor reprs show a key or a password, whatever the server says."""
    config = s3_bucket.config.model_copy(update={"endpoint_url": "http://user:hunter2@127.0.0.1:9"})
    storage = storage_for("s3://b/k", config.model_copy(update={"max_attempts": 1}))
    opener = Opener("s3://b/k", "e", config)
    with pytest.raises(StorageError) as caught:
        storage.read_bytes("s3://b/k")
    texts = [str(caught.value), repr(caught.value), repr(storage), repr(opener)]
    for secret in (*CREDENTIALS.values(), "hunter2"):
        assert not any(secret in text for text in texts)


def test_an_opener_opens_in_another_process(storage: Storage, s3_bucket: S3Bucket) -> None:
    """The decode process gets plain data and makes its own connection."""
    storage.put(s3_bucket.uri("v.mp4"), b"hello")
    video = storage.stat(s3_bucket.uri("v.mp4"))
    opener = Opener(video.uri, video.etag, s3_bucket.config)
    program = (
        "import pickle, sys; opener = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(opener().read())"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(opener), capture_output=True, check=True
    )
    assert child.stdout == b"hello"
    storage.put(video.uri, b"other")
    with pytest.raises(ObjectChangedError):
        opener()


def test_errors_survive_pickling() -> None:
    """They cross process boundaries on the way to a failure row."""
    error = pickle.loads(pickle.dumps(NotFoundError("s3://b/k", "no such object")))
    assert (type(error), str(error)) == (NotFoundError, "no such object: s3://b/k")


def test_listed_and_stat_etags_agree(storage: Storage, s3_bucket: S3Bucket) -> None:
    """One version, one id, however it was found."""
    storage.put(s3_bucket.uri("a/v.mp4"), b"x")
    (listed,) = storage.list(s3_bucket.uri("a/"))
    assert listed == storage.stat(listed.uri)
    assert isinstance(listed, VideoObject)
    assert '"' not in listed.etag
