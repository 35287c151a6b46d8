"""Texts that look alike but differ in Unicode: decomposed letters (NFD) and invisible characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from asr_emapl.text.normalise import plain


def are_alike(first: Collection[str], second: Iterable[str]) -> bool:
    """Whether an id of `second` that is not in `first` looks like an id of `first`."""
    shown = {plain(name) for name in first}
    return any(name not in first and plain(name) in shown for name in second)


def hidden_differences(pairs: Iterable[tuple[str, str]]) -> int:
    """Count the pairs of texts with words that look alike but differ, and therefore count as errors."""
    return sum(_differ(*pair) for pair in pairs)


def _differ(reference: str, hypothesis: str) -> bool:
    if reference == hypothesis or (reference.isascii() and hypothesis.isascii()):
        return False
    words = set(reference.split()) ^ set(hypothesis.split())
    unusual = {word for word in words if not _is_plain(word)}
    shown = [plain(word) for word in unusual]
    others = {plain(word) for word in words - unusual}
    return any(word in others or not word for word in shown) or len(set(shown)) < len(shown)


def _is_plain(word: str) -> bool:
    return word.isascii() or (unicodedata.is_normalized("NFC", word) and plain(word) == word)
