"""The configuration of a run: one YAML file, frozen models, an unknown key is an error.

Field descriptions are the reference documentation; units are in the names.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.cluster_config import ClusterConfig
from pipeline.config_section import Section
from pipeline.speculation_config import Drafter, SpeculationConfig, SpeculationMethod
from pipeline.storage_config import StorageConfig as StorageConfig


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


class SamplingPolicy(StrEnum):
    """Which frames of a clip the model sees."""

    UNIFORM = "uniform"
    FPS = "fps"


class FrameSamplingConfig(Section):
    """Which frames of a clip the model sees; always spread over the whole clip."""

    policy: SamplingPolicy = SamplingPolicy.UNIFORM
    """uniform: a number of frames; fps: a rate."""
    num_frames: int = Field(default=64, ge=1)
    """uniform: this many frames (fewer only if the clip has fewer)."""
    fps: float = Field(default=2.0, gt=0)
    """fps: this rate, in frames/s ..."""
    max_frames: int = Field(default=768, ge=1)
    """... but at most this many frames, then spread evenly."""


class ClipPolicy(StrEnum):
    """How a video is cut into clips."""

    WHOLE = "whole"
    WINDOWS = "windows"
    SCENES = "scenes"


class ClipConfig(Section):
    """How a video is cut into clips."""

    policy: ClipPolicy = ClipPolicy.WHOLE
    """whole: a video is one clip; windows: equal lengths; scenes: cut where the picture changes."""
    window_s: float = Field(default=30.0, gt=0)
    """windows: length of one, s; a last one shorter than min_clip_s joins the one before."""
    scene_threshold: float = Field(default=27.0, gt=0)
    """scenes: content change (HSV, 0-255) that starts a new scene."""
    min_clip_s: float = Field(default=1.0, ge=0)
    """Clips shorter than this join their neighbour, s."""


class FrameSizeConfig(Section):
    """The model's pixel budget; frames are resized to it before they leave the decode process."""

    multiple_of_px: int = Field(default=28, ge=1)
    """Both sides become a multiple of this (patch size x spatial merge)."""
    min_pixels: int = Field(default=128 * 28 * 28, ge=1)
    """Least pixels of a frame."""
    max_pixels: int = Field(default=768 * 28 * 28, ge=1)
    """Most pixels of a frame."""
    max_total_pixels: int = Field(default=2 * 24_576 * 28 * 28, ge=1)
    """Most pixels of all frames of a clip together (Qwen merges frames by two: 24,576 tokens)."""
    fixed_px: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Exact (height, width) instead of the budget, for models with one input size."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.fixed_px is None and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} > max_pixels {self.max_pixels}")
        return self


class DecodeLimits(Section):
    """What a hostile file can't pass."""

    plan_timeout_s: float = Field(default=600.0, gt=0)
    """Wall clock for probing a video and cutting it into clips, s; then the decode process is
    killed. Scenes are found by decoding all of it, and files without an index are read whole."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Wall clock for decoding one clip, s; then the decode process is killed."""
    max_source_pixels: int = Field(default=8192 * 4320, ge=1)
    """Most pixels of a source frame."""
    max_duration_s: float = Field(default=6 * 3600.0, gt=0)
    """Longest video, s."""
    max_memory_bytes: int = Field(default=4 << 30, ge=1 << 28)
    """Address space that the decode process may grow by, bytes."""


class VideoConfig(Section):
    """From file to frames."""

    sampling: FrameSamplingConfig = FrameSamplingConfig()
    """Which frames of a clip the model sees."""
    clips: ClipConfig = ClipConfig()
    """How a video is cut into clips."""
    frame_size: FrameSizeConfig = FrameSizeConfig()
    """How large the frames are that the model sees."""
    limits: DecodeLimits = DecodeLimits()
    """What a hostile file can't pass."""


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
    """When a run counts as failed although it went to the end (exit code 3)."""

    max_share: float = Field(default=0.10, ge=0, le=1)
    """Most failures per clip."""
    max_count: int | None = Field(default=None, ge=0)
    """Most failures at all; None is no limit."""
    max_repeated_share: float = Field(default=0.10, ge=0, le=1)
    """Most captions that other frames have too: a sign of swapped or unseen clips."""


class RunConfig(Section):
    """Everything about a run."""

    input: InputConfig
    """Which videos."""
    output: OutputConfig
    """Where the data set goes."""
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
    failures: FailureBudget = FailureBudget()
    """When a run counts as failed although it went to the end."""
    cluster: ClusterConfig = ClusterConfig()
    """How much of the Ray cluster the job takes."""

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
