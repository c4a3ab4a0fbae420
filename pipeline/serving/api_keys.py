"""Who may ask: keys from a file and from the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from starlette.datastructures import Headers

from pipeline.command_line import API_KEYS_VARIABLE
from pipeline.config_errors import ConfigError

_SCHEME = "bearer"


def are_keys_configured(api_key_file: str | None) -> bool:
    """Whether an endpoint that is configured so, in this environment, asks for keys."""
    return api_key_file is not None or API_KEYS_VARIABLE in os.environ


class ApiKeys:
    """The keys of an endpoint; only their digests are kept."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def load(cls, api_key_file: str | None) -> ApiKeys:
        """Keys of a file (one a line, ``#`` begins a comment line) and of LVSPEC_API_KEYS.

        Raises ConfigError if the file can't be read, or if keys are configured and there is none.
        """
        keys: list[str] = []
        if api_key_file is not None:
            try:
                lines = Path(api_key_file).expanduser().read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"serving.api_key_file can't be read: {error}") from error
            keys += [line.strip() for line in lines if not line.lstrip().startswith("#")]
        keys += [key.strip() for key in os.environ.get(API_KEYS_VARIABLE, "").split(",")]
        keys = [key for key in keys if key]
        if not keys and are_keys_configured(api_key_file):
            raise ConfigError(
                f"serving.api_key_file and {API_KEYS_VARIABLE} hold no key: an endpoint that asks "
                "for keys would let everyone in"
            )
        return cls(keys)

    @property
    def are_wanted(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._digests)

    def allow(self, headers: Headers) -> bool:
        """Whether a request with these headers may be answered."""
        if not self._digests:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # All are compared, so that the time says nothing of which one is near.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == _SCHEME and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
