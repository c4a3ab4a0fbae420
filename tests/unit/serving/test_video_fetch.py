"""Fetching: certificates are checked, answers that lie are found, and one clock covers it all."""

import asyncio
import gzip
import hashlib
import os
import socket
import threading
import time

import pytest

from pipeline.serving.held_video import HeldVideo
from pipeline.serving.video_errors import VideoFetchError, VideoRefusedError, VideoSourceError
from pipeline.serving.video_fetch import VideoFetcher
from pipeline.serving.video_url import parse_video_url
from pipeline.serving_config import VideoAccessConfig
from tests.media_server import HOST, Answer, always, media_authority, media_server

__all__ = ["media_authority", "media_server"]

LOOPBACK = ("127.0.0.0/8",)
BODY = os.urandom(300_000)


def access_to(server, **changes):
    settings = {
        "allowed_domains": server.entries(HOST, "a.cdn.test", "other.test"),
        "allowed_private_addresses": LOOPBACK,
        "allow_http": True,
        "timeout_s": 20.0,
        "max_bytes": 1_000_000,
    }
    return VideoAccessConfig(**(settings | changes))


def fetch(url, access, resolver=None):
    """The video that was fetched; errors are those of the fetcher."""
    with HeldVideo.temporary(access.max_bytes) as held:
        fetcher = VideoFetcher(access, resolver or always("127.0.0.1", hosts=(HOST, "a.cdn.test")))
        asyncio.run(fetcher.fetch(parse_video_url(url), held))
        return held.video("of the test")


def refused(url, access, resolver=None):
    with pytest.raises(VideoSourceError) as caught:
        fetch(url, access, resolver)
    assert "127.0.0.1" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_video_arrives_whole(media_server, scheme):
    media_server.answers["/a%20b.mp4?sig=1"] = Answer.video(BODY)
    found = fetch(getattr(media_server, scheme)("/a%20b.mp4?sig=1#part"), access_to(media_server))
    assert found.size_bytes == len(BODY)
    assert found.etag == hashlib.blake2b(BODY, digest_size=16).hexdigest()


