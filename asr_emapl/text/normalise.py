"""Text as the recogniser is to write it: one spelling of each letter, one blank between words."""

from __future__ import annotations

ALPHABET = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""All that the official LibriSpeech transcripts are written with: blank, apostrophe, 26 capitals."""

# Left and right single quotation mark, and the apostrophe that Unicode counts among the letters.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))


def librispeech(text: str) -> str:
    """Text in LibriSpeech's spelling: capitals, straight apostrophes, single blanks, none at the ends.

    Nothing else is touched: digits, punctuation and accents stay, so that `outside` can report them
    instead of their being lost in silence. Applying it twice changes nothing more.
    """
    # Capitals first: that of U+0149 is a curly apostrophe and N.
    return " ".join(text.upper().translate(_APOSTROPHES).split())


def outside(text: str, alphabet: str) -> str:
    """The letters of `text` that `alphabet` lacks, each once, sorted by code point; empty if none."""
    return "".join(sorted(set(text) - set(alphabet)))
