"""Manifests: files of one utterance per line (`asr_emapl.data.utterance`), read lazily and written.

Manifests and audio may be at URLs that fsspec can read. Manifests may be compressed by gzip or xz. An
utterance without an id is named after its audio (`asr_emapl.data.ids`).
"""

from __future__ import annotations

import json
import logging
import sys
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from asr_emapl import storage
from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe
from asr_emapl.audio.source import ByteRange
from asr_emapl.data.ids import derived_ids
from asr_emapl.data.lazy_sequence import LazySequence
from asr_emapl.data.manifest_index import (
    Columns,
    IndexHeader,
    indexing,
    load_index,
    save_index,
    source_state,
)
from asr_emapl.data.utterance import Record, Utterance, faults, has_text, parse_line
from asr_emapl.errors import UnreachableError, UserError, list_findings
from asr_emapl.storage import check_outputs, json_text, writing
from asr_emapl.storage.atomic import sync
from asr_emapl.text.normalise import outside

_logger = logging.getLogger(__name__)
_Place = TypeVar("_Place", str, Path, str | Path)
# Lines without a transcript that an index remembers: what one error lists.
_LISTED = 20
# Smaller manifests are read in a second or two, and need no index beside them.
_INDEXED_BYTES = 16 << 20
_REMEDY = "name a manifest, or write it with asr-emapl prepare"
_TEXT_MISSING = "text is missing (add the transcript, or use the manifest as unlabelled)"


class Manifest(LazySequence[Utterance]):
    """The utterances of a manifest in the order of its lines, each parsed when it is asked for.

    Attributes:
        seconds: duration of each utterance, float64 [utterances].
        samples: length of each at 16 kHz, int64 [utterances].
        id_hashes: a hash of each id, uint64 [utterances].

    Raises:
        UnreachableError: on access, the line is not the one that was opened.
    """

    def __init__(
        self, path: str | Path, columns: Columns, ids: list[str] | None, lines: Sequence[bytes] | None
    ) -> None:
        self.path, self.folder = path, storage.split(path)[0]
        self.seconds, self.samples, self.id_hashes = (
            columns[name] for name in ("seconds", "samples", "id_hash")
        )
        self._columns, self._ids = columns, ids
        # None: they are read from the file.
        self._lines = lines

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """A process that gets the manifest opens its index instead of a copy of the columns."""
        if isinstance(self.samples, np.memmap):
            return _reopen, (self.path, len(self), int(self.id_hashes[-1]))
        return Manifest, (self.path, self._columns, self._ids, self._lines)

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, row: int) -> Utterance:
        """The utterance of a line."""
        record = parse_line(self._line(row))
        if self._ids is not None:
            record["id"] = self._ids[row] or record["id"]
        return Utterance.of(record, self.folder)

    def _line(self, row: int) -> bytes:
        if self._lines is not None:
            return self._lines[row]
        start, length, crc32 = (int(self._columns[name][row]) for name in ("start", "length", "crc32"))
        try:
            line = storage.read(str(self.path), start, length)
        except OSError as error:
            raise UnreachableError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if zlib.crc32(line) != crc32:
            raise UnreachableError(
                f"{self.path}: has changed since it was opened (at byte {start}); start again, and delete "
                f"{self.path}.index if it has the date of the manifest before"
            )
        return line


