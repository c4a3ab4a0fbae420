"""Records with plausible contents, for tests that care about one field at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.records import (
    Caption,
    CaptionRecord,
    ClipSpec,
    DecodedClip,
    DecodingStats,
    Failure,
    FinishReason,
    Stage,
    TokenDecision,
    VideoInfo,
    VideoObject,
    frames_digest,
)

INFO = VideoInfo("mp4", "h264", 64, 48, 0, 4.0, 8.0, 32)


def video(name: str = "a.mp4", etag: str = "v1") -> VideoObject:
    return VideoObject(f"s3://bucket/{name}", etag, 1000)


def clip_spec(name: str = "a.mp4", index: int = 0, num_clips: int = 1) -> ClipSpec:
    return ClipSpec(video(name), index, num_clips, index * 4.0, index * 4.0 + 4.0)


def decoded_clip(spec: ClipSpec | None = None, num_frames: int = 4, seed: int = 0) -> DecodedClip:
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, 4, 6, 3), dtype=np.uint8)
    times = np.linspace(0.5, 3.5, num_frames)
    return DecodedClip(
        spec or clip_spec(), INFO, frames, times, frames_digest(frames, times), decode_s=0.01
    )


DECISIONS = (
    TokenDecision(7, "correction", 7, None, None, " A"),
    TokenDecision(8, "relaxed", 9, 0.25, 0.5, " red"),
)


def caption_record(
    spec: ClipSpec | None = None, text: str = "A red circle.", **more: Any
) -> CaptionRecord:
    """Nine tokens in four target steps: four accepted, four corrections, one bonus.

    ``more`` are fields of the Caption: ``shadow``, ``relaxed_share``, ``decisions``.
    """
    stats = DecodingStats(
        prompt_tokens=20,
        visual_tokens=12,
        output_tokens=9,
        target_steps=4,
        drafted_tokens=8,
        accepted_tokens=4,
        relaxed_tokens=0,
        shifted_tokens=0,
        anchor_tokens=0,
        correction_tokens=4,
        bonus_tokens=1,
        rejected_by_cause={"mismatch": 3},
        accepted_histogram=(1, 2, 1),
        prefill_s=0.1,
        draft_s=0.02,
        verify_s=0.2,
        decode_s=0.25,
    )
    return CaptionRecord(
        spec=spec or clip_spec(),
        info=INFO,
        frames_digest="f" * 32,
        frame_times_s=(0.5, 1.5, 2.5, 3.5),
        caption=Caption(text, tuple(range(9)), FinishReason.STOP, stats, **more),
        video_decode_s=0.01,
        attempt=1,
    )


def failure(spec: ClipSpec | None = None, code: str = "corrupt") -> Failure:
    clip = spec or clip_spec()
    return Failure(clip.video, spec, Stage.DECODE, code, f"{clip.video.uri}: damaged", 1)
