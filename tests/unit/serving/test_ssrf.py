"""No URL makes the endpoint ask a host, an address or a file that it is not allowed to.

Every hostile request runs through the whole loader against a server that listens on loopback and
holds a secret: the request is refused, and the server was never asked for the secret.
"""

import asyncio
import base64
import os
import socket
import threading

import pytest
from video_files import write_video

from pipeline.config import StorageConfig, VideoConfig
from pipeline.serving import video_fetch
from pipeline.serving.video_errors import VideoRefusedError, VideoSourceError
from pipeline.serving.video_loader import VideoLoader, VideoRequest
from pipeline.serving_config import VideoAccessConfig
from tests.media_server import (
    HOST,
    Answer,
    ScriptedResolver,
    always,
    media_authority,
    media_server,
)

__all__ = ["media_authority", "media_server"]

PUBLIC = "93.184.216.34"
INSIDE = ("allowed.test", "*.below.test")


async def lenient_resolver(host, port):
    """What the C library makes of odd hosts, and one answer for all names: loopback."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return ["127.0.0.1"]
    return [address[0] for *_, address in found]


def load(url, access, resolver=lenient_resolver):
    """Load once; the errors are the loader's."""

    async def once():
        loader = VideoLoader(VideoConfig(), StorageConfig(), access, 1, resolver)
        try:
            return await loader.load(VideoRequest(url, num_frames=2))
        finally:
            await loader.close()

    return asyncio.run(once())


def refusal(url, access, resolver=lenient_resolver):
    with pytest.raises(VideoRefusedError) as caught:
        load(url, access, resolver)
    error = caught.value
    assert error.status in (400, 403)
    for secret in ("127.0.0.1", "169.254", "::1", "passwd", "user:pw"):
        assert secret not in error.message.replace("127.0.0.1.nip.io", "")
    return error


HOSTILE_HOSTS = [
    # loopback in every spelling
    *("127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "2130706433", "017700000001"),
    *(
        "0177.0.0.1",
        "0177.1",
        "0x7f.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "0X7F000001",
        "0x7f.0x0.0x0.0x1",
    ),
    *("127.0.0.1.", "127.0.0.01", "127.000.000.001", "0", "0.0.0.0", "00000000", "0x0"),
    *(
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
    ),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::1%25lo]", "[fe80::1]", "[::1", "::1"),
    # digits, dots and letters of other scripts
    *("１２７.０.０.１", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "①②⑦.⓪.⓪.①", "١٢٧.٠.٠.١"),
    *("ａllowed.test", "allowed。test", "ⓐllowed.test", "allowed\u00ad.test", "allowed\u200d.test"),
    *("аllowed.test", "allowed.tеst"),  # Cyrillic
    # metadata
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
    *("[::ffff:169.254.169.254]", "[fd00:ec2::254]", "metadata.google.internal", "metadata"),
    *("instance-data.ec2.internal", "100.100.100.200", "168.63.129.16"),
    # names that lead to loopback
    *("localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "localtest.me"),
    *("127.0.0.1.nip.io", "lvh.me", "ip6-localhost", "kubernetes.default.svc"),
    # private networks
    *("10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "[fc00::1]", "167772161"),
    # nearly an allowed host
    *(
        "evilallowed.test",
        "allowed.test.evil.test",
        "sub.allowed.test",
        "below.test",
        "evilbelow.test",
    ),
    *("allowed.test@evil.test", "evil.test@allowed.test", "user:pw@allowed.test", "@allowed.test"),
    *("allowed.test:pw@evil.test", "evil.test\\@allowed.test", "allowed.test\\.evil.test"),
    *("evil.test#@allowed.test", "evil.test?@allowed.test", "evil.test/@allowed.test"),
    *("allowed.test%00.evil.test", "allowed.test\x00.evil.test", "allowed.test%2eevil.test"),
    *("allowed.test\r\nHost: evil.test", "allowed.test%0d%0aHost:evil.test", "allowed.test\tevil"),
    *("allowed .test", "al\nlowed.test", "allowed.test,evil.test", "*.below.test", "..below.test"),
    *("-.below.test", "%61llowed.test", "[allowed.test]", "", ".", "..", "*"),
]


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_hostile_hosts_are_refused(media_server, scheme, host):
    """By themselves, and with the port of the server that listens there."""
    access = VideoAccessConfig(
        allowed_domains=media_server.entries(*INSIDE) + INSIDE,
        allow_http=True,
        allowed_private_addresses=("127.0.0.0/8", "::1/128"),
    )
    port = media_server.https_port if scheme == "https" else media_server.http_port
    for url in (f"{scheme}://{host}:{port}/secret", f"{scheme}://{host}/secret"):
        refusal(url, access)
    assert media_server.requests == []


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["127.8.8.8"], ["0.0.0.0"], ["::1"], ["::ffff:127.0.0.1"], ["10.0.0.1"]),
        *(["169.254.169.254"], ["fd00:ec2::254"], ["fe80::1%1"], ["100.64.0.1"], ["2002:7f00:1::"]),
        *(
            ["64:ff9b::7f00:1"],
            ["::127.0.0.1"],
            ["224.0.0.1"],
            ["255.255.255.255"],
            ["192.168.1.1"],
        ),
        # one bad one among good ones, at any place
        *([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "2606:4700::1", "::1"]),
        *(["not-an-address"], ["127.1"], ["0x7f000001"]),
    ],
)
def test_allowed_hosts_that_lead_inside_are_refused(media_server, addresses):
    """As localtest.me does, or a host whose owner turned."""
    access = VideoAccessConfig(allowed_domains=media_server.entries(HOST), allow_http=True)
    for url in (media_server.https("/secret"), media_server.http("/secret")):
        error = refusal(url, access, always(*addresses))
        assert (error.status, error.code) == (403, "video_url_not_allowed")
    assert media_server.requests == []


