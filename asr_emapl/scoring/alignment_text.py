"""Alignments as text: wrapped for people, or unwrapped as in sclite's .pra files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len

from asr_emapl.scoring.alignment import Alignment, Op
from asr_emapl.terminal import visible

_LETTER = {"correct": "", "substitution": "S", "deletion": "D", "insertion": "I"}
_GAP = "*"
_WIDTH = 100  # cells of the terminal


def alignment_text(alignment: Alignment, width: int = _WIDTH) -> str:
    """Three lines (REF, HYP, and the errors below them) for each `width` cells, after one of counts."""
    counts = alignment.counts
    lines = [
        f"{visible(alignment.id, keep='')}: {counts.errors} errors in {counts.reference_length} words (sub "
        f"{counts.substitutions}, del {counts.deletions}, ins {counts.insertions})"
    ]
    for row in _rows(alignment.ops, width - 5) or [[]]:
        reference, hypothesis, marks = _columns(row)
        lines += [f"REF: {reference}", f"HYP: {hypothesis}"]
        if marks.strip():
            lines.append(f"     {marks}")
        # A row without errors has no line for them.
    return "\n".join(line.rstrip() for line in lines) + "\n"


def pra(alignments: Iterable[Alignment], name: str) -> Iterator[str]:
    """The lines of a .pra file as sclite writes it for a system of that name, case sensitive.

    sclite sorts utterances by speakers; who is not known is called "unknown". Its alignments are those with
    `weights="sclite"`.
    """
    speakers: dict[str, list[Alignment]] = {}
    for alignment in alignments:
        speakers.setdefault(alignment.speaker or "unknown", []).append(alignment)
    yield from ("", "", "\t\tDUMP OF SYSTEM ALIGNMENT STRUCTURE", "", f"System name:   {name}", "")
    yield "Speakers: "
    yield from (f"{i:5d}:  {speaker}" for i, speaker in enumerate(speakers))
    for i, (speaker, members) in enumerate(speakers.items()):
        yield from ("", f"Speaker sentences {i:3d}:  {speaker}   #utts: {len(members)}")
        for alignment in members:
            counts = alignment.counts
            scores = (alignment.correct, counts.substitutions, counts.deletions, counts.insertions)
            reference, hypothesis, marks = _columns(alignment.ops)
            yield f"id: ({alignment.id})"
            yield "Scores: (#C #S #D #I) {} {} {} {}".format(*scores)
            yield "Attributes: Case_sensitve "  # so spelled there
            yield from (f"REF:  {reference} ", f"HYP:  {hypothesis} ", f"Eval: {marks} ", "")


def _rows(ops: Iterable[Op], width: int) -> list[list[Op]]:
    """The columns in rows of at most `width` cells, or of one column that is wider."""
    rows: list[list[Op]] = []
    room = 0
    for op in ops:
        cells = _cells(op) + 1
        if not rows or cells > room:
            rows.append([])
            room = width + 1
        rows[-1].append(op)
        room -= cells
    return rows


def _columns(ops: Iterable[Op]) -> tuple[str, str, str]:
    """Reference, hypothesis and marks, the words of a column one above the other."""
    lines: tuple[list[str], list[str], list[str]] = ([], [], [])
    for op in ops:
        cells = _cells(op)
        words = (op.reference or _GAP * cells, op.hypothesis or _GAP * cells, _LETTER[op.kind])
        for line, word in zip(lines, words, strict=True):
            line.append(word + " " * (cells - cell_len(word)))
    reference, hypothesis, marks = (" ".join(line) for line in lines)
    return reference, hypothesis, marks


def _cells(op: Op) -> int:
    return max(cell_len(op.reference or ""), cell_len(op.hypothesis or ""))
