"""Read tables of utterances (CSV or TSV)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_emapl.errors import UserError
from asr_emapl.storage import read_lines


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row: its place (file:line), and its cells by column name."""

    place: str
    cells: dict[str, str]


def read_table(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    """Yield the rows of a table whose first line names its columns.

    The cells of a *.csv file are separated by commas and may be quoted; quoted cells may contain line feeds.
    The cells of other files are separated by tabs, and a quotation mark is an ordinary character.

    Args:
        path: the file, UTF-8.
        columns: names of the required columns.

    Raises:
        UserError: the file is missing, unreadable or not UTF-8; a column is missing; the number of cells in a
            row differs from the number of columns.
    """
    lines = list(read_lines(path))
    is_csv = path.suffix.lower() == ".csv"
    if is_csv:
        reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    else:
        reader = csv.reader((line for _, line in lines), delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        names = [name.strip() for name in next(reader, [])]
        missing = [column for column in columns if column not in names]
        if missing:
            separator = "commas" if is_csv else "tabs"
            raise UserError(
                f"{path}: missing column {', '.join(missing)}, found {names} (the first line must name the "
                f"columns, separated by {separator})"
            )
        first = reader.line_num
        for cells in reader:
            place = f"{path}:{lines[first][0]}"
            first = reader.line_num
            if len(cells) != len(names):
                raise UserError(f"{place}: expected {len(names)} cells, got {len(cells)} (correct the line)")
            yield TableRow(place, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}:{lines[reader.line_num - 1][0]}: {error} (correct the line)") from error
