"""Manifests: files of one utterance per line (`asr_emapl.data.utterance`), opened through an index if large.

Manifests and audio may be at URLs that fsspec can read. Manifests may be compressed by gzip or xz. An
utterance without an id is named after its audio (`asr_emapl.data.ids`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
# Smaller manifests are read in a second or two, and need no index beside them.
_INDEXED_BYTES = 16 << 20
_CHUNK = 65_536  # utterances that are hashed at a time


class Manifest(LazySequence[Utterance]):
    """The utterances of a manifest in the order of its lines.

    Args:
        columns: see `manifest_index.COLUMNS`.
        utterances: all of them; None: each is read from its line when it is asked for.
        ids: derived ids by row, "" where the line has one; None: all lines have one.
        index: checksum of the index that has the columns.

    Attributes:
        seconds: duration of each utterance, float64 [utterances].
        samples: length of each at 16 kHz, int64 [utterances].
        id_hashes: a hash of each id, uint64 [utterances].

    Raises:
        UnreachableError: on access, the line is not the one that was opened.
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
        """A process that gets the manifest maps its index, instead of a copy of the columns."""
        if self._index is not None:
            return _reopen, (self.path, self._index)
        return Manifest, (self.path, self._columns, self._utterances, self._ids)

    def __len__(self) -> int:
        return len(self.samples)

    def content_hash(self) -> str:
        """A hash of the utterances in their order: ids, lengths and checksums of their lines."""
        digest = hashlib.blake2b(digest_size=16)
        for name in ("id_hash", "samples", "crc32"):
            column = self._columns[name]
            for start in range(0, len(column), _CHUNK):
                digest.update(column[start : start + _CHUNK].tobytes())
        return digest.hexdigest()

    def item(self, row: int) -> Utterance:
        """The utterance of a line."""
        if self._utterances is not None:
            return self._utterances[row]
        record = parse_line(read_line(Path(self.path), self._columns, row))
        if self._ids is not None and self._ids[row]:
            record["id"] = self._ids[row]
        return Utterance.of(record, self.folder)


def open_manifest(path: str | Path, *, require_text: bool = False) -> Manifest:
    """Open a manifest through its index, which is made if the manifest is large and has none.

    The utterances of a file that is small, compressed or at a URL are kept in memory.

    Args:
        path: the manifest, or its URL. Relative audio paths are taken from its own folder (or URL).
        require_text: whether an utterance without a transcript (or with a blank one) is an error.

    Raises:
        UserError: the file is missing, unreadable or empty, or lines of it are wrong. The message has one
            line `path:line: what (remedy)` for each wrong line.
    """
    local = None if storage.is_url(path) else Path(path)
    if local is None or not _is_indexed(local):
        scan = ManifestScan(path, keeps_utterances=True, require_text=require_text)
        return Manifest(path, scan.columns, scan.utterances)
    storage.close_files()  # the descriptor of a file that this manifest has replaced
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
        raise wrong_lines(local, [], index.header.without_text_lines, index.header.without_text)
    return _of_index(local, index)


def read_manifest(path: str | Path, *, require_text: bool = False) -> list[Utterance]:
    """All utterances of a manifest, in memory; no index is made. See `open_manifest`."""
    return ManifestScan(path, keeps_utterances=True, require_text=require_text).utterances


def _is_indexed(path: Path) -> bool:
    """Whether a manifest is large, and its lines can be read by their offsets."""
    try:
        if not path.is_file() or path.stat().st_size < _INDEXED_BYTES:
            return False
        with storage.open_file(path) as file:
            return not file.read(6).startswith(storage.PACKED)
    except (OSError, ValueError):
        return False  # for the reader to report


def _of_index(path: Path, index: Index) -> Manifest:
    return Manifest(path, index.columns, ids=index.ids, index=index.header.crc32)


def _reopen(path: Path, crc32: int) -> Manifest:
    index = load_index(path)
    if index is None or index.header.crc32 != crc32:
        raise UnreachableError(f"{path}: has changed since it was opened; start again")
    return _of_index(path, index)
