"""Detect text files without ids: "THE CAT" is not CAT with id THE.

Ids have digits or separators (1272-128104-0000, sp1_utt2, 17); words have neither. A file is suspected
only if at least half of its lines begin with a word of two letters or more.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

_ATTACHED = "'\u2019.,;:?!\"\u201c\u201d\u00ab\u00bb\u00bf\u00a1"
_RECURRING_SHARE = 0.2

Finding = Literal["none", "suspected", "certain"]


def lines_without_ids(firsts: Sequence[str], rests: Sequence[str]) -> Finding:
    """Whether the lines have no ids.

    Args:
        firsts: the first word of each line, which should be an id.
        rests: what follows it.

    Returns:
        "certain" if, besides looking like words, the first words repeat, or at least a fifth of them occur
        among the other words too, or no line has another word. "suspected" if they only look like words, but
        not if they are in small letters and the text is in capitals, or the other way round.
    """
    wordlike = [first for first in firsts if _is_word(first)]
    if not wordlike or len(wordlike) < len(firsts) / 2:
        return "none"
    text = " ".join(rests)
    distinct = set(wordlike)
    recurring = distinct & set(text.split())
    is_repeated = len(distinct) < len(wordlike)
    if is_repeated or not text.strip() or len(recurring) >= _RECURRING_SHARE * len(distinct):
        return "certain"
    letters = "".join(wordlike)
    if (letters.islower() and text.isupper()) or (letters.isupper() and text.islower()):
        return "none"
    return "suspected"


def _is_word(first: str) -> bool:
    letters = [letter for letter in first.strip(_ATTACHED) if letter not in _ATTACHED]
    return len(letters) > 1 and all(unicodedata.category(letter)[0] in "LM" for letter in letters)
