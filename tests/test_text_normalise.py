"""Normalisation: what it changes, that it changes nothing else, and what stands outside an alphabet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.text.normalise import ALPHABET, PRESETS, common_voice, librispeech, outside, plain, words


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Hyphens and dashes of all kinds part words, as in LibriSpeech.
        ("A well-known half\u2010moon, non\u2011stop", "A WELL KNOWN HALF MOON NON STOP"),
        ("Wait\u2014no \u2013 yes\u2212--\u2015", "WAIT NO YES\u2212"),
        # Quotation marks go, apostrophes stay.
        ('"Don\'t," she said. \u201cWhy?\u201d \u00abSo\u00bb \u201eja\u201c', "DON'T SHE SAID WHY SO JA"),
        ("He said, 'go on now', and went", "HE SAID GO ON NOW AND WENT"),
        ("\u2018Go on,\u2019 she said, \u2018it isn\u2019t far\u2019", "GO ON SHE SAID IT ISN'T FAR"),
        ("'Twas the boys' dog, \u2019tis goin' on", "'TWAS THE BOYS' DOG 'TIS GOIN' ON"),
        ("'the boys'", "THE BOYS"),
        ("rock 'n' roll, o\u02bcclock, it`s, it\u00b4s, it\uff07s", "ROCK N ROLL O'CLOCK IT'S IT'S IT'S"),
        ("''", ""),
        # Unicode: composed or not, ligatures, full width, invisible letters, accents.
        ("caf\u00e9 cafe\u0301 na\u00efve \u00c5ngstr\u00f6m", "CAFE CAFE NAIVE ANGSTROM"),
        ("\ufb01nd \ufb02ow \uff26ull \u0133s", "FIND FLOW FULL IJS"),
        ("co\u00adop\u200ber\u200date\ufeff", "COOPERATE"),
        ("\u00e6on \u0153uvre stra\u00dfe \u0141\u00f3d\u017a \u00f8re", "AEON OEUVRE STRASSE LODZ ORE"),
        ("\u01fcsir \u01fe \uff40it\uff40 \u00af\u00b40", "AESIR O IT 0"),
        # Blanks and line ends of all kinds.
        ("one\ttwo\u00a0three\r\nfour\u2028five\u3000six", "ONE TWO THREE FOUR FIVE SIX"),
        ("U.S. troops... e.g. \u2026 (here) [and] {there}; yes: no!", "U S TROOPS E G HERE AND THERE YES NO"),
        # What would have to be guessed stays, to be reported.
        ("In 1984, 50% & $3.50", "IN 1984 50% & $3 50"),
        ("a@b.c #1 x\u00b2 \u2160", "A@B C #1 X2 I"),
    ],
)
def test_common_voice(text: str, expected: str) -> None:
    assert common_voice(text) == expected


def test_words_is_for_any_language() -> None:
    assert words("\u00bfQu\u00e9 tal, ni\u00f1o?") == "QU\u00c9 TAL NI\u00d1O"
    assert words("stra\u00dfe") == "STRASSE"
    assert words("\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439, \u043c\u0438\u0440!") == (
        "\u0417\u0414\u0420\u0410\u0412\u0421\u0422\u0412\u0423\u0419 \u041c\u0418\u0420"
    )
    assert words("\u300c\u306f\u3044\u3002\u300d\u3068") == "\u306f\u3044 \u3068"
    strange = PRESETS["words"].strange
    assert strange(words("ni\u00f1os: 3 \u20ac & 50% \u0e01\u0e34\u0e01")) == "%&035\u20ac"


def test_plain_composes_and_shows_what_is_there() -> None:
    assert plain(" e\u0301\t\u00ab7\u00bb \u200b- Don\u2019t ") == "\u00e9 \u00ab7\u00bb - Don\u2019t"
    assert PRESETS["plain"].strange("\u00ab7\u00bb") == ""


@pytest.mark.parametrize("name", PRESETS)
@given(text=st.text())
def test_every_preset_is_idempotent_and_has_no_stray_blanks(name: str, text: str) -> None:
    normalise = PRESETS[name].normalise
    normal = normalise(text)
    assert normalise(normal) == normal
    assert normal == normal.strip()
    assert "  " not in normal


@pytest.mark.parametrize("name", PRESETS)
@given(text=st.text("ab'\u2019\u2018\" -nsi.\u0301TWAS5"))
def test_every_preset_is_idempotent_where_marks_meet(name: str, text: str) -> None:
    normalise = PRESETS[name].normalise
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("name", PRESETS)
@given(text=st.text(st.characters(categories=["Nd"]), min_size=1))
def test_no_preset_loses_digits(name: str, text: str) -> None:
    normal = PRESETS[name].normalise(text)
    assert len(normal) == len(text)
    assert normal.isdecimal()
    assert PRESETS[name].strange(normal) or name == "plain"


@given(st.text(ALPHABET))
def test_common_voice_takes_only_apostrophes_from_official_text(text: str) -> None:
    assert common_voice(text).replace("'", "").split() == text.replace("'", "").split()
    assert PRESETS["common-voice"].strange(common_voice(text)) == ""
