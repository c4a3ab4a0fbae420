"""Guards who is tried again: transient failures within a budget, and clips that kill captioners."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_records import clip_spec, decoded_clip, failure

from pipeline.config import FailureBudget
from pipeline.failure_kinds import FailureKind
from pipeline.records import DecodedClip, Failure, VideoObject
from pipeline.stages.attempts import (
    AttemptLedger,
    TransientRetries,
    caption_by_ledger,
)

MAX_ATTEMPTS = 3


def retries(**budget: float) -> tuple[TransientRetries, list[float]]:
    pauses_s: list[float] = []
    made = TransientRetries(FailureBudget(**budget), pauses_s.append, chance=lambda: 0.5)
    return made, pauses_s


def transient(attempt: int = 1) -> Failure:
    at = failure(clip_spec(), "timeout")
    return Failure(at.video, at.spec, at.stage, at.code, at.message, attempt)


def test_a_transient_failure_is_tried_again_after_growing_pauses() -> None:
    made, pauses_s = retries(max_attempts=4, retry_share=1.0)
    for _ in range(10):
        made.begin_video()
    assert [made.allow(transient(attempt)) for attempt in (1, 2, 3, 4)] == [True] * 3 + [False]
    assert pauses_s == [0.5, 1.0, 2.0]


def test_poison_and_what_is_ours_is_never_tried_again() -> None:
    """Another attempt would cost the same and give the same."""
    made, pauses_s = retries(max_attempts=9, retry_share=1.0)
    for code in ("corrupt", "decoder_crashed"):
        assert not made.allow(failure(clip_spec(), code))
    assert pauses_s == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_budget_is_a_share_of_the_videos(share: float) -> None:
    """A store that refuses everything is not asked three times for everything."""
    made, pauses_s = retries(max_attempts=3, retry_share=share)
    for _ in range(200):
        made.begin_video()
        attempt = 1
        while made.allow(transient(attempt)):
            attempt += 1
    at_start = 2 if share else 0
    assert len(pauses_s) == pytest.approx(at_start + share * 200, abs=1)


class CaptionerDiedError(BaseException):
    """The process that called ended."""


def clips(*names: str) -> list[DecodedClip]:
    return [decoded_clip(clip_spec(f"{name}.mp4"), num_frames=1) for name in names]


class Night:
    """Captioners that die of some clips, and a Ray that runs a lost call again without end."""

    def __init__(self, lethal: set[str], lost: Sequence[int] = ()) -> None:
        self.ledger = AttemptLedger(MAX_ATTEMPTS)
        self.lethal = {clip.clip_id for clip in clips(*lethal)}
        self.lost = set(lost)  # calls of ``caption`` in which the node is lost
        self.num_calls = self.num_deaths = 0
        self.groups: list[list[str]] = []

    def caption(self, some: Sequence[DecodedClip]) -> list[object]:
        self.num_calls += 1
        self.groups.append([clip.spec.video.uri[12:-4] for clip in some])
        dies = any(clip.clip_id in self.lethal for clip in some)
        if dies or self.num_calls in self.lost:
            raise CaptionerDiedError
        return [clip.clip_id for clip in some]

    def run(self, call: Sequence[DecodedClip]) -> list[object]:
        for _ in range(1000):
            try:
                return list(caption_by_ledger(call, self.caption, self.ledger, MAX_ATTEMPTS))
            except CaptionerDiedError:
                self.num_deaths += 1
        raise AssertionError("tried for ever")


def test_one_lethal_clip_costs_a_few_captioners_and_is_a_row() -> None:
    """In the call once, then alone until its attempts are used up; its neighbours are captioned."""
    night = Night(lethal={"b"})
    call = clips("a", "b", "c")
    failed, *captioned = night.run(call)
    assert isinstance(failed, Failure)
    assert (failed.code, failed.kind) == ("captioner_crash", FailureKind.OURS)
    assert failed.clip_id == call[1].clip_id
    assert failed.attempt == MAX_ATTEMPTS
    assert captioned == [call[0].clip_id, call[2].clip_id]
    assert night.num_deaths == 1 + MAX_ATTEMPTS
    assert night.groups == [["a", "b", "c"], ["a"], ["b"], ["c"], ["b"], ["b"], ["a", "c"]]


def test_it_is_not_tried_again_when_the_call_comes_again() -> None:
    """Ray may run a call again of which only the result was lost."""
    night = Night(lethal={"b"})
    call = clips("a", "b", "c")
    night.run(call)
    before = night.num_deaths
    again = night.run(call)
    assert night.num_deaths == before
    assert [isinstance(outcome, Failure) for outcome in again] == [True, False, False]


def test_a_lost_node_is_no_clips_fault() -> None:
    """They are captioned alone once, and all of them get their caption."""
    night = Night(lethal=set(), lost=[1])
    assert night.run(clips("a", "b", "c")) == [clip.clip_id for clip in clips("a", "b", "c")]
    assert night.groups == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    night.run(clips("a", "b", "c"))
    assert night.groups[-1] == ["a", "b", "c"], "a suspicion outlived its cause"


def test_clips_that_were_not_begun_are_not_suspected() -> None:
    """Calls that wait in the dead captioner's queue."""
    night = Night(lethal={"b"})
    night.run(clips("a", "b"))
    night.run(clips("d", "e"))
    assert night.groups[-1] == ["d", "e"]


@given(
    lethal=st.sets(st.sampled_from("abcdefgh"), max_size=4),
    lost=st.lists(st.integers(1, 40), max_size=2),
    size=st.integers(1, 8),
)
def test_every_clip_has_one_outcome_and_deaths_are_bounded(
    lethal: set[str], lost: list[int], size: int
) -> None:
    """Whatever clips are lethal, and two lost nodes on top: fewer than ``max_attempts`` can't
    condemn an innocent."""
    night = Night(lethal, lost)
    for start in range(0, 8, size):
        call = clips(*"abcdefgh"[start : start + size])
        outcomes = night.run(call)
        failed = {o.clip_id for o in outcomes if isinstance(o, Failure)}
        captioned = [o for o in outcomes if isinstance(o, str)]
        assert failed == {clip.clip_id for clip in call} & night.lethal
        assert sorted([*failed, *captioned]) == sorted(clip.clip_id for clip in call)
    num_calls = -(-8 // size)
    assert night.num_deaths <= len(lethal) * MAX_ATTEMPTS + num_calls + len(lost)


def test_a_ledger_forgets_what_has_ended() -> None:
    """A night of millions of clips: only what is begun, suspected or refused is kept."""
    ledger = AttemptLedger(MAX_ATTEMPTS)
    for number in range(1000):
        ids = [str(VideoObject(f"s3://b/{number}-{n}", "e", 1).video_id) for n in range(4)]
        assert ledger.begin_call(ids).together == tuple(ids)
        ledger.end(ids)
    assert not any(len(kept) for kept in vars(ledger).values() if not isinstance(kept, int))
