"""The settings of an endpoint: who may ask what, how long it may take, how many replicas."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.config_section import Section
from pipeline.serving.allowed_hosts import AllowedHost


def _hosts(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        AllowedHost.parse(entry)
    return entries


def _networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        ip_network(entry)
    return entries


def _absolute(folder: str | None) -> str | None:
    if folder is not None and not folder.startswith("/"):
        raise ValueError(f"{folder!r} is not an absolute path")
    return folder


def _s3_prefixes(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    for prefix in prefixes:
        if not re.match(r"s3://[^/\s]", prefix):
            raise ValueError(f"{prefix!r}: s3://bucket or s3://bucket/prefix is wanted")
    return prefixes


class VideoAccessConfig(Section):
    """Where the videos of requests may come from; everything else is refused."""

    allowed_domains: Annotated[tuple[str, ...], AfterValidator(_hosts)] = ()
    """Hosts that `https://` URLs may name (`media.example.org`; `*.example.org`: any host below),
    on port 443 (http: 80) unless the entry names another: `media.example.org:8443`. Private,
    loopback, link-local and metadata addresses are refused even then."""
    allow_http: bool = False
    """Plain `http://` URLs of the allowed hosts, too."""
    allowed_private_addresses: Annotated[tuple[str, ...], AfterValidator(_networks)] = ()
    """Networks (`10.1.0.0/16`) that allowed hosts may resolve to although they are private.
    Link-local and metadata addresses stay refused."""
    allowed_local_media_path: Annotated[str | None, AfterValidator(_absolute)] = None
    """Folder (absolute) below which `file://` URLs may lie; None: no files."""
    allowed_s3_prefixes: Annotated[tuple[str, ...], AfterValidator(_s3_prefixes)] = ()
    """`s3://bucket/folder` below which objects are read with the server's own credentials."""
    allow_data_urls: bool = True
    """`data:video/mp4;base64,...` in the request itself."""
    max_bytes: int = Field(default=256 << 20, ge=1)
    """Largest video, bytes."""
    max_redirects: int = Field(default=3, ge=0)
    """Redirects followed; each is checked like the URL itself."""
    max_concurrent_fetches: int = Field(default=8, ge=1)
    """Videos fetched at once; each takes at most max_bytes of temporary disk."""
    timeout_s: float = Field(default=30.0, gt=0)
    """For fetching one video, s."""
    max_duration_s: float = Field(default=3600.0, gt=0)
    """Longest video, s."""
    max_frames: int = Field(default=768, ge=1)
    """Most frames that a request may ask for."""


class ReplicaConfig(Section):
    """How many replicas answer, as Ray Serve spells it."""

    min_replicas: int = Field(default=1, ge=0)
    """Least replicas; 0 lets an idle endpoint end its last one."""
    max_replicas: int = Field(default=1, ge=1)
    """Most replicas."""
    target_ongoing_requests: float = Field(default=8.0, gt=0)
    """Requests of one replica, running and waiting, that autoscaling aims for."""
    upscale_delay_s: float = Field(default=10.0, ge=0)
    """Load must last so long before a replica is added, s."""
    downscale_delay_s: float = Field(default=120.0, ge=0)
    """Idleness must last so long before a replica ends, s."""
    graceful_shutdown_timeout_s: float = Field(default=120.0, gt=0)
    """For the requests in flight of a replica that is to end, s."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} < min_replicas {self.min_replicas}")
        return self


class ServingConfig(Section):
    """An endpoint."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    served_model_name: str | None = None
    """Name that requests may call the model by, beside the target's own."""
    api_key_file: str | None = None
    """File with one API key a line; LVSPEC_API_KEYS (comma-separated) adds some. None of both:
    anyone who reaches the port may ask."""
    max_waiting: int = Field(default=64, ge=0)
    """Requests of a replica that wait for a slot; one more is answered 429."""
    request_timeout_s: float = Field(default=300.0, gt=0)
    """For one answer, waiting included, s; then 504, or the end of the stream."""
    max_request_bytes: int = Field(default=384 << 20, ge=1)
    """Largest request body, bytes (a video in a data URL is a third longer than the video)."""
    body_timeout_s: float = Field(default=120.0, gt=0)
    """For a request's body to arrive, s; then 408."""
    max_clips_per_request: int = Field(default=64, ge=1)
    """Clips of one /v1/captions request."""
    num_decoders: int = Field(default=2, ge=1)
    """Killable processes that decode videos of requests."""
    prefix_cache_memory_bytes: int = Field(default=1 << 30, ge=0)
    """Host memory of each rank for read prompts of videos, kept for further questions about them,
    bytes; those of a draft take up to a third more. 0 keeps none."""
    video_access: VideoAccessConfig = VideoAccessConfig()
    """Where videos may come from."""
    replicas: ReplicaConfig = ReplicaConfig()
    """How many replicas."""
