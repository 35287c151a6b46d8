"""Manifests: files with one utterance per line (`asr_emapl.data.utterance`). Large ones have an index.

Manifests and audio can be at URLs that fsspec supports. Manifests can be compressed with gzip or xz. The id
of an utterance without one is derived from its audio (`asr_emapl.data.ids`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from asr_emapl import storage
from asr_emapl.data.lazy_sequence import LazySequence
from asr_emapl.data.manifest_index import (
    Columns,
    Index,
    indexing,
    load_index,
    read_line,
    save_index,
    source_state,
)
from asr_emapl.data.manifest_scan import ManifestScan, wrong_lines
from asr_emapl.data.utterance import Utterance, parse_line
from asr_emapl.errors import UnreachableError

_logger = logging.getLogger(__name__)
# Smaller manifests are read in a second or two and need no index.
_INDEXED_BYTES = 16 << 20
_CHUNK = 65_536  # utterances that are hashed at a time


class Manifest(LazySequence[Utterance]):
    """The utterances of a manifest, in the order of its lines.

    Args:
        columns: see `manifest_index.COLUMNS`.
        utterances: all utterances; None: read each from its line on access.
        ids: derived ids by row, "" if the line has an id; None: all lines have one.
        index: checksum of the index that has the columns.

    Attributes:
        seconds: duration of each utterance, float64 [utterances].
        samples: length of each utterance at 16 kHz, int64 [utterances].
        id_hashes: hash of each id, uint64 [utterances].

    Raises:
        UnreachableError: on access, if the line has changed since the manifest was opened.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Columns,
        utterances: Sequence[Utterance] | None = None,
        ids: Sequence[str] | None = None,
        index: int | None = None,
    ) -> None:
        self.path, self.folder = path, storage.split(path)[0]
        self.seconds, self.samples, self.id_hashes = (
            columns[name] for name in ("seconds", "samples", "id_hash")
        )
        self._columns, self._utterances, self._ids, self._index = columns, utterances, ids, index

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle the path if there is an index, so that other processes map it instead of copying columns."""
        if self._index is not None:
            return _reopen, (self.path, self._index)
        return Manifest, (self.path, self._columns, self._utterances, self._ids)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def in_memory(self) -> bool:
        """Whether all utterances are in memory; otherwise each is read on access."""
        return self._utterances is not None

    def content_hash(self) -> str:
        """A hash of the utterances in their order: ids, lengths and checksums of their lines."""
        return column_digest(self._columns[name] for name in ("id_hash", "samples", "crc32"))

    def item(self, row: int) -> Utterance:
        """The utterance in a row."""
        if self._utterances is not None:
            return self._utterances[row]
        record = parse_line(read_line(Path(self.path), self._columns, row))
        if self._ids is not None and self._ids[row]:
            record["id"] = self._ids[row]
        return Utterance.of(record, self.folder)


def column_digest(columns: Iterable[NDArray[Any]]) -> str:
    """A hash of arrays, one after the other, which are read in parts."""
    digest = hashlib.blake2b(digest_size=16)
    for column in columns:
        for start in range(0, len(column), _CHUNK):
            digest.update(column[start : start + _CHUNK].tobytes())
    return digest.hexdigest()


def open_manifest(path: str | Path, *, require_text: bool = False) -> Manifest:
    """Open a manifest. A large manifest is opened through its index, which is created if there is none.

    If the file is small, compressed or at a URL, all utterances are kept in memory.

    Args:
        path: path or URL of the manifest. Relative audio paths are resolved against its folder (or URL).
        require_text: whether a missing or blank transcript is an error.

    Raises:
        UserError: the file is missing, unreadable or empty, or has invalid lines. The message has one line
            `path:line: what (remedy)` for each invalid line.
    """
    local = None if storage.is_url(path) else Path(path)
    if local is None or not _is_indexed(local):
        scan = ManifestScan(path, keeps_utterances=True, require_text=require_text)
        return Manifest(path, scan.columns, scan.utterances)
    storage.close_files()  # a cached descriptor may be that of a replaced file
    with indexing(local):
        index = load_index(local)
        if index is None:
            _logger.info("indexing %s (once, about 10 s per million utterances)", local)
            before = source_state(local)
            scan = ManifestScan(local, keeps_utterances=False, require_text=require_text)
            if source_state(local) == before:
                save_index(local, Index(scan.header(before), scan.columns, scan.ids))
                index = load_index(local)
            if index is None:
                return Manifest(local, scan.columns, ids=scan.ids)
    if require_text and index.header.without_text:
        header = index.header
        raise wrong_lines(local, [], header.without_text_lines, header.without_text, header.count)
    return _of_index(local, index)


def read_manifest(path: str | Path, *, require_text: bool = False) -> list[Utterance]:
    """Read all utterances of a manifest into memory, without an index. See `open_manifest`."""
    return ManifestScan(path, keeps_utterances=True, require_text=require_text).utterances


def _is_indexed(path: Path) -> bool:
    """Whether a manifest is large and its lines can be read by offset."""
    try:
        if not path.is_file() or path.stat().st_size < _INDEXED_BYTES:
            return False
        with storage.open_file(path) as file:
            return not file.read(6).startswith(storage.PACKED)
    except (OSError, ValueError):
        return False  # the reader reports the error


def _of_index(path: Path, index: Index) -> Manifest:
    return Manifest(path, index.columns, ids=index.ids, index=index.header.crc32)


def _reopen(path: Path, crc32: int) -> Manifest:
    index = load_index(path)
    if index is None or index.header.crc32 != crc32:
        raise UnreachableError(f"{path}: has changed since it was opened; restart")
    return _of_index(path, index)
