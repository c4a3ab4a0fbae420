"""Clips of two splits, as requests: a video's clips are never in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.config import RunConfig
from pipeline.dataset.catalog import PlannedVideo, list_videos
from pipeline.decoding.clip_share import hash64
from pipeline.decoding.request import CaptionRequest
from pipeline.models.base import ClipInputError, VideoLM
from pipeline.records import Failure, VideoObject
from pipeline.stages.decode import DecodeStage


class TooFewClipsError(ValueError):
    """The input has fewer clips than the splits need."""


def two_splits(
    config: RunConfig,
    target: VideoLM,
    draft: VideoLM,
    sizes: tuple[int, int],
    report: Callable[[str], None],
) -> tuple[list[CaptionRequest], list[CaptionRequest]]:
    """At least ``sizes`` clips of the input, by whole videos in an order that is their hashes'.

    What is wrong with a video is told and passed over. Raises TooFewClipsError, StorageError,
    ManifestError or NoVideosError.
    """
    splits: tuple[list[CaptionRequest], list[CaptionRequest]] = ([], [])
    videos = shuffled(list(list_videos(config.input, config.storage)))
    with DecodeStage(config) as decode:
        for video in videos:
            open_splits = [s for s, size in zip(splits, sizes) if len(s) < size]
            if not open_splits:
                break
            open_splits[0].extend(_requests(decode, video, config, target, draft, report))
    if any(len(split) < size for split, size in zip(splits, sizes)):
        raise TooFewClipsError(
            f"{config.input.uri} has {len(splits[0])} + {len(splits[1])} clips that can be used, "
            f"of {sizes[0]} + {sizes[1]} wanted: name more videos by --input, or lower "
            "--num-clips and --num-report-clips"
        )
    return splits


def shuffled(videos: Sequence[VideoObject]) -> list[VideoObject]:
    """In the order of their hashes: the same videos always, and no neighbours by name."""
    return sorted(videos, key=lambda video: (hash64(video.video_id, "calibration"), video.uri))


def _requests(
    decode: DecodeStage,
    video: VideoObject,
    config: RunConfig,
    target: VideoLM,
    draft: VideoLM,
    report: Callable[[str], None],
) -> Iterator[CaptionRequest]:
    for clip in decode(PlannedVideo(video)):
        if isinstance(clip, Failure):
            report(f"passed over: {video.uri}: {clip.code}: {clip.message}")
            continue
        try:
            yield CaptionRequest(
                clip.clip_id,
                target.prepare(clip, config.prompt),
                draft.prepare(clip, config.prompt),
            )
        except ClipInputError as error:
            report(f"passed over: {video.uri}: {error}")
