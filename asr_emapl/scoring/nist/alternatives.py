"""Texts of NIST's formats that allow several wordings: `I'VE { UM / UH / @ } SEEN (IT)`.

`{ a / b }` is either wording, `@` no word, `(word)` a word that may be left out. Spaces around the marks may
be absent, and alternatives may hold alternatives. What is scored is the wording, on both sides, that aligns
best by sclite's weights: a substitution costs 4, a deletion or an insertion 3, and 2 where the word may be
left out. A word that is left out counts neither as an error nor as a reference word (sclite -D counts it as
correct).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from asr_emapl.errors import UserError
from asr_emapl.storage import BrokenLineError

Part = tuple[str, ...]
"""Wordings of a stretch, one or several; "" is no word."""


class OptionalWord(tuple[str, ...]):
    """A word that may be left out, and no word."""

    __slots__ = ()


Marked = tuple[Part, ...]
"""A text, stretch by stretch."""

_SUBSTITUTION, _OTHER, _LEFT_OUT, _NULL = 4.0, 3.0, 2.0, 0.001
_NO_WORD = "@"
_MAX_CELLS = 4_000_000  # 2,000 words against as many take seconds and half a gigabyte
_MAX_WORDINGS = 1000  # of one stretch, nested alternatives multiplied out
_TOKEN = re.compile(r"[{}/]|[^\s{}/]+")
_OPTIONAL = re.compile(r"\(([^()\s]+)\)")


def parse_marked(text: str) -> Marked | None:
    """The stretches of a text; None if it has no marks.

    Raises:
        BrokenLineError: braces that do not match, or more than 1,000 wordings of one stretch.
    """
    if not any(mark in text for mark in "{(@"):
        return None
    parts: list[Part] = []
    place = 0
    while (begin := text.find("{", place)) >= 0:
        parts += _words(text[place:begin])
        depth = 0
        for place in range(begin, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                break
        else:
            raise BrokenLineError("alternatives without an end: write { a / b }")
        place += 1
        tokens = iter(_TOKEN.findall(text[begin + 1 : place]))
        parts.append(tuple(dict.fromkeys(_wordings(tokens))))
    parts += _words(text[place:])
    several = "{" in text or any(len(part) > 1 for part in parts) or _NO_WORD in text.split()
    return tuple(parts) if several else None


def first_wording(text: str) -> str:
    """The text with the first of its alternatives.

    Raises:
        BrokenLineError: as `parse_marked`.
    """
    marked = parse_marked(text) if "{" in text or _NO_WORD in text.split() else None
    return text if marked is None else " ".join(filter(None, (part[0] for part in marked)))


def apply_to_wordings(marked: Marked, change: Callable[[str], str]) -> Marked:
    """Each wording changed."""
    return tuple(type(part)(change(wording) if wording else "" for wording in part) for part in marked)


def best_wordings(reference: Marked, hypothesis: Marked) -> tuple[str, str]:
    """The wordings of both sides whose alignment costs the least; of those that cost the same, the first.

    Raises:
        UserError: the texts are so long that the table of their alignments would fill the memory.
    """
    mine, theirs = _network(reference), _network(hypothesis)
    if len(mine) * len(theirs) > _MAX_CELLS:
        raise UserError(f"{len(mine):,} and {len(theirs):,} words, with alternatives (cut it into segments)")
    # best[u][v]: cost, the cell before, and the words on either side that lead from it.
    best: list[list[tuple[float, int, int, str, str]]] = [
        [(float("inf"), -1, -1, "", "") for _ in theirs] for _ in mine
    ]
    best[0][0] = (0.0, -1, -1, "", "")
    for u, arcs in enumerate(mine):
        for v, others in enumerate(theirs):
            found = best[u][v]
            for a, wanted, _ in arcs:
                for b, given, _ in others:
                    cost = best[a][b][0] + _pair_cost(wanted, given)
                    if cost < found[0]:
                        found = (cost, a, b, wanted, given)
            for b, given, alone in others:
                cost = best[u][b][0] + alone
                if cost < found[0]:
                    found = (cost, u, b, "", given)
            for a, wanted, alone in arcs:
                cost = best[a][v][0] + alone
                if cost < found[0]:
                    found = (cost, a, v, wanted, "")
            best[u][v] = found
    return _traced(best)


def _traced(best: Sequence[Sequence[tuple[float, int, int, str, str]]]) -> tuple[str, str]:
    u, v = len(best) - 1, len(best[0]) - 1
    reference: list[str] = []
    hypothesis: list[str] = []
    while u or v:
        _, u, v, wanted, given = best[u][v]
        reference.append(wanted)
        hypothesis.append(given)
    return " ".join(filter(None, reversed(reference))), " ".join(filter(None, reversed(hypothesis)))


def _pair_cost(wanted: str, given: str) -> float:
    if wanted and given:
        return 0.0 if wanted == given else _SUBSTITUTION
    return 1.0 if wanted == given else _SUBSTITUTION


def _words(text: str) -> Iterator[Part]:
    """A stretch without braces, optional words apart."""
    fixed: list[str] = []
    for word in text.split():
        if word == _NO_WORD:
            continue
        optional = _OPTIONAL.fullmatch(word)
        if optional is None:
            fixed.append(word)
            continue
        if fixed:
            yield (" ".join(fixed),)
            fixed = []
        yield OptionalWord((optional[1], ""))
    if fixed:
        yield (" ".join(fixed),)


def _wordings(tokens: Iterator[str]) -> list[str]:
    """What stands between braces, of which the first is taken, up to the last."""
    found: list[str] = []
    heads = [""]
    for token in tokens:
        if token in ("/", "}"):
            found += heads
            heads = [""]
            if token == "}":
                break
            continue
        tails: Iterable[str]
        if token == "{":
            tails = _wordings(tokens)
        else:
            optional = _OPTIONAL.fullmatch(token)
            tails = (optional[1], "") if optional else ("" if token == _NO_WORD else token,)
        heads = [" ".join(filter(None, pair)) for pair in product(heads, tails)]
        if len(heads) + len(found) > _MAX_WORDINGS:
            raise BrokenLineError(f"more than {_MAX_WORDINGS} wordings between braces: keep fewer")
    return found


def _network(marked: Marked) -> list[list[tuple[int, str, float]]]:
    """For each node, in topological order, the arcs that end in it: where they begin, word, cost alone."""
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
