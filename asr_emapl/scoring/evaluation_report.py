"""An evaluation as tables, CSV, and files of alignments."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment_html import alignment_page
from asr_emapl.scoring.alignment_text import alignment_text, pra
from asr_emapl.scoring.bootstrap import Interval
from asr_emapl.scoring.evaluation import MEASURES, Evaluation, Split
from asr_emapl.scoring.wer import ErrorCounts, Score
from asr_emapl.storage import write
from asr_emapl.terminal import visible

_CSV_COLUMNS = (
    *("group", "name", "measure", "rate"),
    *("low_by_utterance", "high_by_utterance", "low_by_speaker", "high_by_speaker"),
    *("errors", "substitutions", "deletions", "insertions", "reference_length", "normalisation"),
)
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_ENDINGS = (".txt", ".html", ".pra")
_OTHERWISE = {"speaker": ", or take them from ids with --speaker-in-id"}


def evaluation_lines(evaluation: Evaluation, by: Sequence[str], most: int) -> Iterator[str]:
    """The tables of an evaluation.

    Args:
        evaluation: what to show.
        by: which breakdowns to add: "speaker", "duration".
        most: number of confusions of each kind to show.
    """
    total = evaluation.total
    yield from _rates(evaluation)
    for name in by:
        scores = total.tally.by_speaker() if name == "speaker" else total.tally.by_duration()
        yield ""
        if scores:
            yield from _breakdown(name, scores.items())
        else:
            yield f"no {name} is known: give them in the reference{_OTHERWISE.get(name, '')}"
    if most:
        yield from _confusions(evaluation, most)
    unknown = evaluation.out_of_vocabulary()
    if unknown is not None:
        yield ""
        yield (
            f"out of vocabulary: {100 * unknown.share:.2f} % of {unknown.words:,} words "
            f"({unknown.running:,}, {unknown.distinct:,} different), "
            f"{unknown.recognised:,} of them recognised"
        )
        if unknown.most:
            yield "most frequent: " + ", ".join(f"{word} ({times})" for word, times in unknown.most)
    yield ""
    yield f"normalisation: {evaluation.normalisation.stated}"
    if total.tally.weights == "sclite":
        yield "words aligned with sclite's weights: substitution 4, deletion and insertion 3"
    if total.score.missing or total.score.extra:
        yield (
            f"{total.score.missing} hypotheses missing (counted as empty), "
            f"{total.score.extra} extra (passed over)"
        )


def evaluation_csv(evaluation: Evaluation) -> str:
    """A row for each measure of the total, and of each split, speaker and bucket of durations.

    A name that a spreadsheet would take for a formula begins with an apostrophe.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_CSV_COLUMNS)
    groups: list[tuple[str, str, Score, Split | None]] = [
        ("all", "", evaluation.total.score, evaluation.total),
        *(("split", name, split.score, split) for name, split in evaluation.splits.items()),
        *(("speaker", name, score, None) for name, score in evaluation.total.tally.by_speaker().items()),
        *(("duration", name, score, None) for name, score in evaluation.total.tally.by_duration().items()),
    ]
    for group, name, score, split in groups:
        for key, counts in _counts(score):
            parts = [counts.substitutions, counts.deletions, counts.insertions]
            ends: list[object] = ["", "", "", ""]
            if split is not None:
                found = (split.by_utterance.get(key), split.by_speaker.get(key))
                ends = [end for i in found for end in ((i.low, i.high) if i else ("", ""))]
            numbers = [counts.errors, *(["", "", ""] if key == "sentences" else parts)]
            row = [group, name, MEASURES[key], counts.rate, *ends, *numbers, counts.reference_length]
            table.writerow([_inert(cell) for cell in (*row, evaluation.normalisation.name)])
    return text.getvalue()


