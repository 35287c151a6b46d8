"""Read and check all lines of a manifest in one pass."""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np

from asr_emapl import storage
from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.ids import derived_ids
from asr_emapl.data.manifest_index import COLUMNS, Columns, IndexHeader, read_line
from asr_emapl.data.utterance import Record, Utterance, faults, has_text, parse_line
from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import json_text

# Number of lines without a transcript that an index lists, for an error message.
_LISTED = 20
_REMEDY = "specify a manifest, or create one with asr-emapl prepare"
_TEXT_MISSING = "text is missing (add the transcript, or use the manifest as unlabelled)"


class ManifestScan:
    """The content of a manifest.

    Args:
        keeps_utterances: fill `utterances`; otherwise they can be read by their offsets.
        require_text: whether a missing or blank transcript is an error.

    Attributes:
        columns: see `manifest_index.COLUMNS`.
        ids: derived ids by row, "" if the line has an id; None: all lines have one.
        utterances: empty unless kept.

    Raises:
        UserError: the file is missing, unreadable or empty, or has invalid lines. The message has one line
            `path:line: what (remedy)` for each invalid line.
    """

    def __init__(self, path: str | Path, *, keeps_utterances: bool, require_text: bool) -> None:
        self.path, self.folder = path, storage.split(path)[0]
        self.utterances: list[Utterance] = []
        self._keeps_utterances = keeps_utterances
        # The id of each record, if utterances are kept: a pipe cannot be read again.
        self._names: list[object] = []
        # Number of utterances without a transcript, and the first of their line numbers.
        self._without_text, self._without_text_lines = 0, array("Q")
        self._faults: list[tuple[int, str]] = []
        # Row and line number of the first record after each gap of lines without a record.
        self._gaps: list[tuple[int, int]] = []
        # Rows of records without an id, with the audio and offset from which it is derived.
        self._nameless: dict[int, tuple[str, float]] = {}
        self.ids: list[str] | None = None
        self.columns = self._read()
        if self._nameless:
            self._derive_ids()
        self._find_repeated_ids()
        missing = self._without_text if require_text else 0
        if self._faults or missing:
            lines = list(self._without_text_lines) if missing else []
            raise wrong_lines(path, self._faults, lines, missing, len(self.columns["samples"]))

    def header(self, source: tuple[int, int]) -> IndexHeader:
        """The header of the manifest's index; `source`: see `manifest_index.source_state`."""
        lines = list(self._without_text_lines)
        return IndexHeader(len(self.columns["samples"]), source, self._without_text, lines)

    def _read(self) -> Columns:
        columns: dict[str, array[Any]] = {name: array(np.dtype(d).char) for name, d in COLUMNS.items()}
        row, expected = 0, 1
        for number, start, line in storage.placed_lines(self.path, remedy=_REMEDY):
            if not row and not self._faults:
                json_text.check_json_lines(self.path, [(number, line.decode("utf-8", "replace"))])
            try:
                record = parse_line(line)
            except ValueError as error:
                self._faults.append((number, str(error)))
                continue
            if number != expected:
                self._gaps.append((row, number))
            values = (*self._values(row, number, record), start, len(line), zlib.crc32(line))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            row, expected = row + 1, number + 1
        if not row and not self._faults:
            raise UserError(f"{self.path}: the manifest has no utterances (create it again)")
        return {name: np.frombuffer(column, column.typecode) for name, column in columns.items()}

    def _values(self, row: int, number: int, record: Record) -> tuple[float, int, int]:
        """Seconds, samples and hashed id of a record; records its faults."""
        if self._keeps_utterances:
            self._names.append(record["id"])
        if record["id"] is None and isinstance(record["audio"], str):
            place = storage.join(self.folder, record["audio"])
            self._nameless[row] = place, _offset(record)
            record = {**record, "id": place}
        found = [(number, fault) for fault in faults(record)]
        self._faults += found
        if not has_text(record):
            self._without_text += 1
            if len(self._without_text_lines) < _LISTED:
                self._without_text_lines.append(number)
        if found:
            return 0.0, 0, _hash(record["id"]) if isinstance(record["id"], str) else 0
        if self._keeps_utterances and not self._faults:
            self.utterances.append(Utterance.of(record, self.folder))
        seconds = float(cast(float, record["duration"]))
        return seconds, round(seconds * SAMPLE_RATE_HZ), _hash(str(record["id"]))

    def _derive_ids(self) -> None:
        """Derive an id from the audio for each record without one."""
        self.ids = [""] * len(self.columns["samples"])
        derived = derived_ids(list(self._nameless.values()))
        for row, id_ in zip(self._nameless, derived, strict=True):
            self.ids[row] = id_
            self.columns["id_hash"][row] = _hash(id_)
            if row < len(self.utterances):
                self.utterances[row] = replace(self.utterances[row], id=id_)

    def _find_repeated_ids(self) -> None:
        hashes = self.columns["id_hash"]
        ordered = np.sort(hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(repeated):
            return
        first_seen: dict[object, int] = {}
        for row in np.flatnonzero(np.isin(hashes, repeated)).tolist():
            number, id_ = self._number(row), self._id(row)
            if isinstance(id_, str) and first_seen.setdefault(id_, number) != number:
                where = f"id {id_!r} is also on line {first_seen[id_]}"
                self._faults.append((number, f"{where} (make ids unique)"))

    def _id(self, row: int) -> object:
        """The id of a row, needed because different ids can have equal hashes."""
        if self.ids is not None and self.ids[row]:
            return self.ids[row]
        if self._keeps_utterances:
            return self._names[row]
        return parse_line(read_line(Path(self.path), self.columns, row))["id"]

    def _number(self, row: int) -> int:
        """The line number of a row."""
        at = bisect_right(self._gaps, (row, sys.maxsize)) - 1
        first_row, first_number = self._gaps[at] if at >= 0 else (0, 1)
        return first_number + row - first_row


def wrong_lines(
    path: str | Path,
    found: list[tuple[int, str]],
    without_text_lines: list[int],
    without_text: int,
    total: int,
) -> UserError:
    """Build the error that lists the invalid lines of a manifest.

    Args:
        found: line numbers and faults.
        without_text_lines: numbers of the first lines that lack a required transcript.
        without_text: number of these lines.
        total: number of utterances.
    """
    if not found and without_text == total > 1:
        return UserError(
            f"{path}: no utterance has a transcript; add them, or use the manifest as unlabelled"
        )
    # A stable sort: the faults of one line stay in the order of its fields.
    ordered = sorted(found + [(n, _TEXT_MISSING) for n in without_text_lines], key=lambda fault: fault[0])
    texts = [f"{path}:{number}: {fault}" for number, fault in ordered]
    return UserError(list_findings(texts, total=len(found) + without_text))


def _offset(record: Record) -> float:
    """The offset in seconds; 0 if it is invalid, which `faults` reports."""
    seconds = json_text.number(record["offset"])
    return seconds if seconds is not None and 0.0 <= seconds < 1e12 else 0.0


def _hash(id_: str) -> int:
    return int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
