"""Guards where a draft differs on the target's captions, and what the target says from there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.mismatches import Mismatch, continued, find_mismatches
from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedVideoLM, scripted_prompt
from tests.unit.calibration.planted import PlantedVideoLM, captions_of, clip_request, said

EOS = frozenset([EOS_TOKEN_ID])


def requests(num_clips):
    """Prompts of different lengths, and other ones for the draft."""
    return [clip_request(2 + i, num_visual_tokens=1 + 3 * (i % 2)) for i in range(num_clips)]


def found(script, captions):
    told = []
    mismatches = find_mismatches(ScriptedVideoLM(script), captions, told.append)
    assert told == list(range(1, len(captions) + 1))
    return mismatches


def mismatches_by_hand(script, captions):
    return [
        Mismatch(index, position, guess, token)
        for index, caption in enumerate(captions)
        for position, token in enumerate(caption.token_ids)
        if position
        for guess in [
            script.next_token(
                caption.request.draft.token_ids.tolist(), caption.token_ids[:position]
            )
        ]
        if guess != token
    ]


class SameForBoth(Script):
    """Says of the draft's prompt what it says of the target's: the last id is the video."""

    def next_token(self, prompt, token_ids):
        return super().next_token(prompt[-1:], token_ids)


scripts = st.builds(
    Script,
    seed=st.integers(0, 1000),
    vocab_size=st.sampled_from([4, 6, 32]),
    min_length=st.just(1),
    max_length=st.integers(1, 12),
)


class TestFinding:
    @given(script=scripts, num_clips=st.integers(1, 5))
    @settings(max_examples=40, deadline=None)
    def test_all_places_but_the_first_where_the_drafts_choice_differs(self, script, num_clips):
        """By the draft's own prompt; few words, so that it is often right by chance."""
        captions = captions_of(script, requests(num_clips))
        assert found(script, captions) == mismatches_by_hand(script, captions)

    def test_a_draft_that_agrees_has_none(self):
        script = SameForBoth(seed=1)
        captions = captions_of(script, requests(4))
        assert found(script, captions) == []

    def test_a_draft_that_never_agrees_has_all(self):
        """The end counts as well, and a first token never does."""
        captions = captions_of(SameForBoth(seed=1), requests(4))
        mismatches = found(SameForBoth(seed=1, agreement=0.0), captions)
        assert [(m.caption, m.position, m.choice) for m in mismatches] == [
            (index, position, token)
            for index, caption in enumerate(captions)
            for position, token in enumerate(caption.token_ids)
            if position > 0
        ]

    def test_a_caption_of_one_token_has_none(self):
        captions = [TargetCaption(request, (EOS_TOKEN_ID,)) for request in requests(2)]
        assert found(Script(agreement=0.0), captions) == []

    def test_a_clip_without_draft_inputs_is_an_error(self):
        alone = CaptionRequest("clip alone", scripted_prompt([5]), None)
        captions = [TargetCaption(r, (4, EOS_TOKEN_ID)) for r in (clip_request(5), alone)]
        with pytest.raises(ValueError, match="clip alone has no draft inputs"):
            find_mismatches(ScriptedVideoLM(Script()), captions, lambda done: None)


def go_on(script, captions, mismatches, max_tokens, **kwargs):
    told = []
    stop = StopRule(EOS, max_tokens)
    endings = continued(ScriptedVideoLM(script), captions, mismatches, stop, told.append, **kwargs)
    assert told == list(range(1, len(mismatches) + 1))
    return endings


def solo(script, captions, mismatches, max_tokens):
    """Each prefix with its drafted token alone, decoded greedily."""
    return [
        said(
            script,
            captions[m.caption].request.target,
            max_tokens,
            (*captions[m.caption].token_ids[: m.position], m.drafted),
        )
        for m in mismatches
    ]


