"""Texts in NIST's formats that allow alternatives: `I'VE { UM / UH / @ } SEEN (IT)`.

`{ a / b }` allows either wording, `@` denotes the empty word, `(word)` is optional. Spaces around the marks
are optional, and alternatives can be nested. The wordings whose alignment has the lowest cost are scored,
with sclite's weights: a substitution costs 4, a deletion or an insertion costs 3, or 2 for an optional word.
An omitted optional word counts neither as an error nor as a reference word (sclite -D counts it as correct).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, product

from asr_emapl.errors import UserError
from asr_emapl.storage import BrokenLineError

Part = tuple[str, ...]
"""The alternative wordings of one part of a text; "" denotes the empty word."""


class OptionalWord(tuple[str, ...]):
    """The two wordings of an optional word: the word and ""."""

    __slots__ = ()


Marked = tuple[Part, ...]
"""A text with alternatives, part by part."""

_Cell = tuple[float, int, int, str, str]

_SUBSTITUTION, _OTHER, _LEFT_OUT, _NULL = 4.0, 3.0, 2.0, 0.001
_NO_WORD = "@"
_MAX_CELLS = 4_000_000  # 2,000 by 2,000 words take seconds and half a gigabyte
_MAX_WORDINGS = 1000  # per part, after expanding nested alternatives
_MAX_DEPTH = 100
_TOKEN = re.compile(r"[{}/]|[^\s{}/]+")
_OPTIONAL = re.compile(r"\(([^()\s]+)\)")


def parse_marked(text: str) -> Marked | None:
    """Return the parts of a text; None if it has no alternatives.

    Raises:
        BrokenLineError: a brace is not closed, or a part has too many or too deeply nested wordings.
    """
    if not any(mark in text for mark in "{(@"):
        return None
    parts: list[Part] = []
    place = 0
    while (begin := text.find("{", place)) >= 0:
        wordings, end = _wordings(_TOKEN.finditer(text, begin + 1))
        parts += [*_words(text[place:begin]), tuple(dict.fromkeys(wordings))]
        place = end
    parts += _words(text[place:])
    has_alternatives = "{" in text or any(len(part) > 1 for part in parts) or _NO_WORD in text.split()
    return tuple(parts) if has_alternatives else None


def first_wording(text: str) -> str:
    """Return the text with each set of alternatives replaced by its first.

    Raises:
        BrokenLineError: see `parse_marked`.
    """
    marked = parse_marked(text) if "{" in text or _NO_WORD in text.split() else None
    return text if marked is None else _join(part[0] for part in marked)


def apply_to_wordings(marked: Marked, change: Callable[[str], str]) -> Marked:
    """Apply a function to each non-empty wording."""
    return tuple(type(part)(change(wording) if wording else "" for wording in part) for part in marked)


def best_wordings(reference: Marked, hypothesis: Marked) -> tuple[str, str]:
    """Return the reference and hypothesis with the lowest alignment cost; ties go to the first wording.

    Raises:
        UserError: the texts are so long that the alignment table would not fit in memory.
    """
    mine, theirs = _network(reference), _network(hypothesis)
    if len(mine) * len(theirs) > _MAX_CELLS:
        raise UserError(
            f"texts with alternatives are too long ({len(mine):,} and {len(theirs):,} words); "
            "split them into segments"
        )
    # best[u][v]: cost, predecessor cell, and the reference and hypothesis words on the arc from it.
    best: list[list[_Cell]] = [[(math.inf, 0, 0, "", "")] * len(theirs) for _ in mine]
    best[0][0] = (0.0, 0, 0, "", "")
    for u, arcs in enumerate(mine):
        for v, others in enumerate(theirs):
            found = best[u][v]
            for a, wanted, _ in arcs:
                for b, recognised, _ in others:
                    cost = best[a][b][0] + _pair_cost(wanted, recognised)
                    if cost < found[0]:
                        found = (cost, a, b, wanted, recognised)
            for b, recognised, alone in others:
                cost = best[u][b][0] + alone
                if cost < found[0]:
                    found = (cost, u, b, "", recognised)
            for a, wanted, alone in arcs:
                cost = best[a][v][0] + alone
                if cost < found[0]:
                    found = (cost, a, v, wanted, "")
            best[u][v] = found
    return _trace(best)


def _trace(best: Sequence[Sequence[_Cell]]) -> tuple[str, str]:
    """Follow the cheapest path back from the last cell."""
    u, v = len(best) - 1, len(best[0]) - 1
    reference: list[str] = []
    hypothesis: list[str] = []
    while u or v:
        _, u, v, wanted, recognised = best[u][v]
        reference.append(wanted)
        hypothesis.append(recognised)
    return _join(reversed(reference)), _join(reversed(hypothesis))


def _pair_cost(wanted: str, recognised: str) -> float:
    if wanted and wanted == recognised:
        return 0.0
    return _SUBSTITUTION if wanted or recognised else 1.0


def _join(wordings: Iterable[str]) -> str:
    return " ".join(filter(None, wordings))


def _words(text: str) -> Iterator[Part]:
    """Split a text without braces into parts; each optional word is its own part."""
    words = [word for word in text.split() if word != _NO_WORD]
    for is_optional, group in groupby(words, lambda word: _OPTIONAL.fullmatch(word) is not None):
        if is_optional:
            yield from (OptionalWord((word[1:-1], "")) for word in group)
        else:
            yield (" ".join(group),)


def _wordings(tokens: Iterator[re.Match[str]], depth: int = 1) -> tuple[list[str], int]:
    """Return the wordings inside braces and the end position; `tokens` starts after the opening brace."""
    if depth > _MAX_DEPTH:
        raise BrokenLineError(f"alternatives are nested more than {_MAX_DEPTH} levels deep; use fewer braces")
    found: list[str] = []
    heads = [""]
    for match in tokens:
        token = match[0]
        if token in ("/", "}"):
            found += heads
            heads = [""]
            if token == "}":
                return found, match.end()
            continue
        tails: Sequence[str]
        if token == "{":
            tails, _ = _wordings(tokens, depth + 1)
        else:
            optional = _OPTIONAL.fullmatch(token)
            tails = (optional[1], "") if optional else ("" if token == _NO_WORD else token,)
        heads = [_join(pair) for pair in product(heads, tails)]
        if len(heads) + len(found) > _MAX_WORDINGS:
            raise BrokenLineError(f"more than {_MAX_WORDINGS} wordings inside braces; reduce their number")
    raise BrokenLineError("unclosed alternatives; write { a / b }")


def _network(marked: Marked) -> list[list[tuple[int, str, float]]]:
    """Return the incoming arcs of each node in topological order: start node, word, cost if unmatched."""
    arcs: list[list[tuple[int, str, float]]] = [[]]
    for part in marked:
        begin = len(arcs) - 1
        null = _LEFT_OUT if isinstance(part, OptionalWord) else _NULL
        ends = []
        for wording in part:
            here = begin
            *inner, last = wording.split() or [""]
            for word in inner:
                arcs.append([(here, word, _OTHER)])
                here = len(arcs) - 1
            ends.append((here, last, _OTHER if last else null))
        arcs.append(ends)
    return arcs
