"""What the columns mean, and how the Hugging Face hub is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

MEANINGS = {
    "video_id": "hash of the source's URI and etag: another version is another video",
    "source_uri": "the video, as it was listed",
    "source_etag": "its version",
    "source_size": "its size, bytes",
    "clip_id": "hash of the source's URI, etag and span; unique among captions",
    "clip_index": "place in the video's clip plan, from 0; null: the failure of a whole video",
    "num_clips": "length of the video's clip plan",
    "start_s": "start of the clip, s",
    "end_s": "end of the clip (exclusive), s",
    "width": "width of the source after rotation, px",
    "height": "height of the source after rotation, px",
    "source_fps": "frame rate of the source, frames/s",
    "duration_s": "length of the video, s",
    "codec": "video codec",
    "container": "container format",
    "num_frames": "frames that the model saw",
    "frame_times_s": "their timestamps, s",
    "frames_digest": "digest of the decoded frames and their times",
    "video_decode_s": "time to decode the clip, s",
    "prompt_id": "name of the prompt",
    "model_id": "the model whose caption this is",
    "model_revision": "its commit, or the digest of its files",
    "draft_model_id": "the model that proposed tokens",
    "draft_model_revision": "its revision",
    "caption": "the caption",
    "finish_reason": "stop: the model ended it; length: cut at the most tokens",
    "prompt_tokens": "tokens of the prompt, visual ones included",
    "visual_tokens": "visual tokens",
    "output_tokens": "tokens of the caption: accepted + correction + bonus",
    "target_steps": "forward steps of the target after the prefill",
    "drafted_tokens": "tokens that were proposed",
    "accepted_tokens": "of these, accepted",
    "relaxed_tokens": "accepted although the target would have chosen another token",
    "shifted_tokens": "accepted at a shifted position",
    "anchor_tokens": "drafted tokens that were held to exactness as visually grounded",
    "correction_tokens": "the target's own token after a rejection",
    "bonus_tokens": "the target's own token after a block that was accepted whole",
    "rejected_by_cause": "target steps that rejected a drafted token, by cause",
    "accepted_histogram": "entry n: target steps that accepted n drafted tokens",
    "mean_accepted_length": "accepted drafted tokens per target step",
    "prefill_s": "time of the prompt, s",
    "draft_s": "time of drafting, s",
    "verify_s": "time of the target's steps, s",
    "decode_s": "all time after the prefill, s",
    "plain_equal": "whether plain decoding gave the same text; null: not compared",
    "plain_decode_s": "time of plain decoding after the prefill, s",
    "plain_output_tokens": "tokens of the plain caption",
    "scoring_s": "time of scoring how visual tokens are, s",
    "relaxed_share": "lambda in force; null where the method has none",
    "shadow_equal": "whether exact decoding gave the same text; null: not compared",
    "shadow_output_tokens": "tokens of the exact caption",
    "shadow_facts_kept": "share of the exact caption's facts that were kept (F1)",
    "tokens": "why each token is there; of a sample of clips",
    "attempt": "1, or more of a clip that failed before; unique for each failed clip",
    "config_digest": "digest of all that changes captions: the name of this folder",
    "run_id": "the run that made the row",
    "created_at": "when, UTC",
    "stage": "where it failed",
    "code": "why, as a stable code",
    "message": "why, for people",
    "kind": "poison: the video; transient: the world; ours: a stage failed on this clip",
}
"""One line for each column of both tables; the source of units is the name."""


def hub_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """The columns that `datasets` can hold, as its YAML has them: it knows no maps."""
    return [_feature(field.name, field.type) for field in hub_columns(schema)]


def hub_columns(schema: pa.Schema) -> Iterator[pa.Field]:
    """All columns but maps."""
    return (field for field in schema if not pa.types.is_map(field.type))


def _feature(name: str, kind: pa.DataType) -> dict[str, Any]:
    if not pa.types.is_list(kind):
        return {"name": name, "dtype": _dtype(kind)}
    item = kind.value_type
    if not pa.types.is_struct(item):
        return {"name": name, "list": _dtype(item)}
    return {"name": name, "list": [_feature(each.name, each.type) for each in item]}


def _dtype(kind: pa.DataType) -> str:
    names = {pa.float64(): "float64", pa.float32(): "float32"}  # Arrow says "double", "float"
    return names.get(kind, str(kind))
