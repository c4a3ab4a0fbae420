"""A clip of the gallery, in the words of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.records import CaptionRecord, FinishReason
from pipeline.report.html_frames import KeyFrame, KeyFrames
from pipeline.report.html_tokens import TokenText, coloured
from pipeline.storage.redaction import shown


@dataclass(frozen=True, slots=True, eq=False)
class ClipView:
    """One captioned clip."""

    name: str
    uri: str
    span: str
    pieces: Sequence[TokenText]
    """Of a clip of the token sample; else empty."""
    caption: str
    figures: str
    notes: Sequence[str]
    marks: str
    """What the filter knows it by, words with spaces between."""
    sort_keys: tuple[float, float, float]
    """Seconds of decoding, mean accepted length, facts kept (2 where nothing was compared)."""
    frames: Sequence[KeyFrame]
    frames_problem: str | None


def clip_view(clip: CaptionRecord, frames: KeyFrames) -> ClipView:
    """What the page shows of it; nothing is escaped yet."""
    spec, caption = clip.spec, clip.caption
    stats, shadow = caption.stats, caption.shadow
    uri = shown(spec.video.uri)
    facts_kept = shadow.facts_kept if shadow else None
    return ClipView(
        name=uri.rpartition("/")[2] or uri,
        uri=uri,
        span=f"{_time(spec.start_s)} to {_time(spec.end_s)}"
        + (f", clip {spec.clip_index + 1} of {spec.num_clips}" if spec.num_clips > 1 else ""),
        pieces=coloured(caption.text, caption.decisions, caption.relaxed_share),
        caption=caption.text,
        figures=_figures(clip),
        notes=_notes(clip),
        marks=" ".join(_marks(clip)),
        sort_keys=(
            stats.decode_s,
            stats.mean_accepted_length,
            2.0 if facts_kept is None else facts_kept,
        ),
        frames=frames.by_clip.get(clip.clip_id, ()),
        frames_problem=frames.unreadable.get(clip.clip_id),
    )


def _figures(clip: CaptionRecord) -> str:
    stats = clip.caption.stats
    parts = [f"{stats.output_tokens} tokens"]
    if stats.decode_s > 0:
        parts.append(f"{stats.output_tokens / stats.decode_s:,.0f} tokens/s")
    if stats.drafted_tokens:
        parts.append(f"mean accepted length {stats.mean_accepted_length:.2f}")
    if clip.caption.relaxed_share is not None:
        parts.append(f"lambda {clip.caption.relaxed_share:g}")
    parts.append(f"{clip.info.width_px} x {clip.info.height_px} px, {clip.info.codec}")
    return " · ".join(parts)


def _notes(clip: CaptionRecord) -> list[str]:
    """What is out of the ordinary."""
    caption, notes = clip.caption, []
    if caption.finish_reason is FinishReason.LENGTH:
        notes.append("cut at the most tokens")
    if caption.shadow:
        text = "same text as exact" if caption.shadow.equal else "another text than exact"
        if caption.shadow.facts_kept is not None:
            text += f", {caption.shadow.facts_kept:.0%} of its facts"
        notes.append(text)
    if caption.plain:
        notes.append("same text as plain" if caption.plain.equal else "another text than plain")
    return notes


def _marks(clip: CaptionRecord) -> list[str]:
    caption = clip.caption
    is_unlike = bool(caption.shadow and not caption.shadow.equal) or bool(
        caption.plain and not caption.plain.equal
    )
    known = {
        "tokens": bool(caption.decisions),
        "loose": caption.stats.relaxed_tokens + caption.stats.shifted_tokens > 0,
        "unlike": is_unlike,
        "cut": caption.finish_reason is FinishReason.LENGTH,
    }
    return [mark for mark, is_so in known.items() if is_so]


def _time(time_s: float) -> str:
    """``1:02.5``, or ``1:00:02.5`` from an hour on."""
    minutes, seconds = divmod(round(time_s, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"
