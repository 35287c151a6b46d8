"""Characters that look equal but differ: decomposed letters (NFD) and invisible characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from asr_emapl.text.normalise import plain


def seen(text: str) -> str:
    """The text as a reader sees it: composed (NFC), without invisible characters, single spaces."""
    return plain(text)


def are_alike(first: Collection[str], second: Iterable[str]) -> bool:
    """Whether an id of `second` that `first` lacks looks like one of `first`."""
    shown = {seen(name) for name in first}
    return any(name not in first and seen(name) in shown for name in second)


def hidden_differences(pairs: Iterable[tuple[str, str]]) -> int:
    """How many pairs of texts have words that only look alike, and so count as errors."""
    return sum(_differ(*pair) for pair in pairs)


def _differ(reference: str, hypothesis: str) -> bool:
    if reference == hypothesis or (reference.isascii() and hypothesis.isascii()):
        return False
    words = set(reference.split()) ^ set(hypothesis.split())
    odd = {word for word in words if not word.isascii() and not _is_seen(word)}
    if not odd:
        return False
    theirs = {seen(word) for word in words - odd}
    return any(seen(word) in theirs or not seen(word) for word in odd) or (
        len({seen(word) for word in odd}) < len(odd)
    )


def _is_seen(word: str) -> bool:
    return unicodedata.is_normalized("NFC", word) and seen(word) == word
