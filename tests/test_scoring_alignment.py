"""Alignments: complete, consistent with the error counts, and rendered as text and HTML."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rich.cells import cell_len

from asr_emapl.scoring.alignment import Op, align
from asr_emapl.scoring.alignment_files import alignment_html, alignment_page, alignment_text
from asr_emapl.scoring.wer import ErrorCounts, word_edits

SENTENCE = st.lists(st.sampled_from(["A", "B", "<b>", "日本", "AB"]), max_size=9).map(" ".join)
REFERENCE, HYPOTHESIS = "THE CAT SAT ON THE MAT", "THE CAT SIT ON MAT TODAY"


@settings(deadline=None)
@given(reference=SENTENCE, hypothesis=SENTENCE)
def test_alignment_contains_both_sides(reference: str, hypothesis: str) -> None:
    alignment = align(reference, hypothesis, "u")
    assert (alignment.reference, alignment.hypothesis) == (reference.split(), hypothesis.split())
    assert alignment.counts == ErrorCounts(*word_edits([reference], [hypothesis])[0].tolist())
    for op in alignment.ops:
        assert (op.kind == "correct") == (op.reference == op.hypothesis)
        assert (op.kind == "insertion", op.kind == "deletion") == (
            op.reference is None,
            op.hypothesis is None,
        )


def test_ops() -> None:
    alignment = align(REFERENCE, HYPOTHESIS, "u", "me", "sclite")
    assert alignment.ops[2:] == (
        Op("substitution", "SAT", "SIT"),
        Op("correct", "ON", "ON"),
        Op("deletion", "THE", None),
        Op("correct", "MAT", "MAT"),
        Op("insertion", None, "TODAY"),
    )
    assert alignment.speaker == "me"


def test_text() -> None:
    assert alignment_text(align(REFERENCE, HYPOTHESIS, "u", weights="sclite")) == (
        "u: 3 errors in 6 words (sub 1, del 1, ins 1)\n"
        "REF: THE CAT SAT ON THE MAT *****\n"
        "HYP: THE CAT SIT ON *** MAT TODAY\n"
        "             S      D       I\n"
    )
    assert alignment_text(align("", "")).endswith("words (sub 0, del 0, ins 0)\nREF:\nHYP:\n")


@given(reference=SENTENCE, hypothesis=SENTENCE, width=st.integers(6, 30))
@settings(deadline=None)
def test_text_respects_the_width_and_is_complete(reference: str, hypothesis: str, width: int) -> None:
    lines = alignment_text(align(reference, hypothesis, "u"), width).splitlines()[1:]
    assert all(cell_len(line) <= max(width, 5 + 4) for line in lines)
    for name, text in (("REF: ", reference), ("HYP: ", hypothesis)):
        shown = [word for line in lines if line.startswith(name) for word in line[5:].split()]
        assert [word for word in shown if word.strip("*")] == text.split()


class Words(HTMLParser):
    """The words of an HTML fragment outside <ins> and outside <del>."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wanted: list[str] = []
        self.given: list[str] = []
        self.feed(fragment)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "ins" not in self.open:
            self.wanted += data.split()
        if "del" not in self.open:
            self.given += data.split()


@settings(deadline=None)
@given(reference=SENTENCE, hypothesis=SENTENCE)
def test_html_contains_both_sides_escaped(reference: str, hypothesis: str) -> None:
    words = Words(alignment_html(align(reference, hypothesis)))
    assert (words.wanted, words.given) == (reference.split(), hypothesis.split())


def test_page_is_self_contained() -> None:
    alignments = [align("A", "A", "right"), align("A <x>", "B", "wro&ng", "sp<k")]
    page = "".join(alignment_page(alignments, "a & b", "normalisation: none"))
    assert "<title>a &amp; b</title>" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?:|src=|<link|@import|url\(", page)
    assert "2 errors in 3 words" in page
    assert '<section class="wrong"><h2>wro&amp;ng <span>2 errors in 2 words' in page
    assert "speaker sp&lt;k" in page
    assert page.count('<section class="right">') == 1
    # Each colour is declared for light and for dark backgrounds.
    for name in set(re.findall(r"var\((--[\w-]+)\)", page)):
        assert len(re.findall(rf"{name}:", page)) == 2, name


def test_similar_words_are_paired():
    found = align("FOLLOW ANOTHER YELLOW LINE", "EOLLOTWTENTHER YELOTW LINE")
    pairs = [(op.reference, op.hypothesis) for op in found.ops if op.kind == "substitution"]
    assert ("YELLOW", "YELOTW") in pairs


WORDS = st.lists(st.text("AB", min_size=1, max_size=3), max_size=7)


def slow_least_distance(few, many):
    """Over all ways to pair the fewer words with others, in order."""
    return min(
        sum(Levenshtein.normalized_distance(a, b) for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.combinations(many, len(few))
    )


@given(WORDS, WORDS)
def test_counts_are_those_of_jiwer_and_pairs_the_most_similar(words, recognised):
    found = align(" ".join(words), " ".join(recognised))
    assert found.reference == words
    assert found.hypothesis == recognised
    assert found.counts.errors == Levenshtein.distance(words, recognised)
    for is_correct, ops in itertools.groupby(found.ops, key=lambda op: op.kind == "correct"):
        run = list(ops)
        if is_correct:
            continue
        left = [op.reference for op in run if op.reference is not None]
        right = [op.hypothesis for op in run if op.hypothesis is not None]
        pairs = [op for op in run if op.kind == "substitution"]
        assert len(pairs) == min(len(left), len(right))
        distance = sum(Levenshtein.normalized_distance(op.reference, op.hypothesis) for op in pairs)
        assert distance == pytest.approx(slow_least_distance(*sorted((left, right), key=len)))
