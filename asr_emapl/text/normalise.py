"""Text as the recognizer should write it: one function per kind of corpus, and `PRESETS`, the table of them.

A function does not change what it cannot spell out (digits, symbols that are read aloud); the preset's
`strange` reports it. Each function is idempotent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""All that the official LibriSpeech transcripts are written with: space, apostrophe, A-Z."""

# Left and right single quotation mark, and the apostrophe that Unicode classifies as a letter.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
# Others that people type instead: high-reversed quote, prime, grave, acute, modifier letters, full width.
_LOOSE_APOSTROPHES = str.maketrans(dict.fromkeys("\u201b\u2032`\u00b4\u02b9\u02bb\u02c8\uff07", "'"))
_SPOKEN = frozenset("%&@#*/\\\u00a7\u2030")
"""Characters that Unicode classifies as punctuation and that are read aloud."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
"""Soft hyphen, joiners, zero-width spaces, direction marks, variation selectors, byte order mark."""
# Letters that Unicode does not decompose into a Latin letter and a mark.
_LATIN = str.maketrans(
    {
        "\u00c6": "AE",
        "\u0152": "OE",
        "\u00d8": "O",
        "\u0141": "L",
        "\u0110": "D",
        "\u00d0": "D",
        "\u00de": "TH",
        "\u0126": "H",
        "\u0131": "I",
    }
)
# Words that begin with an apostrophe, not with a quotation mark.
_ELISIONS = frozenset(
    ("BOUT", "CAUSE", "EM", "ER", "IM", "N", "NEATH", "ROUND", "TIL", "TIS", "TWAS", "TWERE", "TWILL")
)


@dataclass(frozen=True, slots=True)
class Preset:
    """How the text of a corpus is normalised, and which characters are not allowed afterwards.

    Attributes:
        normalise: text to normalised text.
        strange: the characters of a normalised text that should not be in it, each once; empty if none.
        stated: what is done to a text, in words.
    """

    normalise: Callable[[str], str]
    strange: Callable[[str], str]
    stated: str


def librispeech(text: str) -> str:
    """Text in LibriSpeech's spelling: capitals, straight apostrophes, single spaces, none at the ends.

    Digits, punctuation and accents stay, so that `outside` can report them.
    """
    # Capitals first: the capital of U+0149 is a curly apostrophe and N.
    return " ".join(text.upper().translate(_APOSTROPHES).split())


def plain(text: str) -> str:
    """Any language as it is written: NFC, no invisible characters, single spaces, none at the ends."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def words(text: str) -> str:
    """Any language in capitals, without punctuation: as `common_voice`, but accents and other letters stay.

    Compatibility forms are resolved (NFKC: ligatures, full width). Hyphens, dashes and other punctuation
    separate words. Quotation marks are removed, apostrophes stay (see `_apostrophes`). Digits, symbols, and
    punctuation that is read aloud (% & @) stay, and `strange` reports them.
    """
    return _apostrophes(_capitals(text))


def common_voice(text: str) -> str:
    """English as Common Voice's speakers were shown it, in LibriSpeech's alphabet.

    As `words`, but accents are removed (CAFE) and letters such as AE are spelled out.
    """
    text = unicodedata.normalize("NFD", _capitals(text))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return _apostrophes(text.translate(_LATIN))


def outside(text: str, alphabet: str) -> str:
    """The characters of `text` that are not in `alphabet`, each once, sorted by code point."""
    return "".join(sorted(set(text) - set(alphabet)))


def _unspelled(text: str) -> str:
    """The characters that are not letters, marks, spaces or apostrophes: digits and symbols."""
    return "".join(sorted(c for c in set(text) - {" ", "'"} if unicodedata.category(c)[0] not in "LM"))


def _capitals(text: str) -> str:
    """Capitals, straight apostrophes, and spaces for everything that separates words."""
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    # Twice, because capitals may decompose what was composed.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper())
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    return "".join(" " if _separates_words(letter) else letter for letter in text)


def _separates_words(letter: str) -> bool:
    return letter.isspace() or (
        unicodedata.category(letter)[0] == "P" and letter != "'" and letter not in _SPOKEN
    )


def _apostrophes(text: str) -> str:
    """The words of `text` without the single quotation marks around them, joined by single spaces.

    An apostrophe inside a word stays. One before a word stays if the word is a known elision ('TWAS), one
    after it if the word ends in S or IN (the boys', goin'), unless a quotation is open.
    """
    kept = []
    is_open = False
    for word in text.split():
        core = word.strip("'")
        if not core:
            is_open = is_open and len(word) % 2 == 0
            continue
        before, after = word.startswith("'"), word.endswith("'")
        is_elision = before and not after and core in _ELISIONS
        if before and not is_elision:
            is_open = True
        belongs = after and not is_open and core.endswith(("S", "IN"))
        if after and is_open:
            is_open = False
        kept.append("'" * is_elision + core + "'" * belongs)
    return " ".join(kept)


_in_alphabet = partial(outside, alphabet=ALPHABET)

PRESETS = {
    "librispeech": Preset(librispeech, _in_alphabet, "capitals, straight apostrophes, single spaces"),
    "common-voice": Preset(
        common_voice, _in_alphabet, "as words, without accents, letters such as \u00c6 as AE"
    ),
    "words": Preset(
        words,
        _unspelled,
        "capitals, no punctuation but apostrophes, hyphens separate words, compatibility forms",
    ),
    "plain": Preset(plain, lambda _: "", "NFC, no invisible characters, single spaces"),
}
"""The values of --text, by name."""
