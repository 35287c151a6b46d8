"""Text as the recogniser is to write it: one function a corpus, and the table of them, `PRESETS`.

What a function cannot spell (digits, signs that are spoken) it leaves as it is, for the preset's `strange` to
report: nothing is guessed, and nothing is lost in silence. Each function applied twice changes nothing more.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""All that the official LibriSpeech transcripts are written with: blank, apostrophe, 26 capitals."""

# Left and right single quotation mark, and the apostrophe that Unicode counts among the letters.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
# Others that stand for it in text typed by many hands: high-reversed and low quote, prime, grave, acute,
# modifier letters, full width.
_LOOSE_APOSTROPHES = str.maketrans(dict.fromkeys("\u201b\u2032`\u00b4\u02b9\u02bb\u02c8\uff07", "'"))
_SPOKEN = frozenset("%&@#*/\\\u00a7\u2030")
"""Punctuation, by Unicode's reckoning, that is read aloud."""
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
"""Soft hyphen, joiners, zero-width blanks, marks of direction, variation selectors, byte order mark."""
# Letters that Unicode does not take for a Latin letter with a mark.
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
# Words that begin with an apostrophe and not with a quotation.
_ELISIONS = frozenset(
    ("BOUT", "CAUSE", "EM", "ER", "IM", "N", "NEATH", "ROUND", "TIL", "TIS", "TWAS", "TWERE", "TWILL")
)


@dataclass(frozen=True, slots=True)
class Preset:
    """How a corpus spells: what normalises its text, and what of a normal text cannot be learnt from.

    Attributes:
        normalise: text to normal text.
        strange: the letters of a normal text that should not be in it, each once; empty if all is well.
        stated: what is done to a text, in words.
    """

    normalise: Callable[[str], str]
    strange: Callable[[str], str]
    stated: str


def librispeech(text: str) -> str:
    """Text in LibriSpeech's spelling: capitals, straight apostrophes, single blanks, none at the ends.

    Nothing else is touched: digits, punctuation and accents stay, so that `outside` can report them
    instead of their being lost in silence. Applying it twice changes nothing more.
    """
    # Capitals first: that of U+0149 is a curly apostrophe and N.
    return " ".join(text.upper().translate(_APOSTROPHES).split())


def plain(text: str) -> str:
    """Any language as it is written: composed (NFC), nothing invisible, single blanks, none at the ends."""
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def words(text: str) -> str:
    """Any language in capitals, without punctuation: what `common_voice` does, but for the Latin letters.

    Compatibility forms are resolved (NFKC: ligatures, full width). Hyphens, dashes and other punctuation part
    words; quotation marks go, apostrophes stay (`_apostrophes` tells them apart). Digits, symbols, and
    punctuation that is spoken (% & @) stay for `strange` to report.
    """
    return _apostrophes(_letters(text))


def common_voice(text: str) -> str:
    """English as Common Voice's speakers were shown it, in LibriSpeech's alphabet.

    As `words`, but accents are dropped (CAFE) and letters like AE spelled out.
    """
    text = unicodedata.normalize("NFD", _letters(text))
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return _apostrophes(text.translate(_LATIN))


def outside(text: str, alphabet: str) -> str:
    """The letters of `text` that `alphabet` lacks, each once, sorted by code point; empty if none."""
    return "".join(sorted(set(text) - set(alphabet)))


def _unspelled(text: str) -> str:
    """What of a text is neither a letter or its mark nor blank or apostrophe: digits, symbols, signs."""
    return "".join(sorted(c for c in set(text) - {" ", "'"} if unicodedata.category(c)[0] not in "LM"))


def _letters(text: str) -> str:
    """Capitals, straight apostrophes, and blanks for whatever parts words."""
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    # Twice: capitals may decompose what was composed.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper())
    text = _INVISIBLE.sub("", text).translate(_APOSTROPHES).translate(_LOOSE_APOSTROPHES)
    return "".join(" " if _parts_words(letter) else letter for letter in text)


def _parts_words(letter: str) -> bool:
    return letter.isspace() or (
        unicodedata.category(letter)[0] == "P" and letter != "'" and letter not in _SPOKEN
    )


def _apostrophes(text: str) -> str:
    """The words of `text` without the single quotation marks around them, joined by single blanks.

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
    "librispeech": Preset(librispeech, _in_alphabet, "capitals, straight apostrophes, single blanks"),
    "common-voice": Preset(
        common_voice, _in_alphabet, "as words, and without accents, letters like \u00c6 as AE"
    ),
    "words": Preset(
        words, _unspelled, "capitals, no punctuation but apostrophes, hyphens part words, compatibility forms"
    ),
    "plain": Preset(plain, lambda _: "", "composed (NFC), nothing invisible, single blanks"),
}
"""What a command may be told with --text, by name."""
