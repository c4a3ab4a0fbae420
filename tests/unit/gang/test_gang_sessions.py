"""Guards that followers do what rank 0 does, that a difference is found, and that a loss is told.

Scripted models behind real connections; the follower is a thread.
"""

from __future__ import annotations

import threading
from dataclasses import fields, replace
from multiprocessing import AuthenticationError

import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.decoding.session import ModelInputs
from pipeline.gang.commands import SharedInputs
from pipeline.gang.link import FollowerLink, LeaderLink, LinkError
from pipeline.gang.sessions import Follower, Leader
from pipeline.gang.state import RankDivergenceError, RankState, check_agreement
from pipeline.models.scripted import Script, ScriptedVideoLM
from tests.make_records import clip_spec, decoded_clip

CLIP = decoded_clip(clip_spec("one.mp4"), num_frames=2, seed=1)
NUM_SLOTS, MAX_LENGTH = 3, 64
TIMEOUT_S = 20.0


class Gang:
    """Rank 0 here and one follower in a thread; what either opened can be looked at."""

    def __init__(self, follower_script: Script, check_calls: int = 1000) -> None:
        self.model = ScriptedVideoLM(Script())
        self.follower_sessions = []
        self.errors = []
        follower_model = ScriptedVideoLM(follower_script)

        def open_follower(*arguments):
            self.follower_sessions.append(follower_model.open_session(*arguments))
            return self.follower_sessions[-1]

        self.link = LeaderLink("127.0.0.1", b"secret")
        self._thread = threading.Thread(target=self._follow, args=(open_follower,), daemon=True)
        self._thread.start()
        self.link.accept(1)
        self.leader = Leader(self.link, self.model.open_session, check_calls, TIMEOUT_S)

    def _follow(self, open_follower) -> None:
        self.follower_link = FollowerLink(1, self.link.address)
        try:
            Follower(self.follower_link, open_follower).follow(
                lambda clip_id: self.model.prepare(CLIP, PromptConfig()).vision
            )
        except LinkError as error:
            self.errors.append(error)

    def inputs(self) -> SharedInputs:
        inputs = self.model.prepare(CLIP, PromptConfig())
        values = {field.name: getattr(inputs, field.name) for field in fields(ModelInputs)}
        return SharedInputs(**values, clip_id=CLIP.clip_id)

    def end(self) -> None:
        self.leader.end_call()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self.link.close()


def lengths(session) -> list[int]:
    return [session.cached_length(slot) for slot in range(NUM_SLOTS)]


def test_a_follower_caches_what_rank_0_caches():
    gang = Gang(Script())
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    inputs = gang.inputs()
    for slot in (2, 0):
        session.prefill(slot, inputs)
    session.forward([0, 2], [[5, 6, 7], [8]])
    session.roll_back(0, 2)
    session.start_prefill(1, inputs)
    assert session.continue_prefill(1, 1) is None
    session.release(2)
    before = lengths(session)
    session.forward([0], [[4]])  # what was put off is done by now
    gang.end()
    assert lengths(gang.follower_sessions[0]) == lengths(session)
    assert lengths(session) == [before[0] + 1, 1, 0]


def test_the_pixels_of_a_clip_are_not_sent(monkeypatch):
    gang = Gang(Script())
    told = []
    tell = gang.link.tell
    monkeypatch.setattr(gang.link, "tell", lambda command: (told.append(command), tell(command)))
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    inputs = replace(gang.inputs(), vision={"pixels": torch.zeros(1000)})
    session.start_prefill(0, inputs)
    gang.end()
    assert told[1].inputs.vision == {}
    assert told[1].inputs.clip_id == CLIP.clip_id
    assert torch.equal(told[1].inputs.token_ids, inputs.token_ids)


def test_inputs_that_others_could_not_see_are_refused():
    gang = Gang(Script())
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    with pytest.raises(TypeError, match="SharedInputs"):
        session.start_prefill(0, gang.model.prepare(CLIP, PromptConfig()))
    gang.end()


def test_a_session_that_rank_0_let_go_is_closed_on_the_others():
    gang = Gang(Script())
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    kept = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    del session
    newest = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    kept.prefill(0, gang.inputs())
    newest.prefill(0, gang.inputs())
    gang.end()
    _, of_kept, of_newest = gang.follower_sessions
    assert lengths(of_kept)[0] == lengths(of_newest)[0] > 0


def test_ranks_that_differ_are_found():
    """The follower's model says something else at every place: its choices differ."""
    gang = Gang(Script(agreement=0.0), check_calls=3)
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    session.prefill(0, gang.inputs())
    session.forward([0], [[5]])
    with pytest.raises(RankDivergenceError, match="rank 1 and rank 0 do not agree"):
        session.forward([0], [[6]])
    gang.end()


def test_ranks_that_agree_go_on():
    gang = Gang(Script(), check_calls=1)
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    session.prefill(0, gang.inputs())
    for token in range(4, 10):
        session.forward([0], [[token, token]])
        session.roll_back(0, 1)
    gang.end()


def test_a_state_tells_calls_lengths_and_choices():
    logits = torch.eye(4)
    state = RankState.of(3, [5, 2], logits)
    check_agreement(state, {1: RankState.of(3, [5, 2], logits + 1e-6)})  # the last bit may differ
    for other in (
        RankState.of(4, [5, 2], logits),
        RankState.of(3, [2, 5], logits),
        RankState.of(3, [5, 2], logits.flip(0)),
    ):
        with pytest.raises(RankDivergenceError, match="rank 2"):
            check_agreement(state, {1: state, 2: other})


def test_a_follower_that_is_gone_is_told_by_rank():
    gang = Gang(Script())
    session = gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    session.prefill(0, gang.inputs())
    gang.leader.end_call()
    gang._thread.join(TIMEOUT_S)
    gang.follower_link.close()
    tokens = [[5]] * 20  # the first may still fit the socket's buffer
    with pytest.raises(LinkError, match="rank 1 is gone"):
        decode_one_by_one(session, tokens)


def decode_one_by_one(session, tokens) -> None:
    for token in tokens:
        session.forward([0], [token])


def test_a_follower_ends_when_rank_0_is_gone():
    gang = Gang(Script())
    gang.leader.open_session(NUM_SLOTS, MAX_LENGTH)
    gang.link.close()
    gang._thread.join(TIMEOUT_S)
    assert [str(error) for error in gang.errors] == ["rank 0 is gone"]


def test_a_stranger_without_the_secret_is_not_let_in():
    """And does not stand in the way of the rank that is waited for."""
    link = LeaderLink("127.0.0.1", b"secret")
    refused, let_in = [], []

    def knock() -> None:
        try:
            FollowerLink(1, replace(link.address, secret=b"guess"))
        except AuthenticationError as error:
            refused.append(error)
        let_in.append(FollowerLink(1, link.address))

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    link.accept(1)
    thread.join(TIMEOUT_S)
    assert len(refused) == len(let_in) == 1
    assert "secret" not in repr(link.address)
    link.close()
