"""Guards that a caption in tokens is still the caption, and which token is an anchor."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import TokenDecision
from pipeline.report.html_tokens import KINDS, TokenText, coloured


def token(text: str, kind: str = "exact", rank: float | None = None) -> TokenDecision:
    return TokenDecision(1, kind, 1, None, rank, text)


def parts(pieces: list[TokenText]) -> list[tuple[str, str]]:
    return [(piece.text, piece.kind) for piece in pieces]


def test_tokens_that_are_the_caption() -> None:
    tokens = [token("A", "correction"), token(" red", "relaxed"), token(" ball", "bonus")]
    assert parts(coloured("A red ball", tokens, None)) == [
        ("A", "correction"),
        (" red", "relaxed"),
        (" ball", "bonus"),
    ]


@pytest.mark.parametrize(
    ("caption", "tokens", "wanted"),
    [
        # the whole drops the space before its first word
        ("A red", [token(" A"), token(" red")], [("A", "exact"), (" red", "exact")]),
        # a special token has no text
        ("A", [token("A"), token("", "bonus")], [("A", "exact")]),
        # two halves of a character: the first that stands for it has it
        (
            "Café now",
            [token("Caf"), token("�", "relaxed"), token("�", "bonus"), token(" now")],
            [("Caf", "exact"), ("é", "relaxed"), (" now", "exact")],
        ),
        # ... or, at the end, the last
        ("é", [token("�"), token("�", "bonus")], [("é", "bonus")]),
        # text that no token accounts for is told, without a kind
        ("A red ball", [], [("A red ball", "")]),
        ("", [token("A")], []),
    ],
)
def test_tokens_that_are_less_than_the_caption(
    caption: str, tokens: list[TokenDecision], wanted: list[tuple[str, str]]
) -> None:
    assert parts(coloured(caption, tokens, None)) == wanted


@given(
    st.lists(st.text(max_size=4), max_size=8),
    st.one_of(st.none(), st.text(max_size=20)),
)
def test_pieces_always_add_up_to_the_caption(texts: list[str], other: str | None) -> None:
    """Whatever the tokens say: of this caption, or of another."""
    caption = "".join(texts) if other is None else other
    pieces = coloured(caption, [token(text) for text in texts], 0.5)
    assert "".join(piece.text for piece in pieces) == caption
    assert "".join(piece.space + piece.word for piece in pieces) == caption
    if other is None:
        assert [piece.text for piece in pieces] == [text for text in texts if text]


def test_an_anchor_is_what_the_rule_held_to_exactness() -> None:
    """Ranks above lambda; at lambda 0, and without a video (an infinite score), all of them."""
    without_video = TokenDecision(1, "exact", 1, math.inf, 0.2, "e")
    ranked = [token("a", rank=0.5), token("b", rank=0.51), token("c", rank=0.9), token("d")]
    tokens = [*ranked, without_video]
    pieces = coloured("abcde", tokens, 0.5)
    assert [piece.is_anchor for piece in pieces] == [False, True, True, False, True]
    assert pieces[1].title == "exact · anchor · more visual than 51% of tokens"
    assert pieces[3].title == "exact"
    assert not any(piece.is_anchor for piece in coloured("abcde", tokens, None))
    strict = [piece.is_anchor for piece in coloured("abcde", tokens, 0.0)]
    assert strict == [True, True, True, False, True]


def test_every_kind_that_a_row_can_have_has_its_words() -> None:
    assert list(KINDS) == ["exact", "relaxed", "shifted", "correction", "bonus"]
