"""URLs are read strictly: one spelling for each host, nothing that two parsers read differently."""

from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.serving.allowed_hosts import AllowedHost, normal_host
from pipeline.serving.video_errors import VideoRefusedError
from pipeline.serving.video_fetch import VideoFetcher, system_resolver
from pipeline.serving.video_url import (
    MAX_URL_CHARS,
    DataUrl,
    FileUrl,
    RemoteUrl,
    S3Url,
    parse_video_url,
)
from pipeline.serving_config import VideoAccessConfig


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://a.example/v.mp4", RemoteUrl("https", "a.example", 443, "/v.mp4")),
        ("HTTPS://A.Example./v.mp4", RemoteUrl("https", "a.example", 443, "/v.mp4")),
        ("https://a.example", RemoteUrl("https", "a.example", 443, "/")),
        ("https://a.example:/x", RemoteUrl("https", "a.example", 443, "/x")),
        ("https://a.example?x=1", RemoteUrl("https", "a.example", 443, "/?x=1")),
        ("http://a.example:8080/x#y", RemoteUrl("http", "a.example", 8080, "/x")),
        (
            "https://a.example/a b/ü?q=%20@",
            RemoteUrl("https", "a.example", 443, "/a%20b/%C3%BC?q=%20@"),
        ),
        ("https://bücher.example/x", RemoteUrl("https", "xn--bcher-kva.example", 443, "/x")),
        ("https://BÜCHER.example/x", RemoteUrl("https", "xn--bcher-kva.example", 443, "/x")),
        ("https://xn--bcher-kva.example/x", RemoteUrl("https", "xn--bcher-kva.example", 443, "/x")),
        ("s3://bucket/a/b c%20ü?#.mp4", S3Url("s3://bucket/a/b c%20ü?#.mp4")),
        ("s3://bucket/a..b/...mp4", S3Url("s3://bucket/a..b/...mp4")),
        ("file:///a/b%20c.mp4", FileUrl("/a/b c.mp4")),
        ("file://localhost/a/%C3%BC", FileUrl("/a/ü")),
        ("data:video/mp4;base64,AAAA", DataUrl("video/mp4", "AAAA")),
        ("DATA:video/x-matroska;codecs=vp9;BASE64,AAAA", DataUrl("video/x-matroska", "AAAA")),
    ],
)
def test_what_urls_mean(url, meant):
    assert parse_video_url(url) == meant


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", "video.mp4", "/etc/passwd", "//a.example/x", "https:", "https:/a.example/x"),
        *("https:a.example", "https://", "https:///x", "https://?x", " https://a.example/"),
        *("https://a.example:0/", "https://a.example:65536/", "https://a.example:443443/"),
        *("https://a.example:80:80/", "https://a.example:٤٤٣/", "https://a.example:-1/"),
        *(
            "https://-a.example/",
            "https://a..example/",
            "https://.a.example/",
            "https://a_b.example/",
        ),
        *("https://a.example../", "https://*.example/", f"https://{'a' * 64}.example/"),
        *(f"https://{'a.' * 200}example/", f"https://a.example/{'x' * MAX_URL_CHARS}"),
        *("https://a%2eexample/", "https://a.example%00/", "https://a example/"),
        *("s3://", "s3://bucket", "s3://bucket/", "s3:///key", "s3://Bucket/key", "s3://a@b/key"),
        *("s3://bucket/a/../b", "s3://bucket/..", "s3://bucket/./b", "s3://bucket/%2e%2e/b"),
        *(
            "s3://bucket/a%2F..%2fb",
            "s3://bucket/.%2E/b",
            "s3://bucket/a\\..\\b",
            "s3://bucket/a\nb",
        ),
        *(
            "file:",
            "file://",
            "file:/etc/passwd",
            "file:etc",
            "file://host/x",
            "file://127.0.0.1/x",
        ),
        *("file:///a?b", "file:///a#b", "file:///a%00b", "file:///a%ffb", "file:///a\x00b"),
        *(
            "data:",
            "data:,x",
            "data:text/html;base64,AAAA",
            "data:video/mp4,AAAA",
            "data:;base64,AAAA",
        ),
        *("data:video/mp4;base64;x=y,AAAA", f"data:video/mp4;x={'y' * 300};base64,AAAA"),
        *("javascript:alert(1)", "blob:https://a.example/x", "ftps://a.example/x"),
    ],
)
def test_what_is_no_url_of_a_video(url):
    with pytest.raises(VideoRefusedError) as caught:
        parse_video_url(url)
    assert (caught.value.status, caught.value.code) == (400, "invalid_video_url")


def test_a_signature_and_a_payload_are_not_shown():
    assert parse_video_url("https://a.example/v?sig=secret").shown == "https://a.example/v"
    for url in ("https://a.example/v?sig=secret", "data:video/mp4;base64,secret"):
        assert "secret" not in repr(parse_video_url(url))