def write_alignments(place: Path, evaluation: Evaluation) -> None:
    """Write all alignments as the ending says: text, one HTML page, or sclite's .pra.

    Raises:
        UserError: another ending; the file cannot be written.
    """
    check_alignments(place)
    alignments, stated = evaluation.alignments, evaluation.normalisation.stated
    names = ", ".join(evaluation.splits)
    pieces: Iterable[str]
    form = place.suffix.lower()
    if form == ".html":
        pieces = alignment_page(alignments, f"Alignments of {names}", f"Normalisation: {stated}.")
    elif form == ".pra":
        pieces = (visible(line, keep="\t") + "\n" for line in pra(alignments, names))
    else:
        head = f"normalisation: {stated}\n"
        pieces = map(visible, (head, *("\n" + alignment_text(alignment) for alignment in alignments)))
    write(place, pieces)


def check_alignments(place: Path) -> None:
    """Before anything is scored: UserError if the name does not end in .txt, .html or .pra."""
    if place.suffix.lower() not in _ENDINGS:
        raise UserError(f"{place}: name a file of alignments that ends in {', '.join(_ENDINGS)}")


def _inert(cell: object) -> object:
    """The cell of a CSV file, text with an apostrophe before what a spreadsheet would compute."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _rates(evaluation: Evaluation) -> Iterator[str]:
    splits = dict(evaluation.splits)
    if len(splits) > 1:
        splits["all"] = evaluation.total
    several = [split for split in splits.values() if split.by_utterance]
    head = ["", "%", "errors", "sub", "del", "ins", "N"]
    if several:
        head.append("95 % by utterance")
    if any(split.by_speaker for split in several):
        head.append("by speaker")
    rows = []
    for name, split in splits.items():
        for key, counts in _counts(split.score):
            row = [f"{name} {MEASURES[key]}" if len(splits) > 1 else MEASURES[key], *_numbers(key, counts)]
            ends = [_ends(split.by_utterance.get(key)), _ends(split.by_speaker.get(key))]
            rows.append(row + ends[: len(head) - len(row)])
    return _aligned(head, rows)


def _breakdown(name: str, scores: Iterable[tuple[str, Score]]) -> Iterator[str]:
    head = [name, "WER %", "CER %", "SER %", "sub", "del", "ins", "words", "utterances"]
    rows = []
    for label, score in scores:
        words = score.words
        rates = [f"{100 * counts.rate:.2f}" for _, counts in _counts(score)]
        numbers = (words.substitutions, words.deletions, words.insertions, words.reference_length)
        rows.append([label, *rates, *map(str, numbers), str(score.sentences)])
    return _aligned(head, rows)


def _confusions(evaluation: Evaluation, most: int) -> Iterator[str]:
    found = evaluation.confusions(most)
    pairs = [[f"{wanted} -> {given}", str(times)] for wanted, given, times in found.substitutions]
    for title, rows in (
        ("substituted", pairs),
        ("deleted", [[word, str(times)] for word, times in found.deletions]),
        ("inserted", [[word, str(times)] for word, times in found.insertions]),
    ):
        yield ""
        yield from _aligned([title, "times"], rows)


def _counts(score: Score) -> Iterator[tuple[str, ErrorCounts]]:
    """The counts of each measure; a wrong sentence is one substitution in as many as there are."""
    yield "words", score.words
    yield "characters", score.characters
    yield "sentences", ErrorCounts(substitutions=score.sentences_wrong, reference_length=score.sentences)


def _numbers(key: str, counts: ErrorCounts) -> list[str]:
    parts = [str(n) for n in (counts.substitutions, counts.deletions, counts.insertions)]
    if key == "sentences":
        parts = ["", "", ""]
    return [f"{100 * counts.rate:.2f}", str(counts.errors), *parts, str(counts.reference_length)]


def _ends(found: Interval | None) -> str:
    return "" if found is None else f"{100 * found.low:.2f} to {100 * found.high:.2f}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of equal width, the first column to the left and the others to the right."""
    shown = [[visible(cell, keep="") for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = [" " * (width - cell_len(cell)) for width, cell in zip(widths, row, strict=True)]
        yield "  ".join(
            cell + pad if i == 0 else pad + cell for i, (cell, pad) in enumerate(zip(row, cells, strict=True))
        )
