"""Alignments as a self-contained web page, light and dark, readable without colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from asr_emapl.scoring.alignment import Alignment, Op
from asr_emapl.scoring.wer import ErrorCounts

ALIGNMENT_CSS = """
.alignment { line-height: 1.9; overflow-wrap: anywhere; }
.alignment del, .alignment ins { text-decoration: none; border-radius: 3px; padding: 0 .2em; }
.alignment del { color: var(--lost); background: var(--lost-back); text-decoration: line-through; }
.alignment ins { color: var(--new); background: var(--new-back); border-bottom: 2px solid; }
.alignment .sub { white-space: nowrap; }
.alignment .sub del { color: var(--other); background: var(--other-back); border-radius: 3px 0 0 3px; }
.alignment .sub ins { color: var(--other); background: var(--other-back); border-radius: 0 3px 3px 0; }
:root { --lost: #a32014; --lost-back: #fbe4e1; --new: #0b57a4; --new-back: #e0edfa;
  --other: #7a4a00; --other-back: #fdefcf; }
@media (prefers-color-scheme: dark) {
  :root { --lost: #ffa79e; --lost-back: #4d1a15; --new: #9dcbff; --new-back: #10325a;
    --other: #ffd27a; --other-back: #4a3405; }
}
"""
"""What the fragments that `alignment_html` makes are styled by, on a page of light or dark ground."""

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


def alignment_html(alignment: Alignment) -> str:
    """The words of an alignment as one `<p class="alignment">`: lost ones in `<del>`, new ones in `<ins>`."""
    return f'<p class="alignment">{" ".join(_word(op) for op in alignment.ops)}</p>'


def alignment_page(alignments: Iterable[Alignment], title: str, note: str) -> Iterator[str]:
    """The pieces of an HTML page, utterances as they come, with a switch that hides those without errors.

    Args:
        alignments: what to show.
        title: of the page.
        note: a line below it, such as what was done to the texts.
    """
    members = list(alignments)
    counts = sum((alignment.counts for alignment in members), ErrorCounts())
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE_CSS}{ALIGNMENT_CSS}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{_counts(counts)}; {len(members)} utterances. {escape(note)}</p>\n"
        '<p class="alignment"><del>lost</del> <ins>new</ins> '
        '<span class="sub"><del>wanted</del><ins>written</ins></span></p>\n'
        '<p><label><input type="checkbox" id="wrong" checked> only utterances with errors</label></p>\n'
    )
    for alignment in members:
        errors = alignment.counts
        speaker = "" if alignment.speaker is None else f", speaker {escape(alignment.speaker)}"
        yield (
            f'<section class="{"wrong" if errors.errors else "right"}"><h2>{escape(alignment.id)} '
            f"<span>{_counts(errors)}{speaker}</span></h2>\n{alignment_html(alignment)}</section>\n"
        )
    yield "</body></html>\n"


def _word(op: Op) -> str:
    wanted, given = escape(op.reference or ""), escape(op.hypothesis or "")
    if op.kind == "correct":
        return wanted
    if op.kind == "deletion":
        return f"<del>{wanted}</del>"
    if op.kind == "insertion":
        return f"<ins>{given}</ins>"
    return f'<span class="sub"><del>{wanted}</del><ins>{given}</ins></span>'


def _counts(counts: ErrorCounts) -> str:
    return (
        f"{counts.errors} errors in {counts.reference_length} words (sub {counts.substitutions}, "
        f"del {counts.deletions}, ins {counts.insertions})"
    )
