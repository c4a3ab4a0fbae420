"""The configuration of a run and of an endpoint: frozen models, an unknown key is an error.

Field descriptions are the reference documentation; units are in the names.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.cluster_config import ClusterConfig
from pipeline.config_section import Section
from pipeline.serving_config import ServingConfig
from pipeline.speculation_config import Drafter, SpeculationConfig, SpeculationMethod
from pipeline.storage_config import StorageConfig as StorageConfig
from pipeline.video_config import ClipConfig as ClipConfig
from pipeline.video_config import ClipPolicy as ClipPolicy
from pipeline.video_config import DecodeLimits as DecodeLimits
from pipeline.video_config import FrameSamplingConfig as FrameSamplingConfig
from pipeline.video_config import FrameSizeConfig as FrameSizeConfig
from pipeline.video_config import SamplingPolicy as SamplingPolicy
from pipeline.video_config import VideoConfig as VideoConfig


def _data_uri(uri: str) -> str:
    """Refuse what an unset variable in a shell leaves: ``""``, ``s3://``, ``s3:///captions``."""
    if not uri.removeprefix("file://").strip():
        raise ValueError("empty; a folder or s3://bucket/prefix is wanted")
    if uri.startswith("s3:") and not re.match(r"s3://[^/\s]", uri):
        raise ValueError("no bucket; s3://bucket/prefix is wanted")
    return uri


