"""Streamed text adds up to the whole text, and stops where it is told to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding.text_stream import StopStrings, TextStream


def decode_bytes(token_ids: Sequence[int]) -> str:
    """A byte-level tokenizer of one byte a token, as models' ``decode_text``."""
    return bytes(token_ids).decode("utf-8", errors="replace").strip()


@given(st.text(st.characters(codec="utf-8", exclude_characters="�"), max_size=40))
def test_pieces_of_bytes_add_up_to_the_text(text: str) -> None:
    pieces = TextStream(decode_bytes).pieces(text.encode())
    assert "".join(pieces) == text.strip()
    assert all("�" not in piece for piece in pieces)


def test_a_character_comes_with_its_last_byte() -> None:
    assert TextStream(decode_bytes).pieces("aé b".encode()) == ["a", "", "é", "", " b"]


WORDS = st.lists(st.sampled_from(["a", "ab", "b", "ba", " ", "abc"]), max_size=12)


@given(WORDS, st.lists(st.text("abc ", min_size=1, max_size=3), max_size=3))
def test_text_goes_on_to_the_first_stop_string_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [at for at in map(whole.find, stops) if at >= 0]
    strings = StopStrings(stops)
    sent = "".join([strings.add(piece) for piece in pieces] + [strings.end()])
    if strings.has_stopped:
        # Pieces end early: what came after the piece with a stop string was never looked at.
        assert ends
        assert whole.startswith(sent)
        assert any(whole[len(sent) :].startswith(stop) for stop in stops)
        assert not any(stop in sent for stop in stops)
    else:
        assert sent == whole
        assert not ends


@pytest.mark.parametrize(
    ("pieces", "sent"),
    [
        (["the ca", "t"], ["the ", "cat"]),
        (["the c", "ar"], ["the ", ""]),
        (["c", "c", "ar"], ["", "c", ""]),
    ],
)
def test_what_may_begin_a_stop_string_is_held_back(pieces: list[str], sent: list[str]) -> None:
    strings = StopStrings(["car"])
    assert [strings.add(piece) for piece in pieces] == sent