ENTRIES = ("media.example.org", "*.cdn.example", "port.example:8443", "*.ports.example:81")


@pytest.mark.parametrize(
    ("host", "port", "is_allowed"),
    [
        ("media.example.org", 443, True),
        ("media.example.org", 8443, False),
        ("media.example.org", 80, False),
        ("x.media.example.org", 443, False),
        ("evilmedia.example.org", 443, False),
        ("media.example.org.evil.example", 443, False),
        ("cdn.example", 443, False),
        ("a.cdn.example", 443, True),
        ("a.b.cdn.example", 443, True),
        ("evilcdn.example", 443, False),
        ("port.example", 8443, True),
        ("port.example", 443, False),
        ("a.ports.example", 81, True),
        ("a.ports.example", 443, False),
    ],
)
def test_which_hosts_the_entries_allow(host, port, is_allowed):
    assert any(AllowedHost.parse(entry).allows(host, port, 443) for entry in ENTRIES) is is_allowed


def test_entries_are_spelt_like_hosts_of_urls():
    assert AllowedHost.parse("*.BÜCHER.example.").name == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "settings",
    [
        *({"allowed_domains": (entry,)} for entry in ("", "*", "*.", "10.0.0.1", "[::1]", "a b")),
        *({"allowed_domains": (entry,)} for entry in ("https://a.example", "a.example/x", "a*.b")),
        *({"allowed_domains": (entry,)} for entry in ("a.example:", "a.example:0", "a.example:x")),
        {"allowed_private_addresses": ("10.0.0.1/8",)},
        {"allowed_private_addresses": ("intranet",)},
        {"allowed_local_media_path": "videos"},
        {"allowed_local_media_path": ""},
        {"allowed_s3_prefixes": ("bucket/prefix",)},
        {"allowed_s3_prefixes": ("s3://",)},
    ],
)
def test_settings_that_could_not_work_are_refused(settings):
    """An entry that matches nothing, or more than is meant, is found at the start."""
    with pytest.raises(ValueError):
        VideoAccessConfig(**settings)


URL_PIECES = st.sampled_from(
    [
        *("https://", "http://", "s3://", "file://", "data:video/mp4;base64,", "//", "/", ":", "@"),
        *("media.example.org", "cdn.example", "a.", "evil.example", "127.0.0.1", "[::1]", "0x7f.1"),
        *(
            "?",
            "#",
            "\\",
            "%2f",
            "%40",
            "%2e",
            "..",
            ".",
            "。",
            "．",
            "１",
            "ⅷ",
            "\u200d",
            "\u00ad",
            "\t",
        ),
        *(
            "\r\n",
            "\x00",
            " ",
            ":443",
            ":80",
            ":8443",
            "user:pw",
            "localhost",
            "ß",
            "İ",
            "K",
            "\ud800",
        ),
    ]
)
URLS = st.one_of(
    st.text(max_size=60),
    st.lists(URL_PIECES, max_size=10).map("".join),
    st.lists(URL_PIECES, max_size=6).map(lambda pieces: "https://" + "".join(pieces)),
    st.tuples(st.sampled_from(["https://", "s3://", "file://", "http:"]), st.text(max_size=30)).map(
        "".join
    ),
)
FETCHER = VideoFetcher(VideoAccessConfig(allowed_domains=ENTRIES, allow_http=True), system_resolver)
PARENTS = ("media.example.org", "port.example")
DOMAINS = (".cdn.example", ".ports.example")


@given(URLS)
@example("https://media.example.org\\@evil.example/")
@example("https://evil.example#@media.example.org/")
@example("https://media.example.org:443@evil.example/")
def test_any_text_is_a_url_or_refused(url):
    """Guards that nothing but our error comes out, and no host that is not allowed gets through."""
    try:
        parsed = parse_video_url(url)
    except VideoRefusedError:
        return
    if isinstance(parsed, RemoteUrl):
        assert normal_host(parsed.host) == parsed.host
        assert parsed.target.isascii()
        assert not set(parsed.target) & set(" \r\n\t\0")
        # other parsers read the same host from what we would send on
        assert urlsplit(parsed.text).hostname == parsed.host
        assert parse_video_url(parsed.text) == parsed
        with suppress(VideoRefusedError):
            FETCHER.check(parsed)
            assert parsed.host in PARENTS or parsed.host.endswith(DOMAINS)
            assert parsed.port in (443, 80, 8443, 81)
    elif isinstance(parsed, S3Url):
        assert not {".", ".."} & set(parsed.uri.split("/"))
    elif isinstance(parsed, FileUrl):
        assert parsed.path.startswith("/")
        assert "\0" not in parsed.path


@given(st.text(max_size=300))
def test_any_text_is_a_host_or_a_value_error(host):
    try:
        name = normal_host(host)
    except ValueError:
        return
    assert normal_host(name) == name
    assert name.isascii()