def _suffixes(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    for suffix in suffixes:
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ValueError(f"{suffix!r} is not a lower-case suffix with its dot, like '.mp4'")
    return suffixes


class InputConfig(Section):
    """Which videos."""

    uri: Annotated[str, AfterValidator(_data_uri)]
    """A folder, an `s3://bucket/prefix`, or a manifest (Parquet, CSV, JSONL: column `uri`)."""
    extensions: Annotated[tuple[str, ...], AfterValidator(_suffixes)] = (
        ".mp4",
        ".mov",
        ".m4v",
        ".mkv",
        ".webm",
        ".avi",
        ".ogv",
        ".ogg",
        ".ts",
        ".mpg",
        ".mpeg",
        ".flv",
        ".wmv",
    )
    """Other objects of a listing are ignored (a manifest names its files itself)."""
    limit: int | None = Field(default=None, ge=1)
    """At most this many videos that are not done yet."""


class OutputConfig(Section):
    """Where the data set goes."""

    uri: Annotated[str, AfterValidator(_data_uri)]
    """A folder or an `s3://bucket/prefix`; one config digest is one folder below."""
    rows_per_part: int = Field(default=10_000, ge=1)
    """A part is committed at the latest when it has this many rows."""
    seconds_per_part: float = Field(default=60.0, gt=0)
    """A part is committed at the latest this long after its first row arrived, s."""
    token_sample_share: float = Field(default=0.01, ge=0, le=1)
    """Share of clips (chosen by clip_id) whose rows say why each token is there (`tokens`)."""


class ModelConfig(Section):
    """One model: a hub name or a local folder."""

    name: str
    """Hub name (`Qwen/Qwen2.5-VL-32B-Instruct`), local folder or `s3://bucket/prefix`."""
    revision: str | None = None
    """Branch, tag or commit; resolved to a commit (or, for a folder, a content digest) at start."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Weights and activations."""


class ModelsConfig(Section):
    """The pair."""

    target: ModelConfig
    """The model whose captions are written."""
    draft: ModelConfig | None = None
    """The small model that proposes tokens; None: nothing does, or another drafter."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` or `auto`."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Ranks that share the target, each a process with a part of every layer (and, on GPUs, with a
    GPU of its own); 1: one process holds all of it."""
    num_threads: int | None = Field(default=None, ge=1)
    """torch threads of a captioner on CPU; None leaves torch's choice."""


class PromptConfig(Section):
    """What the model is asked."""

    id: str = "default"
    """Name of the prompt, a column of the data set."""
    text: str = "Describe this video in detail."
    """The user message; the video comes before it."""
    system: str | None = None
    """System message; None leaves the chat template's own."""


class GenerationConfig(Section):
    """When a caption ends."""

    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of a caption."""
    max_num_seqs: int = Field(default=8, ge=1)
    """Clips decoded together by one captioner; changes speed, not captions."""
    max_num_batched_tokens: int = Field(default=2048, ge=1)
    """Prompt tokens prefilled between two rounds of the running rows; changes speed alone."""
    kv_cache_memory_bytes: int | None = Field(default=None, ge=1)
    """Memory for the cached keys and values of both models, bytes; None measures what is free."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy; above, tokens are sampled (method exact: from the target's own distribution)."""
    seed: int = 0
    """Of sampling; with the clip_id it fixes a caption."""


class FailureBudget(Section):
    """How many failures are borne (more are exit code 3), and how often a clip is tried."""

    max_share: float = Field(default=0.10, ge=0, le=1)
    """Most failures per clip."""
    max_count: int | None = Field(default=None, ge=0)
    """Most failures at all; None is no limit."""
    end_early: bool = True
    """End a run as soon as it is over max_count, or its share of failures surely above max_share
    (99.9 %, of 100 clips at least); no: count at the end."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts at a clip within a run: after transient failures (a store that refused, a timeout),
    and of a clip that its captioner's process does not survive."""
    retry_share: float = Field(default=0.1, ge=0, le=1)
    """Most retries of transient failures, per video; 0: none."""
    max_repeated_share: float = Field(default=0.10, ge=0, le=1)
    """Most captions that other frames have too: a sign of swapped or unseen clips."""


class CaptioningConfig(Section):
    """What a run and an endpoint have in common: how a clip comes to its text, and on what."""

    storage: StorageConfig = StorageConfig()
    """How to reach S3."""
    video: VideoConfig = VideoConfig()
    """From file to frames."""
    models: ModelsConfig
    """The pair."""
    prompt: PromptConfig = PromptConfig()
    """What the model is asked."""
    generation: GenerationConfig = GenerationConfig()
    """When a caption ends."""
    speculation: SpeculationConfig = SpeculationConfig()
    """How tokens are decided."""
    cluster: ClusterConfig = ClusterConfig()
    """How much of the Ray cluster is taken."""

    @property
    def effective_draft(self) -> ModelConfig | None:
        """The draft model, if the speculation method asks one."""
        return self.models.draft if self.speculation.needs_draft_model else None

    @model_validator(mode="after")
    def _each_rank_has_a_gpu(self) -> Self:
        ranks, gpus = self.models.tensor_parallel_size, self.cluster.captioner_gpus
        if ranks > 1 and gpus not in (0, ranks):
            raise ValueError(
                f"models.tensor_parallel_size = {ranks} ranks take a GPU each, or none on CPU: "
                f"cluster.captioner_gpus = {gpus:g} must be {ranks} or 0"
            )
        return self

    @model_validator(mode="after")
    def _speculation_has_a_draft(self) -> Self:
        if self.speculation.needs_draft_model and self.models.draft is None:
            raise ValueError(
                f"speculation.method = {self.speculation.method.value} needs a draft model: "
                "set models.draft.name (--draft-model), speculation.drafting.drafter = "
                f"{Drafter.SELF} or {Drafter.NGRAM}, "
                f"or speculation.method = {SpeculationMethod.NONE}"
            )
        return self


class RunConfig(CaptioningConfig):
    """Everything about a run."""

    input: InputConfig
    """Which videos."""
    output: OutputConfig
    """Where the data set goes."""
    failures: FailureBudget = FailureBudget()
    """How many failures are borne, and how often a clip is tried."""


class EndpointConfig(CaptioningConfig):
    """Everything about an endpoint."""

    serving: ServingConfig = ServingConfig()
    """Who may ask what, how long it may take, how many replicas."""