def open_manifest(path: str | Path, *, require_text: bool = False) -> Manifest:
    """Open a manifest through its index, which is made if the manifest is large and has none.

    A file that is small, compressed or at a URL needs no index: its lines are kept in memory.

    Args:
        path: the manifest, or its URL. Relative audio paths are taken from its own folder (or URL).
        require_text: whether an utterance without a transcript (or with a blank one) is an error.

    Raises:
        UserError: the file is missing, unreadable or empty, or lines of it are wrong. The message has one
            line `path:line: what (remedy)` for each wrong line.
    """
    local = None if storage.is_url(path) else Path(path)
    if local is None or not _is_indexed(local):
        return _Scan(path, keeps_lines=True, require_text=require_text).manifest()
    storage.close_files()  # a descriptor of a manifest that this one has replaced
    with indexing(local):
        found = load_index(local)
        if found is None:
            _logger.info("indexing %s (once, about 10 s per million utterances)", local)
            before = source_state(local)
            scan = _Scan(local, keeps_lines=False, require_text=require_text)
            if source_state(local) == before:
                save_index(local, scan.header(before), scan.columns, scan.ids)
                found = load_index(local)
            if found is None:
                return scan.manifest()
    header, columns, ids = found
    if require_text and header.without_text:
        raise _error(local, [(n, _TEXT_MISSING) for n in header.without_text_lines], header.without_text)
    return Manifest(local, columns, ids, None)


def _reopen(path: Path, count: int, last: int) -> Manifest:
    found = load_index(path)
    if found is None or (len(found[1]["samples"]), int(found[1]["id_hash"][-1])) != (count, last):
        raise UnreachableError(f"{path}: has changed since it was opened; start again")
    return Manifest(path, found[1], found[2], None)


def read_manifest(path: str | Path, *, require_text: bool = False) -> list[Utterance]:
    """All utterances of a manifest, in memory; no index is made. See `open_manifest`."""
    return list(_Scan(path, keeps_lines=True, require_text=require_text).manifest())


def _is_indexed(path: Path) -> bool:
    """Whether a manifest is large, and its lines can be read by their offsets."""
    try:
        if not path.is_file() or path.stat().st_size < _INDEXED_BYTES:
            return False
        with storage.open_file(path) as file:
            return not file.read(6).startswith(storage.PACKED)
    except (OSError, ValueError):
        return False  # for the reader to report


