"""A real HTTP and HTTPS server on loopback for fetched videos, and a resolver of the test's own.

``media_server`` serves what a test puts into ``answers``; its certificate is for ``media.test``
and ``*.cdn.test``, signed by an authority that the fixture makes (and SSL_CERT_FILE names).
"""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "media.test"
NAMES = (HOST, "*.cdn.test")


@dataclass(frozen=True)
class Answer:
    """Status, headers and pieces of a body. No header is added: a test says its lies itself.

    ``between`` is called between the pieces.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    pieces: Sequence[bytes] = ()
    between: Callable[[], object] | None = None

    @classmethod
    def video(cls, data: bytes) -> Answer:
        headers = (("Content-Type", "video/mp4"), ("Content-Length", str(len(data))))
        return cls(headers=headers, pieces=(data,))

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Answer:
        return cls(status, (("Location", location), ("Content-Length", "0")))


@dataclass
class MediaServer:
    """``answers`` by path; ``requests`` holds each request's (Host header and path, headers)."""

    https_port: int
    http_port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def https(self, path: str = "/", host: str = HOST) -> str:
        return f"https://{host}:{self.https_port}{path}"

    def http(self, path: str = "/", host: str = HOST) -> str:
        return f"http://{host}:{self.http_port}{path}"

    def entries(self, *hosts: str) -> tuple[str, ...]:
        """The hosts for ``allowed_domains``, each with both ports."""
        return tuple(f"{host}:{port}" for host in hosts for port in self.ports)

    @property
    def ports(self) -> tuple[int, int]:
        return self.https_port, self.http_port


@dataclass
class ScriptedResolver:
    """Answers by host, one of its answers for each look-up; the last one stays."""

    answers: dict[str, list[Sequence[str]]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def always(*addresses: str, hosts: Sequence[str] = (HOST,)) -> ScriptedResolver:
    return ScriptedResolver({host: [addresses] for host in hosts})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        media: MediaServer = self.server.media  # type: ignore[attr-defined]
        media.requests.append((f"{self.headers['Host']}{self.path}", dict(self.headers)))
        answer = media.answers.get(self.path, Answer(404, (("Content-Length", "0"),)))
        self.close_connection = True
        try:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            for index, piece in enumerate(answer.pieces):
                if index and answer.between is not None:
                    answer.between()
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:  # the client has had enough
            return

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    media: MediaServer
    tls: ssl.SSLContext | None = None

    def finish_request(self, request, client_address) -> None:
        try:
            if self.tls is not None:  # in the request's thread: a bad client must block no other
                request = self.tls.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass
        finally:
            request.close()


@pytest.fixture(scope="session")
def media_authority(tmp_path_factory) -> tuple[Path, Path]:
    """(the authority's certificate, the server's certificate and key), PEM files."""
    folder = tmp_path_factory.mktemp("authority")
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, public_key, *extensions) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        signed = builder.sign(ca_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    ca_file, server_file = folder / "authority.pem", folder / "server.pem"
    ca_file.write_bytes(
        certificate(
            ca_name,
            ca_key.public_key(),
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False),
        )
    )
    server_file.write_bytes(
        certificate(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)]),
            key.public_key(),
            (x509.SubjectAlternativeName([x509.DNSName(name) for name in NAMES]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False),
        )
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return ca_file, server_file


@pytest.fixture
def media_server(media_authority, monkeypatch) -> Iterator[MediaServer]:
    ca_file, server_file = media_authority
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(server_file)
    https, http = (_Server(("127.0.0.1", 0), _Handler) for _ in range(2))
    https.tls = tls
    media = MediaServer(https.server_address[1], http.server_address[1])
    for server in (https, http):
        server.media = media
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield media
    for server in (https, http):
        server.shutdown()
        server.server_close()
