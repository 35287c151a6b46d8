"""Normalisation: what it changes, that it changes nothing else, and what stands outside an alphabet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.text.normalise import ALPHABET, librispeech, outside


def test_alphabet_is_blank_apostrophe_and_capitals() -> None:
    assert len(ALPHABET) == 28
    assert list(ALPHABET) == sorted(set(ALPHABET))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\r\n ", ""),
        ("  go\t on\u00a0now \n", "GO ON NOW"),
        ("don't", "DON'T"),
        ("don\u2019t \u2018twas o\u02bcclock", "DON'T 'TWAS O'CLOCK"),
        ("Room 7, caf\u00e9!", "ROOM 7, CAF\u00c9!"),
        ("\u0149", "'N"),
    ],
)
def test_librispeech(text: str, expected: str) -> None:
    assert librispeech(text) == expected


@given(st.text())
def test_librispeech_is_idempotent_and_has_no_stray_blanks(text: str) -> None:
    normal = librispeech(text)
    assert librispeech(normal) == normal
    assert normal == normal.strip()
    assert "  " not in normal


@given(st.text(ALPHABET))
def test_librispeech_only_moves_blanks_in_official_text(text: str) -> None:
    assert librispeech(text).split() == text.split()
    assert librispeech(text.lower()) == librispeech(text)


def test_outside_names_each_letter_once_sorted() -> None:
    assert outside("CAF\u00c9 7, CAF\u00c9 1", ALPHABET) == ",17\u00c9"
    assert outside("DON'T GO", ALPHABET) == ""
    assert outside("GO", "") == "GO"


@given(st.text(), st.text())
def test_outside_is_what_has_to_be_added(text: str, alphabet: str) -> None:
    letters = outside(text, alphabet)
    assert not set(letters) & set(alphabet)
    assert outside(text, alphabet + letters) == ""
