"""Normalise text to the recognizer's output format: one function per kind of corpus, listed in `PRESETS`.

Characters that must be spelled out (digits, symbols that are read aloud) are not changed; the preset's
`strange` reports them. All functions are idempotent.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The characters of the official LibriSpeech transcripts: space, apostrophe, A-Z."""

# Left and right single quotation mark, and the apostrophe that Unicode classifies as a letter.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
# Other substitutes: high-reversed quote, prime, grave, acute, modifier letters, full width.
_LOOSE_APOSTROPHES = str.maketrans(dict.fromkeys("\u201b\u2032`\u00b4\u02b9\u02bb\u02c8\uff07", "'"))
_SPOKEN = frozenset("%&@#*/\\\u00a7\u2030")
"""Characters that are read aloud, although Unicode classifies them as punctuation."""
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
# Words that start with an apostrophe, not with a quotation mark.
_ELISIONS = frozenset(
    ("BOUT", "CAUSE", "EM", "ER", "IM", "N", "NEATH", "ROUND", "TIL", "TIS", "TWAS", "TWERE", "TWILL")
)


@dataclass(frozen=True, slots=True)
class Preset:
    """Text normalisation of a corpus, and a check of the result.

    Attributes:
        normalise: maps a text to the normalised text.
        strange: returns the invalid characters of a normalised text, each once.
        stated: description of the normalisation.
    """

    normalise: Callable[[str], str]
    strange: Callable[[str], str]
    stated: str


def librispeech(text: str) -> str:
    """Convert to LibriSpeech's format: capitals, straight apostrophes, single spaces, no spaces at the ends.

    Digits, punctuation and accents are kept, so that `outside` can report them.
    """
    # Capitalise first, because the capital of U+0149 is a curly apostrophe and N.
    return " ".join(text.upper().translate(_APOSTROPHES).split())


def plain(text: str) -> str:
    """Keep the usual spelling of any language: NFC, no invisible characters, single spaces between words."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def words(text: str) -> str:
    """Convert any language to capitals without punctuation. Unlike `common_voice`, keep all letters.

    Compatibility forms are resolved (NFKC: ligatures, full width). Hyphens, dashes and other punctuation
    separate words. Quotation marks are removed, apostrophes are kept (see `_apostrophes`). Digits, symbols,
    and punctuation that is read aloud (% & @) are kept, and `strange` reports them.
    """
    return _apostrophes(_capitals(text))


def common_voice(text: str) -> str:
    """Convert English sentences of Common Voice to LibriSpeech's alphabet.

    Like `words`, but accents are removed (CAFE) and letters such as AE are spelled out.
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
    """Convert to capitals, straight apostrophes, and spaces instead of all word separators."""
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    # Normalise twice, because upper() may decompose characters.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper())
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    return "".join(" " if _separates_words(letter) else letter for letter in text)


def _separates_words(letter: str) -> bool:
    return letter.isspace() or (
        unicodedata.category(letter)[0] == "P" and letter != "'" and letter not in _SPOKEN
    )


def _apostrophes(text: str) -> str:
    """Remove single quotation marks around words, and join the words with single spaces.

    Apostrophes inside a word are kept. An apostrophe before a word is kept if the word is a known elision
    ('TWAS). An apostrophe after a word is kept if the word ends in S or IN (the boys', goin'), unless a
    quotation is open.
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


_OF_WORDS = "capitals, no punctuation but apostrophes, hyphens separate words"
_in_alphabet = partial(outside, alphabet=ALPHABET)

PRESETS = {
    "librispeech": Preset(librispeech, _in_alphabet, "capitals, straight apostrophes, single spaces"),
    "common-voice": Preset(common_voice, _in_alphabet, f"{_OF_WORDS}, no accents, \u00c6 as AE"),
    "words": Preset(
        words,
        _unspelled,
        f"{_OF_WORDS}, compatibility forms",
    ),
    "plain": Preset(plain, lambda _: "", "NFC, no invisible characters, single spaces"),
}
"""The values of --text, by name."""
