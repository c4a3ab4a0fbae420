"""Guards an endpoint's gang: clips come with their pixels, once; every rank keeps its prefixes.

Two ranks that each hold a whole tiny target, the second one in a thread, over real connections.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from pipeline.config import ModelConfig
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import Taps
from pipeline.gang import commands
from pipeline.gang.link import FollowerLink, LeaderLink
from pipeline.gang.model import LiveShardedVideoLM, RankModel
from pipeline.gang.sessions import Follower, Leader
from pipeline.gang.state import RankDivergenceError
from pipeline.gang.world import World
from pipeline.models.base import Turn
from pipeline.models.loading import load_model
from tests.tiny_models import tiny_clip, write_tiny_model

CLIP, OTHER = tiny_clip(seed=1), tiny_clip(seed=2)
TAPS = Taps(states_layer=1)
MAX_LENGTH = 512
TIMEOUT_S = 30.0


def question(text: str, has_video: bool = True) -> tuple[Turn, ...]:
    return (Turn("user", text, has_video=has_video),)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Of rank 0 and of the other one: the same target, loaded twice."""
    folder = write_tiny_model("qwen2_5_vl", tmp_path_factory.mktemp("target"))
    config = ModelConfig(name=str(folder), dtype="float32")
    return [load_model(config, torch.device("cpu")) for _ in range(2)]


class Gang:
    """Rank 0 here, which compares after every call; what prompts it told is kept."""

    def __init__(self, models) -> None:
        self.link = LeaderLink("127.0.0.1", b"secret")
        self.prompts: list[commands.StartPrefill] = []
        self.errors: list[Exception] = []
        self._thread = threading.Thread(target=self._follow, args=(models[1],), daemon=True)
        self._thread.start()
        self.link.accept(1)
        tell = self.link.tell

        def noting(command: object) -> None:
            if isinstance(command, commands.StartPrefill):
                self.prompts.append(command)
            tell(command)

        self.link.tell = noting
        part = RankModel(models[0], World())
        self.leader = Leader(self.link, part.open_session, 1, TIMEOUT_S)
        self.target = LiveShardedVideoLM(part, self.leader)

    def _follow(self, model) -> None:
        link = FollowerLink(1, self.link.address)
        self.follower = Follower(link, RankModel(model, World()).open_session)
        try:
            self.follower.follow(no_clips)
        except RankDivergenceError as error:
            self.errors.append(error)
            link.close()

    def pixels_sent(self) -> list[bool]:
        """Of each prompt that was told."""
        return [bool(prompt.inputs.vision) for prompt in self.prompts]

    def end(self) -> None:
        self.leader.end_call()
        self.join()

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        self.link.close()


def no_clips(clip_id: str):
    raise AssertionError(f"the follower looked for clip {clip_id}")


@pytest.fixture
def gang(models) -> Iterator[Gang]:
    running = Gang(models)
    yield running
    if running._thread.is_alive():
        running.end()


def answers(session, prompts) -> list[torch.Tensor]:
    """Logits and states of each prompt, and the logits of a block after it."""
    said = []
    for inputs in prompts:
        prefill = session.prefill(0, inputs)
        said.append(prefill.logits)
        if prefill.visual_states is not None:
            said.append(prefill.visual_states)
        said.append(session.forward([0], [[5, 6, 7]]).logits)
        session.release(0)
    return said


def prompts_of(target) -> list:
    return [
        target.converse(CLIP, question("what happens ?")),
        target.converse(CLIP, question("a red car ?")),
        target.converse(None, question("nothing", has_video=False)),
        target.converse(OTHER, question("what happens ?")),
        target.converse(CLIP, question("and then ?")),
    ]


def test_further_questions_on_a_video_are_answered_alike_and_no_pixels_are_sent(gang, models):
    """Ranks compare lengths and choices after every call, so the follower read what rank 0 did."""
    session = gang.target.open_session(1, MAX_LENGTH, TAPS, PrefixCache(1 << 30))
    said = answers(session, prompts_of(gang.target))
    whole = models[0].open_session(1, MAX_LENGTH, TAPS)
    expected = answers(whole, prompts_of(models[0]))
    assert len(said) == len(expected) == 14
    for ours, theirs in zip(said, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert gang.pixels_sent() == [True, False, False, True, False]


def test_prefixes_outlive_a_session_and_go_with_their_cache(gang):
    prefixes = PrefixCache(1 << 30)
    first, second, *_ = prompts_of(gang.target)
    session = gang.target.open_session(1, MAX_LENGTH, TAPS, prefixes)
    answers(session, [first])
    del session
    session = gang.target.open_session(1, 2 * MAX_LENGTH, TAPS, prefixes)
    answers(session, [second])
    assert gang.pixels_sent() == [True, False]
    assert (prefixes.num_queries, prefixes.num_hits) == (2, 1)
    del session, prefixes
    session = gang.target.open_session(1, MAX_LENGTH, TAPS, PrefixCache(1 << 30))
    answers(session, [second])
    assert gang.pixels_sent() == [True, False, True]
    gang.end()
    assert len(gang.follower._prefixes) == len(gang.follower._sessions) == 1


def test_ranks_let_go_of_the_same_prefixes(gang):
    """There is room for one video: the follower must forget when rank 0 does."""
    probe = PrefixCache(1 << 30)
    answers(gang.target.open_session(1, MAX_LENGTH, TAPS, probe), prompts_of(gang.target)[:1])
    one = probe._num_bytes
    session = gang.target.open_session(1, MAX_LENGTH, TAPS, PrefixCache(one + one // 2))
    answers(session, prompts_of(gang.target))
    assert gang.pixels_sent()[1:] == [True, False, False, True, True]


def test_without_a_cache_pixels_come_with_every_question(gang):
    session = gang.target.open_session(1, MAX_LENGTH, TAPS)
    answers(session, prompts_of(gang.target)[:2])
    assert gang.pixels_sent() == [True, True]


def test_a_cache_that_others_have_not_seen_is_refused(gang, models):
    used = PrefixCache(1 << 30)
    answers(models[0].open_session(1, MAX_LENGTH, prefixes=used), prompts_of(models[0])[:1])
    with pytest.raises(ValueError, match="has to be new"):
        gang.target.open_session(1, MAX_LENGTH, prefixes=used)


@pytest.mark.parametrize("is_known_to_rank_0", [True, False])
def test_a_rank_that_knows_other_prefixes_ends_the_gang(gang, is_known_to_rank_0):
    """One rank would encode the video with the others, and these would not come."""
    session = gang.target.open_session(1, MAX_LENGTH, TAPS, PrefixCache(1 << 30))
    inputs, *_ = prompts_of(gang.target)
    if is_known_to_rank_0:
        inputs = replace(inputs, vision={})
    else:
        answers(session, [inputs])
    gang.link.tell(commands.StartPrefill(session._number, 0, inputs))
    gang.join()
    assert [str(error) for error in gang.errors] == [
        "this rank and rank 0 have not read the same videos"
    ]