@pytest.fixture
def connections(monkeypatch):
    """The addresses that connections were made to; those to PUBLIC land on loopback."""
    made = []
    open_connection = asyncio.open_connection

    async def connect(host, port, **options):
        made.append(host)
        return await open_connection("127.0.0.1" if host == PUBLIC else host, port, **options)

    monkeypatch.setattr(video_fetch.asyncio, "open_connection", connect)
    return made


def test_a_name_that_is_rebound_changes_nothing(media_server, connections, tmp_path):
    """The address that was checked is the one that is connected to: there is no second look-up."""
    video = write_video(tmp_path / "a.mp4").read_bytes()
    media_server.answers["/v"] = Answer.video(video)
    resolver = ScriptedResolver({HOST: [[PUBLIC], ["127.0.0.1"]]})
    access = VideoAccessConfig(allowed_domains=media_server.entries(HOST))
    assert load(media_server.https("/v"), access, resolver).frames.shape[0] == 2
    assert connections == [PUBLIC]
    assert resolver.asked == [HOST]


def test_a_name_that_is_rebound_between_redirects_is_refused(media_server, connections):
    """A redirect is a new look-up, and that is checked, too."""
    media_server.answers["/v"] = Answer.redirect("/secret")
    resolver = ScriptedResolver({HOST: [[PUBLIC], ["127.0.0.1"]]})
    access = VideoAccessConfig(allowed_domains=media_server.entries(HOST))
    refusal(media_server.https("/v"), access, resolver)
    assert connections == [PUBLIC]
    assert [path for path, _ in media_server.requests] == [f"{HOST}:{media_server.https_port}/v"]


HOSTILE_LOCATIONS = [
    *("http://127.0.0.1/secret", "https://127.0.0.1/secret", "//127.0.0.1/secret"),
    *(
        "https://127.0.0.1:{https}/secret",
        "http://127.0.0.1:{http}/secret",
        "//127.1:{https}/secret",
    ),
    *("https://[::1]:{https}/secret", "https://[::ffff:127.0.0.1]/secret", "https://[::1/secret"),
    *(
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/latest/",
        "//2852039166/",
    ),
    *("https://2130706433/secret", "https://0177.0.0.1/secret", "https://0x7f.1:{https}/secret"),
    *(
        "https://localhost:{https}/secret",
        "https://other.test:{https}/secret",
        "//evil.test/secret",
    ),
    *("http://media.test:{http}/secret", "HTTP://media.test:{http}/secret"),  # a downgrade
    *(
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
    ),
    *(
        "s3://bucket/secret.mp4",
        "data:video/mp4;base64,AAAA",
        "ftp://media.test/x",
        "gopher://a/_x",
    ),
    *("javascript:alert(1)", "https:media.test/secret", "https:///secret", "https://"),
    *("https://user:pw@media.test:{https}/secret", "https://media.test:{https}\\@127.0.0.1/secret"),
    *(
        "\\\\127.0.0.1\\secret",
        "/\\127.0.0.1/secret",
        "https://media.test:1/secret",
        "//media.test/x",
    ),
    *(
        "https://media.test\t:{https}/secret",
        "https://m\xe9dia.test/secret",
        "https://media.test:x/",
    ),
]


