"""Alternatives: parsing, and the best wordings against an exhaustive search."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from asr_emapl.errors import UserError
from asr_emapl.scoring.nist.alternatives import Marked, best_wordings, first_wording, parse_marked
from asr_emapl.storage import BrokenLineError

WORDS = st.lists(st.sampled_from("ABC"), max_size=3).map(" ".join)
TEXT = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("text", "expected", "first"),
    [
        ("A { UM / UH / @ } B", (("A",), ("UM", "UH", ""), ("B",)), "A UM B"),
        ("A {um/uh} B", (("A",), ("um", "uh"), ("B",)), "A um B"),
        ("{A B/C}", (("A B", "C"),), "A B"),
        ("A { B { C / D } / E }", (("A",), ("B C", "B D", "E")), "A B C"),
        ("{ { A / B } / C } D", (("A", "B", "C"), ("D",)), "A D"),
        ("A (B) C", (("A",), ("B", ""), ("C",)), "A (B) C"),
        ("A @ B", (("A B",),), "A B"),
        ("a@b.com", None, "a@b.com"),
        ("A {B/B}", (("A",), ("B",)), "A B"),
        ("{ @ / A }", (("", "A"),), ""),
        ("AND/OR } x", None, "AND/OR } x"),
        ("plain", None, "plain"),
    ],
)
def test_texts(text: str, expected: Marked | None, first: str) -> None:
    assert parse_marked(text) == expected
    assert first_wording(text) == first


def test_invalid_alternatives() -> None:
    with pytest.raises(BrokenLineError, match="unclosed alternatives"):
        parse_marked("A { B / C")
    for text in ("{ " * 3000, "{ " * 3000 + "a " + "} " * 3000):
        with pytest.raises(BrokenLineError, match="nested more than 100 levels deep"):
            parse_marked(text)
    with pytest.raises(BrokenLineError, match="more than 1000 wordings"):
        parse_marked("{ x / " + "{ a / b } " * 12 + "}")


def test_texts_that_are_too_long() -> None:
    words = (("a " * 3000,),)
    with pytest.raises(UserError, match=r"too long \(3,002 and 3,001 words\)"):
        best_wordings((*words, ("b", "c")), words)


def least(reference: str, hypothesis: str) -> int:
    return int(Levenshtein.distance(reference.split(), hypothesis.split(), weights=(3, 3, 4)))


def wordings(marked: Marked) -> set[str]:
    return {" ".join(" ".join(choice).split()) for choice in product(*marked)}


@settings(deadline=None)
@given(reference=TEXT, hypothesis=TEXT)
def test_best_wordings_equal_an_exhaustive_search(reference: Marked, hypothesis: Marked) -> None:
    found = best_wordings(reference, hypothesis)
    assert found[0] in wordings(reference)
    assert found[1] in wordings(hypothesis)
    pairs = product(wordings(reference), wordings(hypothesis))
    assert least(*found) == min(least(*pair) for pair in pairs)