class _Scan:
    """One pass over the lines of a manifest, which checks all of them.

    Raises:
        UserError: see `open_manifest`.
    """

    def __init__(self, path: str | Path, *, keeps_lines: bool, require_text: bool) -> None:
        self.path, self.folder = path, storage.split(path)[0]
        self.lines: list[bytes] | None = [] if keeps_lines else None
        # Of utterances without a transcript: how many there are, and the numbers of the first lines.
        self._without_text, self._without_text_lines = 0, array("Q")
        self._faults: list[tuple[int, str]] = []
        # Row and number of the first line after each gap of lines without a record.
        self._gaps: list[tuple[int, int]] = []
        # Rows of records without an id, with the audio and offset that name them.
        self._nameless: dict[int, tuple[str, float]] = {}
        self.ids: list[str] | None = None
        self.columns: Columns = {name: np.frombuffer(v, v.typecode) for name, v in self._read().items()}
        if self._nameless:
            self._derive_ids()
        self._find_repeated_ids()
        if require_text:
            self._faults += [(number, _TEXT_MISSING) for number in self._without_text_lines]
        if self._faults:
            hidden = self._without_text - len(self._without_text_lines) if require_text else 0
            raise _error(path, self._faults, len(self._faults) + hidden)

    def header(self, source: tuple[int, int]) -> IndexHeader:
        """The header of the manifest's index."""
        return IndexHeader(
            len(self.columns["samples"]), source, self._without_text, list(self._without_text_lines)
        )

    def manifest(self) -> Manifest:
        """The manifest, its columns in memory."""
        return Manifest(self.path, self.columns, self.ids, self.lines)

    def _read(self) -> dict[str, array[float] | array[int]]:
        names = {"seconds": "d", "samples": "q", "id_hash": "Q", "start": "Q", "length": "I", "crc32": "I"}
        columns: dict[str, array[Any]] = {name: array(code) for name, code in names.items()}
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
            row, expected = row + 1, number + 1
            values = (*self._values(row - 1, number, record), start, len(line), zlib.crc32(line))
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
            if self.lines is not None:
                self.lines.append(line)
        if not row and not self._faults:
            raise UserError(f"{self.path}: the manifest has no utterances (write it again with data_prep)")
        return columns

    def _values(self, row: int, number: int, record: Record) -> tuple[float, int, int]:
        """Seconds, samples and hashed id of a record; what is wrong with it is noted."""
        id_ = record["id"]
        if id_ is None and isinstance(record["audio"], str):
            place = storage.join(self.folder, record["audio"])
            self._nameless[row] = place, _offset(record)
            record = {**record, "id": place}
        found = [(number, fault) for fault in faults(record)]
        self._faults += found
        if not has_text(record):
            self._without_text += 1
            if len(self._without_text_lines) < _LISTED:
                self._without_text_lines.append(number)
        seconds = 0.0 if found else float(cast(float, record["duration"]))
        return seconds, round(seconds * SAMPLE_RATE_HZ), _hash(id_) if isinstance(id_, str) else 0

    def _derive_ids(self) -> None:
        """Give each record without an id one that its audio determines."""
        self.ids = [""] * len(self.columns["samples"])
        derived = derived_ids(list(self._nameless.values()))
        for row, id_ in zip(self._nameless, derived, strict=True):
            self.ids[row] = id_
            self.columns["id_hash"][row] = _hash(id_)

    def _find_repeated_ids(self) -> None:
        ordered = np.sort(self.columns["id_hash"])
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if not len(repeated):
            return
        # Rows of equal hashes, of which few are not of equal ids.
        first_seen: dict[object, int] = {}
        for row in np.flatnonzero(np.isin(self.columns["id_hash"], repeated)).tolist():
            number, id_ = self._number(row), self._id(row)
            if isinstance(id_, str) and first_seen.setdefault(id_, number) != number:
                where = f"id {id_!r} is on line {first_seen[id_]} too"
                self._faults.append((number, f"{where} (make ids unique)"))

    def _id(self, row: int) -> object:
        if self.ids is not None and self.ids[row]:
            return self.ids[row]
        start, length = (int(self.columns[name][row]) for name in ("start", "length"))
        line = self.lines[row] if self.lines is not None else storage.read(str(self.path), start, length)
        return parse_line(line)["id"]

    def _number(self, row: int) -> int:
        """The line number of a row."""
        at = bisect_right(self._gaps, (row, sys.maxsize)) - 1
        first_row, first_number = self._gaps[at] if at >= 0 else (0, 1)
        return first_number + row - first_row


def _offset(record: Record) -> float:
    """The offset in seconds, 0 where a file can have none such: `faults` reports that."""
    seconds = json_text.number(record["offset"])
    return seconds if seconds is not None and 0.0 <= seconds < 1e12 else 0.0


