"""Alignments as text, HTML pages (light and dark) and sclite's .pra files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from rich.cells import cell_len

from asr_emapl.errors import UserError, counted
from asr_emapl.scoring.alignment import Alignment, Op
from asr_emapl.scoring.wer import ErrorCounts
from asr_emapl.storage import write
from asr_emapl.terminal import visible

ALIGNMENT_CSS = """
.alignment { line-height: 1.9; overflow-wrap: anywhere; }
.alignment del, .alignment ins { text-decoration: none; border-radius: 3px; padding: 0 .2em; }
.alignment del { color: var(--lost); background: var(--lost-back); text-decoration: line-through; }
.alignment ins { color: var(--new); background: var(--new-back); border-bottom: 2px solid; }
.alignment .sub { display: inline-block; max-width: 100%; line-height: 1.5; }
.alignment .sub del { color: var(--other); background: var(--other-back); border-radius: 3px 0 0 3px; }
.alignment .sub ins { color: var(--other); background: var(--other-back); border-radius: 0 3px 3px 0; }
:root { --lost: #a32014; --lost-back: #fbe4e1; --new: #0b57a4; --new-back: #e0edfa;
  --other: #7a4a00; --other-back: #fdefcf; }
@media (prefers-color-scheme: dark) {
  :root { --lost: #ffa79e; --lost-back: #4d1a15; --new: #9dcbff; --new-back: #10325a;
    --other: #ffd27a; --other-back: #4a3405; }
}
"""
"""Style of the fragments that `alignment_html` returns, on light and dark backgrounds."""

_PAGE_CSS = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d1f21; --faint: #5b6168; --rule: #dfe2e5; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181a; --ink: #e6e8ea; --faint: #a2a9b0; --rule: #34383c; }
}
body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
section { border-top: 1px solid var(--rule); padding: .6rem 0; }
section p, h2 + p { margin: .2rem 0; }
.faint, h2 span { color: var(--faint); font-weight: normal; }
body:has(#wrong:checked) section.right { display: none; }
"""
_MARKS = {"correct": "", "substitution": "S", "deletion": "D", "insertion": "I"}
_WIDTH = 100  # terminal columns
_SUFFIXES = (".txt", ".html", ".pra")


def check_alignment_file(place: Path) -> None:
    """Raise UserError if the file extension is not .txt, .html or .pra."""
    if place.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{place}: unknown alignment format; use one of {', '.join(_SUFFIXES)}")


def write_alignments(place: Path, alignments: Sequence[Alignment], name: str, normalisation: str) -> None:
    """Write alignments in the format given by the file extension: text, HTML or sclite's .pra.

    `name` (of the corpus) and `normalisation` (its description) are written to the file.

    Raises:
        UserError: the extension is unknown, or the file cannot be written.
    """
    check_alignment_file(place)
    suffix = place.suffix.lower()
    if suffix == ".html":
        write(place, alignment_page(alignments, f"Alignments of {name}", f"Normalisation: {normalisation}."))
    elif suffix == ".pra":
        write(place, (visible(line, keep="\t") + "\n" for line in pra(alignments, name)))
    else:
        texts = ("\n" + alignment_text(alignment) for alignment in alignments)
        write(place, map(visible, (f"normalisation: {normalisation}\n", *texts)))


def alignment_text(alignment: Alignment, width: int = _WIDTH) -> str:
    """Return the error counts and rows of at most `width` columns: reference, hypothesis, error marks."""
    lines = [f"{visible(alignment.id, keep='')}: {_counts(alignment.counts)}"]
    for row in _rows(alignment.ops, width - 5) or [[]]:
        reference, hypothesis, marks = _columns(row)
        lines += [f"REF: {reference}", f"HYP: {hypothesis}"]
        if marks.strip():
            lines.append(f"     {marks}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def pra(alignments: Iterable[Alignment], name: str) -> Iterator[str]:
    """Yield the lines of sclite's .pra file for a system, with utterances grouped by speaker."""
    speakers: dict[str, list[Alignment]] = {}
    for alignment in alignments:
        speakers.setdefault(alignment.speaker or "unknown", []).append(alignment)
    yield from ("", "", "\t\tDUMP OF SYSTEM ALIGNMENT STRUCTURE", "", f"System name:   {name}", "")
    yield "Speakers: "
    yield from (f"{i:5d}:  {speaker}" for i, speaker in enumerate(speakers))
    for i, (speaker, members) in enumerate(speakers.items()):
        yield from ("", f"Speaker sentences {i:3d}:  {speaker}   #utts: {len(members)}")
        for alignment in members:
            c = alignment.counts
            correct = c.reference_length - c.substitutions - c.deletions
            reference, hypothesis, marks = _columns(alignment.ops)
            yield f"id: ({alignment.id})"
            yield f"Scores: (#C #S #D #I) {correct} {c.substitutions} {c.deletions} {c.insertions}"
            yield "Attributes: Case_sensitve "  # sclite's spelling
            yield from (f"REF:  {reference} ", f"HYP:  {hypothesis} ", f"Eval: {marks} ", "")


def alignment_html(alignment: Alignment) -> str:
    """Return one `<p class="alignment">`, with deletions in `<del>` and insertions in `<ins>`."""
    return f'<p class="alignment">{" ".join(map(_html, alignment.ops))}</p>'


def alignment_page(alignments: Sequence[Alignment], title: str, note: str) -> Iterator[str]:
    """Yield the parts of a self-contained HTML page, with a checkbox that hides utterances without errors.

    `note` is added to the line below the title.
    """
    counts = sum((alignment.counts for alignment in alignments), ErrorCounts())
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE_CSS}{ALIGNMENT_CSS}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{_counts(counts)}; {len(alignments)} utterances. {escape(note)}</p>\n"
        '<p class="alignment"><del>deleted</del> <ins>inserted</ins> '
        '<span class="sub"><del>reference</del><ins>hypothesis</ins></span></p>\n'
        '<p><label><input type="checkbox" id="wrong" checked> only utterances with errors</label></p>\n'
    )
    for alignment in alignments:
        errors = alignment.counts
        speaker = "" if alignment.speaker is None else f", speaker {escape(alignment.speaker)}"
        yield (
            f'<section class="{"wrong" if errors.errors else "right"}"><h2>{escape(alignment.id)} '
            f"<span>{_counts(errors)}{speaker}</span></h2>\n{alignment_html(alignment)}</section>\n"
        )
    yield "</body></html>\n"


def _html(op: Op) -> str:
    if op.kind == "correct":
        return escape(op.reference or "")
    deleted = "" if op.reference is None else f"<del>{escape(op.reference)}</del>"
    inserted = "" if op.hypothesis is None else f"<ins>{escape(op.hypothesis)}</ins>"
    return f'<span class="sub">{deleted}{inserted}</span>' if deleted and inserted else deleted + inserted


def _counts(counts: ErrorCounts) -> str:
    kinds = f"sub {counts.substitutions}, del {counts.deletions}, ins {counts.insertions}"
    return f"{counted(counts.errors, 'error')} in {counted(counts.reference_length, 'word')} ({kinds})"


def _rows(ops: Iterable[Op], width: int) -> list[list[Op]]:
    """Wrap the alignment into rows of at most `width` terminal columns. A wider word gets its own row."""
    rows: list[list[Op]] = []
    room = 0
    for op in ops:
        cells = _cells(op) + 1
        if cells > room:
            rows.append([])
            room = width + 1
        rows[-1].append(op)
        room -= cells
    return rows


def _columns(ops: Iterable[Op]) -> tuple[str, str, str]:
    """Return the lines of reference, hypothesis and error marks, with aligned columns."""
    lines: tuple[list[str], list[str], list[str]] = ([], [], [])
    for op in ops:
        cells = _cells(op)
        words = (op.reference or "*" * cells, op.hypothesis or "*" * cells, _MARKS[op.kind])
        for line, word in zip(lines, words, strict=True):
            line.append(word + " " * (cells - cell_len(word)))
    reference, hypothesis, marks = (" ".join(line) for line in lines)
    return reference, hypothesis, marks


def _cells(op: Op) -> int:
    return max(cell_len(op.reference or ""), cell_len(op.hypothesis or ""))