def test_chunks_are_put_together(media_server):
    media_server.answers["/"] = Answer(
        headers=(("Transfer-Encoding", "chunked"),),
        pieces=(b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n", b"0\r\n\r\n"),
    )
    assert fetch(media_server.https(), access_to(media_server)).size_bytes == 5


def test_nothing_of_ours_is_sent(media_server, monkeypatch):
    """Guards against proxies, netrc, cookies and credentials."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    media_server.answers["/v"] = Answer(
        302, (("Location", "/w"), ("Set-Cookie", "a=b"), ("Content-Length", "0"))
    )
    media_server.answers["/w"] = Answer.video(b"x")
    fetch(media_server.https("/v"), access_to(media_server))
    sent = {name for _, headers in media_server.requests for name in headers}
    assert sent == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
    assert media_server.requests[0][1]["Accept-Encoding"] == "identity"
    assert media_server.requests[0][1]["Host"] == f"{HOST}:{media_server.https_port}"


def test_the_certificate_is_that_of_the_named_host(media_server):
    access = access_to(media_server)
    assert (
        refused(
            media_server.https("/", "other.test"),
            access,
            always("127.0.0.1", hosts=("other.test",)),
        ).code
        == "video_fetch_failed"
    )
    assert media_server.requests == []
    media_server.answers["/"] = Answer.video(b"x")
    fetch(media_server.https("/", "a.cdn.test"), access)


def test_an_unknown_authority_is_refused(media_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    assert "certificate" in refused(media_server.https(), access_to(media_server)).message
    assert media_server.requests == []


def test_redirects_are_followed_within_the_limit(media_server):
    for step in range(3):
        media_server.answers[f"/{step}"] = Answer.redirect(f"/{step + 1}", status=301 + step % 3)
    media_server.answers["/3"] = Answer.video(b"xyz")
    resolver = always("127.0.0.1")
    access = access_to(media_server)
    assert fetch(media_server.https("/0"), access, resolver).size_bytes == 3
    assert resolver.asked == [HOST] * 4
    error = refused(media_server.https("/0"), access_to(media_server, max_redirects=2))
    assert (error.status, error.code) == (400, "too_many_redirects")
    media_server.answers["/0"] = Answer.redirect("/0")
    assert refused(media_server.https("/0"), access).code == "too_many_redirects"


def test_a_redirect_may_go_to_another_allowed_host(media_server):
    media_server.answers["/0"] = Answer.redirect(media_server.https("/1", "a.cdn.test"))
    media_server.answers["/1"] = Answer.video(b"xyz")
    assert fetch(media_server.https("/0"), access_to(media_server)).size_bytes == 3


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (Answer(404, (("Content-Length", "0"),)), 400, "video_not_found"),
        (Answer(403, (("Content-Length", "0"),)), 400, "video_fetch_failed"),
        (Answer(429, (("Content-Length", "0"),)), 502, "video_fetch_failed"),
        (Answer(500, (("Content-Length", "0"),)), 502, "video_fetch_failed"),
        (Answer(204), 502, "video_fetch_failed"),
        (Answer(206, (("Content-Length", "1"),), (b"x",)), 502, "video_fetch_failed"),
        (Answer(302, (("Content-Length", "0"),)), 502, "video_fetch_failed"),
    ],
)
def test_other_statuses(media_server, answer, status, code):
    media_server.answers["/"] = answer
    error = refused(media_server.https(), access_to(media_server))
    assert (error.status, error.code) == (status, code)


GZIPPED = gzip.compress(bytes(10_000_000))


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x-unknown"])
def test_compressed_bodies_are_refused_unread(media_server, encoding):
    """Guards against a small body that is large once decompressed."""
    headers = (("Content-Encoding", encoding), ("Content-Length", str(len(GZIPPED))))
    media_server.answers["/"] = Answer(headers=headers, pieces=(GZIPPED,))
    error = refused(media_server.https(), access_to(media_server))
    assert (error.status, error.code) == (400, "content_encoding")


def test_a_transfer_encoding_of_gzip_is_refused(media_server):
    media_server.answers["/"] = Answer(
        headers=(("Transfer-Encoding", "gzip, chunked"),), pieces=(GZIPPED,)
    )
    assert refused(media_server.https(), access_to(media_server)).status == 502


def test_a_stated_length_over_the_limit_is_refused_unread(media_server):
    media_server.answers["/"] = Answer(headers=(("Content-Length", "1000001"),))
    error = refused(media_server.https(), access_to(media_server))
    assert (error.status, error.code) == (413, "video_too_large")


@pytest.mark.parametrize(
    "headers", [(), (("Transfer-Encoding", "chunked"),)], ids=["until the end", "chunked"]
)
def test_a_body_over_the_limit_is_cut_off(media_server, headers):
    chunk = BODY if not headers else b"%x\r\n%b\r\n" % (len(BODY), BODY)
    sent = []
    media_server.answers["/"] = Answer(
        headers=headers, pieces=[chunk] * 1000, between=lambda: sent.append(1)
    )
    error = refused(media_server.https(), access_to(media_server))
    assert (error.status, error.code) == (413, "video_too_large")
    assert len(sent) < 900  # the server was not read to the end


@pytest.mark.parametrize(
    "answer",
    [
        Answer(headers=(("Content-Length", "10"),), pieces=(b"short",)),
        Answer(headers=(("Transfer-Encoding", "chunked"),), pieces=(b"5\r\nab",)),
        Answer(headers=(("Transfer-Encoding", "chunked"),), pieces=(b"5\r\nabcde\r\n",)),
        Answer(headers=(("Transfer-Encoding", "chunked"),), pieces=(b"-5\r\nabcde\r\n",)),
        Answer(headers=(("Content-Length", "-1"),), pieces=(b"x",)),
        Answer(headers=(("Content-Length", "1"), ("Content-Length", "2")), pieces=(b"xy",)),
        Answer(headers=(("X", "y" * 1_000_000),), pieces=(b"x",)),
        Answer(headers=(("X y", "z"),), pieces=(b"x",)),
    ],
)
def test_answers_that_lie_are_failures(media_server, answer):
    media_server.answers["/"] = answer
    error = refused(media_server.https(), access_to(media_server))
    assert isinstance(error, VideoFetchError)
    assert (error.status, error.code) == (502, "video_fetch_failed")


def test_bytes_after_the_stated_length_are_no_part_of_the_video(media_server):
    media_server.answers["/"] = Answer(headers=(("Content-Length", "2"),), pieces=(b"ab", b"cd"))
    assert fetch(media_server.https(), access_to(media_server)).size_bytes == 2


def test_a_slow_body_ends_at_the_total_timeout(media_server):
    """A byte now and then must not keep the connection for ever."""
    stop = threading.Event()
    media_server.answers["/"] = Answer(
        headers=(("Content-Length", "100000"),),
        pieces=[b"x"] * 100_000,
        between=lambda: stop.wait(0.05),
    )
    started_s = time.monotonic()
    error = refused(media_server.https(), access_to(media_server, timeout_s=0.7))
    stop.set()
    assert (error.status, error.code) == (504, "video_fetch_timeout")
    assert time.monotonic() - started_s < 15


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_silent_server_ends_at_the_total_timeout(scheme):
    """In the TLS handshake as well as before the answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        access = VideoAccessConfig(
            allowed_domains=(f"{HOST}:{port}",),
            allowed_private_addresses=LOOPBACK,
            allow_http=True,
            timeout_s=0.5,
        )
        error = refused(f"{scheme}://{HOST}:{port}/", access)
        assert (error.status, error.code) == (504, "video_fetch_timeout")


def test_a_resolver_that_hangs_ends_at_the_total_timeout(media_server):
    async def hang(host, port):
        await asyncio.sleep(3600)

    error = refused(media_server.https(), access_to(media_server, timeout_s=0.3), hang)
    assert error.code == "video_fetch_timeout"


def test_the_next_address_is_tried(media_server):
    media_server.answers["/"] = Answer.video(b"x")
    resolver = always("127.0.0.2", "127.0.0.1")  # nobody listens on the first
    assert fetch(media_server.https(), access_to(media_server), resolver).size_bytes == 1


def test_hosts_that_are_not_there(media_server):
    access = access_to(media_server)
    assert refused(media_server.https(), access, always(hosts=())).status == 502
    assert refused(media_server.https(), access, always()).status == 502
    assert refused(media_server.https(), access, always("127.0.0.2")).status == 502


def test_a_full_disk_is_a_failure_in_words():
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by its owner
    with (
        HeldVideo(full, max_bytes=100) as held,
        pytest.raises(VideoFetchError, match="no room"),
    ):
        held.write(b"x")


def test_http_and_ports_are_refused_unless_allowed(media_server):
    access = access_to(media_server, allow_http=False)
    with pytest.raises(VideoRefusedError, match="use https"):
        fetch(media_server.http(), access)
    only_default_port = access_to(media_server, allowed_domains=(HOST,))
    with pytest.raises(VideoRefusedError, match="allowed_domains"):
        fetch(media_server.https(), only_default_port)
    assert media_server.requests == []
