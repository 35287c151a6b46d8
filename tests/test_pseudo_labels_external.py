"""Texts of another recogniser, whatever it wrote, as tokens of the run's tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.external import Spelling
from asr_emapl.text.tokenizer import CharacterTokenizer

pytest.importorskip("num2words")
TOKENIZER = CharacterTokenizer()


def spelled(text: str) -> str:
    return TOKENIZER.decode(Spelling(TOKENIZER).tokens(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AS IT IS", "AS IT IS"),
        ("Orange, leather.", "ORANGE LEATHER"),
        ("orange leather 6.9", "ORANGE LEATHER SIX POINT NINE"),
        ("2,000 dogs", "TWO THOUSAND DOGS"),
        ("version 1.2.3", "VERSION ONE TWO THREE"),
    ],
)
def test_texts_are_spelled_with_the_tokens(text, expected):
    assert spelled(text) == expected


@given(st.text(alphabet="0123456789., ", max_size=400))
def test_no_number_is_refused(text):
    """Recognisers invent numbers of hundreds of digits, too long for any number word."""
    spelled(text)
    assert spelled("7" + "0" * 350).startswith("SEVEN ZERO ZERO")


def test_what_was_done_is_counted():
    spelling = Spelling(TOKENIZER)
    for text in ("AS IT IS", "changed", "ничего", ""):
        spelling.tokens(text)
    assert (spelling.changed, spelling.unspellable) == (2, 1)