class TestGoingOn:
    @given(
        script=scripts,
        num_clips=st.integers(1, 5),
        num_slots=st.integers(1, 6),
        max_tokens=st.integers(1, 12),
    )
    @settings(max_examples=60, deadline=None)
    def test_in_a_batch_as_greedily_from_each_prefix_alone(
        self, script, num_clips, num_slots, max_tokens
    ):
        """Ends drafted in the middle, captions without an end and clips without a mismatch too."""
        captions = captions_of(script, requests(num_clips), max_tokens)
        mismatches = mismatches_by_hand(script, captions)
        endings = go_on(script, captions, mismatches, max_tokens, num_slots=num_slots)
        assert endings == solo(script, captions, mismatches, max_tokens)

    def test_the_default_number_of_slots_does_for_more_captions(self):
        script = Script(seed=4)
        captions = captions_of(script, requests(11))
        mismatches = mismatches_by_hand(script, captions)
        assert len({m.caption for m in mismatches}) == 11
        endings = go_on(script, captions, mismatches, 30)
        assert endings == solo(script, captions, mismatches, 30)

    @pytest.mark.parametrize(("num_slots", "expected"), [(1, 1), (3, 3), (8, 4)])
    def test_as_many_slots_as_asked_but_none_without_a_caption(self, num_slots, expected):
        opened = []

        class Counting(ScriptedVideoLM):
            def open_session(self, num_slots, *args, **kwargs):
                opened.append(num_slots)
                return super().open_session(num_slots, *args, **kwargs)

        captions = captions_of(Script(min_length=4), requests(5))
        mismatches = [Mismatch(index, 1, 9, 0) for index in range(4)]
        stop = StopRule(EOS, 30)
        continued(
            Counting(Script(min_length=4)), captions, mismatches, stop, lambda done: None, num_slots
        )
        assert opened == [expected]

    def test_endings_are_in_the_order_of_the_mismatches_of_interleaved_captions(self):
        script = Script(seed=4, min_length=8)
        captions = captions_of(script, requests(2))
        mismatches = [Mismatch(1, 1, 9, 0), Mismatch(0, 2, 9, 0), Mismatch(1, 5, 8, 0)]
        endings = go_on(script, captions, mismatches, 30)
        assert endings == solo(script, captions, mismatches, 30)

    def test_an_end_that_is_let_pass_is_the_end(self):
        script = Script(seed=4, min_length=8)
        (caption,) = captions_of(script, requests(1))
        assert go_on(script, [caption], [Mismatch(0, 3, EOS_TOKEN_ID, 0)], 30) == [
            (*caption.token_ids[:3], EOS_TOKEN_ID)
        ]

    def test_what_has_no_end_is_cut_at_the_limit(self):
        script = Script(seed=4, min_length=20)
        captions = captions_of(script, requests(1), max_tokens=6)
        mismatches = [Mismatch(0, 1, 9, 0), Mismatch(0, 5, 9, 0)]
        endings = go_on(script, captions, mismatches, 6)
        assert [len(ending) for ending in endings] == [6, 6]
        assert endings[1] == (*captions[0].token_ids[:5], 9)

    def test_where_nothing_differs_nothing_is_decoded(self):
        class Closed(ScriptedVideoLM):
            def open_session(self, *args, **kwargs):
                raise AssertionError("no session is needed")

        captions = captions_of(Script(), requests(2))
        stop = StopRule(EOS, 30)
        assert continued(Closed(Script()), captions, [], stop, lambda done: None) == []

    def test_a_planted_slip_leads_to_the_planted_caption(self):
        """What follows 9 differs from what follows 5; what follows 6 does not."""
        own, other = (4, 5, 6, 7, EOS_TOKEN_ID), (4, 9, 8, 8, 8, EOS_TOKEN_ID)
        model = PlantedVideoLM(lambda _, ids: (other if 9 in ids else own)[len(ids)])
        captions = [TargetCaption(clip_request(5), own)]
        mismatches = [Mismatch(0, 1, 9, 5), Mismatch(0, 2, 3, 6)]
        stop = StopRule(EOS, 30)
        assert continued(model, captions, mismatches, stop, lambda done: None) == [
            other,
            (4, 5, 3, 7, EOS_TOKEN_ID),
        ]
