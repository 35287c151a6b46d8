"""Tables and CSV of an evaluation."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from asr_emapl.scoring.evaluation import MEASURES, Evaluation, SplitResult
from asr_emapl.scoring.wer import ErrorCounts, Score
from asr_emapl.scoring.word_counts import OutOfVocabulary, confusions
from asr_emapl.terminal import visible

_CSV_COLUMNS = (
    *("group", "name", "measure", "rate"),
    *("low_by_utterance", "high_by_utterance", "low_by_speaker", "high_by_speaker"),
    *("errors", "substitutions", "deletions", "insertions", "reference_length", "normalisation"),
)
# Spreadsheets interpret a cell that starts with one of these as a formula.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table; the first column is left-aligned, the others right-aligned."""
    shown = [[visible(cell, keep="") for cell in row] for row in (head, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for first, *others in shown:
        cells = [" " * (width - cell_len(c)) + c for width, c in zip(widths[1:], others, strict=True)]
        yield "  ".join([first + " " * (widths[0] - cell_len(first)), *cells])


def evaluation_lines(evaluation: Evaluation, by: Sequence[str], most: int) -> Iterator[str]:
    """Yield the tables of an evaluation.

    Args:
        evaluation: the results to show.
        by: breakdowns to add: "speaker", "duration".
        most: number of confusions of each kind to show.
    """
    total = evaluation.total
    yield from _rates(evaluation)
    for name in by:
        yield ""
        yield from _breakdown(
            name, total.tally.by_speaker() if name == "speaker" else total.tally.by_duration()
        )
    if most:
        yield from _confusions(evaluation, most)
    if evaluation.unknown_words is not None:
        yield from _vocabulary(evaluation.unknown_words)
    yield ""
    yield f"normalisation: {evaluation.normalisation.stated}"
    if total.tally.weights == "sclite":
        yield "words aligned with sclite's weights: substitution 4, deletion and insertion 3"
    yield from unmatched_lines(total.score)


def unmatched_lines(score: Score, prefix: str = "") -> Iterator[str]:
    """Yield one line that counts missing and extra hypotheses, if there are any."""
    if score.missing or score.extra:
        yield f"{prefix}{score.missing} hypotheses missing (counted as empty), {score.extra} extra (ignored)"


def evaluation_csv(evaluation: Evaluation) -> str:
    """Return one row per measure for the total and for each split, speaker and duration bucket.

    Names that a spreadsheet would interpret as a formula are prefixed with an apostrophe.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_CSV_COLUMNS)
    tally = evaluation.total.tally
    groups: list[tuple[str, str, Score, SplitResult | None]] = [
        ("all", "", evaluation.total.score, evaluation.total),
        *(("split", name, split.score, split) for name, split in evaluation.splits.items()),
        *(("speaker", name, score, None) for name, score in tally.by_speaker().items()),
        *(("duration", name, score, None) for name, score in tally.by_duration().items()),
    ]
    for group, name, score, split in groups:
        for key, rate, columns in _measures(score):
            found = (split.by_utterance.get(key), split.by_speaker.get(key)) if split else (None, None)
            ends = [end for i in found for end in ((i.low, i.high) if i else ("", ""))]
            shown = f"'{name}" if name.startswith(_FORMULA) else name
            row = [group, shown, MEASURES[key], rate, *ends, *columns, evaluation.normalisation.name]
            table.writerow(row)
    return text.getvalue()


def error_columns(counts: ErrorCounts) -> list[str]:
    """Return errors, substitutions, deletions, insertions and reference length."""
    kinds = (counts.substitutions, counts.deletions, counts.insertions)
    return [str(number) for number in (counts.errors, *kinds, counts.reference_length)]


def _rates(evaluation: Evaluation) -> Iterator[str]:
    splits = dict(evaluation.splits)
    if len(splits) > 1:
        splits["all"] = evaluation.total
    head = ["", "%", "errors", "sub", "del", "ins", "N"]
    head += ["95 % by utterance"] if any(split.by_utterance for split in splits.values()) else []
    head += ["by speaker"] if any(split.by_speaker for split in splits.values()) else []
    rows = []
    for name, split in splits.items():
        for key, rate, columns in _measures(split.score):
            label = f"{name} {MEASURES[key]}" if len(splits) > 1 else MEASURES[key]
            found = (split.by_utterance.get(key), split.by_speaker.get(key))
            ends = [f"{100 * i.low:.2f} to {100 * i.high:.2f}" if i else "" for i in found]
            rows.append([label, f"{100 * rate:.2f}", *columns, *ends][: len(head)])
    return table_lines(head, rows)


def _breakdown(name: str, scores: dict[str, Score]) -> Iterator[str]:
    if not scores:
        hint = ", or derive them from ids with --speaker-in-id" if name == "speaker" else ""
        return iter([f"{name}s are unknown; add them to the reference{hint}"])
    head = [name, "WER %", "CER %", "SER %", "sub", "del", "ins", "words", "utterances"]
    rows = []
    for label, score in scores.items():
        rates = [f"{100 * rate:.2f}" for _, rate, _ in _measures(score)]
        rows.append([label, *rates, *error_columns(score.words)[1:], str(score.sentences)])
    return table_lines(head, rows)


def _confusions(evaluation: Evaluation, most: int) -> Iterator[str]:
    found = confusions(evaluation.total.tally.alignments, most)
    pairs = [(f"{wanted} -> {given}", times) for wanted, given, times in found.substitutions]
    tables = {"substituted": pairs, "deleted": found.deletions, "inserted": found.insertions}
    for title, counts in tables.items():
        yield ""
        yield from table_lines([title, "times"], [[name, str(times)] for name, times in counts])


def _vocabulary(unknown: OutOfVocabulary) -> Iterator[str]:
    yield ""
    yield (
        f"out of vocabulary: {100 * unknown.share:.2f} % of {unknown.words:,} words "
        f"({unknown.running:,} tokens, {unknown.distinct:,} types), "
        f"{unknown.recognised:,} recognised correctly"
    )
    if unknown.most:
        yield "most frequent: " + ", ".join(f"{word} ({times})" for word, times in unknown.most)


def _measures(score: Score) -> Iterator[tuple[str, float, list[str]]]:
    """Yield the name, rate and `error_columns` of each measure; sentences have no edit kinds."""
    yield "words", score.words.rate, error_columns(score.words)
    yield "characters", score.characters.rate, error_columns(score.characters)
    wrong, number = score.sentences_wrong, score.sentences
    yield "sentences", wrong / number, [str(wrong), "", "", "", str(number)]