def _hash(id_: str) -> int:
    return int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _error(path: str | Path, found: list[tuple[int, str]], total: int) -> UserError:
    """Lists what is wrong with the lines of a manifest; `total` also counts what is not in `found`."""
    # A stable sort: the faults of one line stay in the order of its fields.
    ordered = sorted(found, key=lambda fault: fault[0])
    texts = [f"{path}:{number}: {fault}" for number, fault in ordered]
    return UserError(list_findings(texts, total=total))


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read_manifest` reads back. It replaces an older file atomically.

    Audio paths are written absolute; only a shard in the manifest's own folder goes by its name, so that the
    folder can be moved. Missing folders are made.

    Raises:
        UserError: there are no utterances, or some that could not be read back (as `read_manifest` says); the
            file is audio of the manifest; or it cannot be written. An older manifest of that name is then
            left as it was.
    """
    write_manifests({path: list(utterances)})


def write_manifests(manifests: Mapping[_Place, Sequence[Utterance]]) -> None:
    """Write several manifests, all of them or none: no name appears before all contents are on disk.

    A file that already has the content is not touched.

    Raises:
        UserError: as `write_manifest`.
    """
    contents = {path: _serialise(path, utterances) for path, utterances in manifests.items()}
    check_outputs(list(contents), {u.audio for utterances in manifests.values() for u in utterances})
    with ExitStack() as stack:
        for path, content in contents.items():
            if _has_content(path, content):
                continue  # the same time of change: what was made from it stays current
            stack.enter_context(writing(path))
            file = stack.enter_context(storage.publish(str(path)))
            file.write(content)
            sync(file)


def _serialise(path: str | Path, utterances: Sequence[Utterance]) -> bytes:
    """The content of a manifest; UserError lists the utterances that could not be read back."""
    if not utterances:
        raise UserError(f"{path}: there are no utterances to write (check the corpus and the filter on it)")
    folder = storage.split(path)[0]
    lines: list[str] = []
    findings: list[str] = []
    ids: set[str] = set()
    for utterance in utterances:
        record: dict[str, object] = asdict(utterance)
        found = list(faults(record))
        if utterance.id in ids:
            found.append("id is there twice (make ids unique)")
        ids.add(utterance.id)
        findings.extend(f"{path}: utterance {utterance.id!r}: {fault}" for fault in found)
        if not found:
            record["audio"] = _audio_as_written(utterance, folder)
            kept = {k: v for k, v in record.items() if v is not None and (k != "offset" or v != 0)}
            lines.append(json.dumps(kept, ensure_ascii=False, allow_nan=False))
    if findings:
        raise UserError(list_findings(findings))
    return ("\n".join(lines) + "\n").encode("utf-8")


def _audio_as_written(utterance: Utterance, folder: str) -> str:
    """As `write_manifest` says; `folder` is the manifest's."""
    of_audio, name = storage.split(utterance.audio)
    if utterance.byte_range is not None and of_audio == folder:
        return name
    return storage.join(of_audio, name)


def _has_content(path: str | Path, content: bytes) -> bool:
    local = Path(path)
    try:
        is_same_size = not storage.is_url(path) and local.is_file() and local.stat().st_size == len(content)
        return is_same_size and local.read_bytes() == content
    except (OSError, ValueError):
        return False


def verify(utterances: Iterable[Utterance], alphabet: str | None) -> list[str]:
    """What is wrong with the audio and the transcripts, one line per finding.

    Finds audio that is missing or whose header cannot be decoded, durations more than 0.05 s off the
    header's, and characters outside `alphabet` (None: any character is allowed). Only headers are read, once
    per file, and for shards what `Source.open` checks. If several utterances share a file, or one begins
    inside it, they only have to end within it.
    """
    utterances = list(utterances)
    shares = Counter(_file(utterance) for utterance in utterances)
    lengths: dict[tuple[str, ByteRange | None], float | str] = {}  # seconds, or what is wrong
    findings = []
    for utterance in utterances:
        file = _file(utterance)
        if file not in lengths:
            try:
                lengths[file] = probe(utterance.source)[0]
            except UnreachableError:
                raise
            except UserError as error:
                lengths[file] = str(error)
        length = lengths[file]
        fault = length if isinstance(length, str) else _length_fault(utterance, length, shares[file] > 1)
        if fault is not None:
            findings.append(f"{utterance.id}: {fault}")
        unknown = "" if alphabet is None else outside(utterance.text or "", alphabet)
        if unknown:
            findings.append(
                f"{utterance.id}: characters outside the alphabet: {unknown!r} (normalise the text)"
            )
    return findings


def _file(utterance: Utterance) -> tuple[str, ByteRange | None]:
    """What identifies the audio file of an utterance."""
    return utterance.audio, utterance.byte_range


def _length_fault(utterance: Utterance, length: float, is_shared: bool) -> str | None:
    """How the utterance's duration contradicts the `length` (seconds) of its file, or None."""
    end = utterance.offset + utterance.duration
    remedy = "(correct the manifest, or download the file again)"
    if end > length + LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but the manifest goes to {end:.2f} s {remedy}"
    if utterance.offset == 0 and not is_shared and end < length - LENGTH_TOLERANCE_S:
        return f"{utterance.audio}: {length:.2f} s long, but {end:.2f} s in the manifest {remedy}"
    return None