@pytest.mark.parametrize("location", HOSTILE_LOCATIONS)
def test_hostile_redirects_are_refused(media_server, location):
    """From an allowed host to anything else; http:// being allowed changes nothing."""
    target = location.format(https=media_server.https_port, http=media_server.http_port)
    media_server.answers["/v"] = Answer.redirect(target)
    media_server.answers["/secret"] = Answer.video(b"secret")
    access = VideoAccessConfig(
        allowed_domains=media_server.entries(HOST),
        allow_http=True,
        allowed_private_addresses=("127.0.0.0/8",),
        allowed_local_media_path="/etc",
        allowed_s3_prefixes=("s3://bucket",),
    )
    refusal(media_server.https("/v"), access, always("127.0.0.1"))
    assert [path for path, _ in media_server.requests] == [f"{HOST}:{media_server.https_port}/v"]


def test_what_is_not_configured_is_refused(media_server):
    """The defaults read nothing but data URLs."""
    data = "data:video/mp4;base64," + base64.b64encode(b"not a video").decode()
    for url in (
        *(media_server.https("/secret"), media_server.http("/secret"), f"https://{HOST}/secret"),
        *("file:///etc/passwd", "s3://bucket/key.mp4", "s3://bucket/secret"),
    ):
        assert refusal(url, VideoAccessConfig()).status == 403
    assert refusal(data, VideoAccessConfig(allow_data_urls=False)).status == 403
    assert media_server.requests == []


HOSTILE_FILES = [
    *("file:///etc/passwd", "file://{root}/../secret.mp4", "file://{root}/%2e%2e/secret.mp4"),
    *("file://{root}/%2E%2E%2Fsecret.mp4", "file://{root}/a/../../secret.mp4", "file://{root}"),
    *("file://{root}/", "file://{root}/link.mp4", "file://{root}/folder/secret.mp4"),
    *(
        "file://{root}-other/secret.mp4",
        "file://localhost{root}/../secret.mp4",
        "file:///{root}/..",
    ),
    *("file://evil.test{root}/a.mp4", "file://127.0.0.1{root}/a.mp4", "file:{root}/a.mp4"),
    *("file://{root}/a.mp4%00.txt", "file://{root}/a.mp4?x", "file://{root}/a.mp4#x"),
    *(
        "file://{root}/pipe",
        "file://{root}/socket",
        "file:///proc/self/environ",
        "file:///dev/zero",
    ),
    *("file:///proc/self/cwd/README.md", "file://{root}/null", "file://{root}/folder"),
]


@pytest.mark.parametrize("url", HOSTILE_FILES)
def test_files_elsewhere_are_refused(tmp_path, monkeypatch, url):
    root = tmp_path / "videos"
    for folder in (root, tmp_path / "videos-other"):
        folder.mkdir()
    for secret in (tmp_path / "secret.mp4", tmp_path / "videos-other" / "secret.mp4"):
        write_video(secret)
    write_video(root / "a.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "folder").symlink_to(tmp_path)
    (root / "null").symlink_to("/dev/null")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(root)
        listener.bind("socket")
        access = VideoAccessConfig(allowed_local_media_path=str(root))
        with pytest.raises(VideoSourceError) as caught:
            load(url.format(root=root), access)
    assert caught.value.status in (400, 403)
    assert str(tmp_path) not in caught.value.message


def test_many_hostile_requests_at_once_leave_no_thread_behind(media_server):
    """Guards the endpoint's health after an attack."""
    access = VideoAccessConfig(allowed_domains=media_server.entries(*INSIDE))

    async def attack():
        loader = VideoLoader(VideoConfig(), StorageConfig(), access, 2, lenient_resolver)
        outcomes = await asyncio.gather(
            *(loader.load(VideoRequest(f"https://{host}/")) for host in HOSTILE_HOSTS * 5),
            return_exceptions=True,
        )
        await loader.close()
        return outcomes

    before = threading.active_count()
    outcomes = asyncio.run(attack())
    assert all(isinstance(outcome, VideoRefusedError) for outcome in outcomes)
    assert threading.active_count() <= before + 1
