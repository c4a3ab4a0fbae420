"""How much of a Ray cluster a job takes, and how a gang of ranks is placed, watched and rebuilt."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.config_section import Section


class GangConfig(Section):
    """A captioner of several ranks (models.tensor_parallel_size > 1)."""

    placement_strategy: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    """Of the ranks over nodes, as Ray's placement groups spell it. Ranks on one node share NVLink;
    PACK crosses nodes only if no node has room for all."""
    network_interface: str | None = None
    """Interface between nodes, for GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME; None: the one that
    the rank's own node address is on."""
    start_timeout_s: float = Field(default=3600.0, gt=0)
    """Waiting for a place on the cluster, and then for all ranks to load the model, s each."""
    collective_timeout_s: float = Field(default=300.0, gt=0)
    """A rank that lets the others wait so long is hung: the gang is rebuilt, s."""
    heartbeat_s: float = Field(default=5.0, gt=0)
    """Each rank's process must answer within ten of these, however busy the model is, s."""
    max_rebuilds: int = Field(default=3, ge=0)
    """Rebuilds in a row, without a finished call between, before the captioner gives up and its
    clips go elsewhere."""
    check_rounds: int = Field(default=64, ge=1)
    """Ranks compare what they have done every so many calls of the model."""


class ClusterConfig(Section):
    """How much of the Ray cluster the job takes."""

    num_decoders: int = Field(default=2, ge=1)
    """Decode actors."""
    decoder_cpus: float = Field(default=1.0, gt=0)
    """CPUs of one decode actor."""
    num_captioners: int = Field(default=1, ge=1)
    """Captioner replicas; the least of them, if max_captioners is more."""
    max_captioners: int | None = Field(default=None, ge=1)
    """Replicas are added up to this many while clips wait; None: num_captioners, always."""
    captioner_cpus: float = Field(default=1.0, ge=0)
    """CPUs of one captioner, all its ranks together."""
    captioner_gpus: float = Field(default=0.0, ge=0)
    """GPUs of one captioner, all its ranks together."""
    gpu_memory_gib: float = Field(default=79.0, gt=0)
    """Memory of one GPU that captioners take, GiB; what the preflight reckons with. CUDA reports
    about 79 GiB of an 80 GB card (A100, H100)."""
    max_clips_in_flight: int = Field(default=16, ge=1)
    """Decoded clips that wait for or are in one captioner."""
    gang: GangConfig = GangConfig()
    """A captioner of several ranks."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.max_captioners is not None and self.max_captioners < self.num_captioners:
            raise ValueError(
                f"max_captioners {self.max_captioners} < num_captioners {self.num_captioners}"
            )
        return self
