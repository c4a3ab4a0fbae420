"""Names of hosts: one spelling for each, and which of them the configuration allows (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import idna

MAX_HOST_CHARS = 253
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as a last label: what inet_aton takes for an address


def normal_host(host: str) -> str:
    """The name in lower-case ASCII (IDNA 2008), without the dot at its end.

    ValueError: not a DNS name. Addresses are none, in whatever way they are written.
    """
    name = host.lower().removesuffix(".")
    if len(name) > MAX_HOST_CHARS:
        raise ValueError("the host name is too long")
    if not name.isascii():
        # strict: dots and digits of other scripts stay what they are, and are refused
        name = idna.encode(name, strict=True).decode("ascii")
    elif not host.isascii():
        raise ValueError("the host name has letters that only look like ASCII")
    labels = name.split(".")
    if len(name) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is not a DNS name (addresses are not accepted)")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("the host is an address; a DNS name is wanted")
    return name


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """One entry of ``allowed_domains``.

    ``below``: every host below the name, not the name itself. ``port`` None is the scheme's own.
    """

    name: str
    below: bool
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> Self:
        """``host``, ``*.host``, ``host:port`` or ``*.host:port``; ValueError otherwise."""
        pattern, colon, port = entry.partition(":")
        if colon and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
            raise ValueError(f"{entry!r} is no host; media.example.org or host:port is wanted")
        try:
            name = normal_host(pattern.removeprefix("*."))
        except ValueError as error:
            raise ValueError(f"{entry!r}: {error}") from error
        return cls(name, pattern.startswith("*."), int(port) if colon else None)

    def allows(self, host: str, port: int, default_port: int) -> bool:
        """Whether a URL may name this host (as ``normal_host`` gives it) and port."""
        named = host.endswith(f".{self.name}") if self.below else host == self.name
        return named and port == (self.port or default_port)
