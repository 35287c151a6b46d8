"""The index of a manifest: lengths, hashed ids and byte offsets of its utterances, memory-mapped.

It is written beside the manifest (`train.jsonl.index`), and rewritten if the manifest has changed. With it, a
manifest of millions of utterances opens in a second, and the processes of a host share its memory.

The file has a line of JSON (format and `IndexHeader`) padded to 4,096 bytes, followed by each of `COLUMNS` as
an array [utterances]. If there are utterances without an id, the end offsets of the derived ids follow as an
array [utterances], and then the ids in UTF-8.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from asr_emapl import storage
from asr_emapl.errors import UnreachableError

_logger = logging.getLogger(__name__)
_FORMAT = '{"format": "asr_emapl manifest index"'
_VERSION = 1
_HEADER_BYTES = 4096
_CHUNK_BYTES = 1 << 22

COLUMNS = {
    "seconds": "<f8",  # duration
    "samples": "<i8",  # length at 16 kHz
    "id_hash": "<u8",
    "start": "<u8",  # offset of the line in the manifest
    "length": "<u4",  # bytes of the line
    "crc32": "<u4",  # of the line
}
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class IndexHeader:
    """Header of an index.

    Attributes:
        count: number of utterances.
        source: size in bytes and modification time in nanoseconds of the manifest.
        without_text: number of utterances without a transcript.
        without_text_lines: line numbers of the first of them, for an error message.
        id_bytes: length of all derived ids; 0 if all lines have ids.
        crc32: checksum of the other entries and of everything after the header.
    """

    count: int
    source: tuple[int, int]
    without_text: int
    without_text_lines: list[int] = field(default_factory=list)
    id_bytes: int = 0
    crc32: int = 0
    version: int = _VERSION


@dataclass(frozen=True)
class Index:
    """An index: columns [count], and derived ids ("" if the line has an id; None: all lines have one)."""

    header: IndexHeader
    columns: Columns
    ids: list[str] | None


def index_path(manifest: Path) -> Path:
    """Path of the index of a manifest."""
    return manifest.with_name(f"{manifest.name}.index")


def source_state(manifest: Path) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds, to detect changes of a manifest."""
    found = manifest.stat()
    return found.st_size, found.st_mtime_ns


def read_line(manifest: Path, columns: Columns, row: int) -> bytes:
    """Read the line of an utterance.

    Raises:
        UnreachableError: the line cannot be read, or has changed since it was indexed.
    """
    start, length, crc32 = (int(columns[name][row]) for name in ("start", "length", "crc32"))
    try:
        line = storage.read(str(manifest), start, length)
    except OSError as error:
        raise UnreachableError(f"{manifest}: cannot be read ({error.strerror or error})") from error
    if zlib.crc32(line) != crc32:
        raise UnreachableError(
            f"{manifest}: has changed since it was opened (at byte {start}); restart, and delete "
            f"{index_path(manifest)} if the manifest was replaced without changing its modification time"
        )
    return line


def load_index(manifest: Path) -> Index | None:
    """Map the index of a manifest; None if there is no valid, current index."""
    path = index_path(manifest)
    try:
        with storage.open_file(path) as file:
            header = _read_header(file)
            if header is None or header.source != source_state(manifest):
                return None
            if _checksum(header, file) != header.crc32:
                _logger.warning("%s is damaged: indexing %s again", path, manifest)
                return None
            return _map(header, file)
    except OSError:
        return None


def _map(header: IndexHeader, file: BinaryIO) -> Index:
    columns: Columns = {}
    end = _HEADER_BYTES
    for name, dtype in _layout(header).items():
        # Map the open file, because another process may replace the path.
        columns[name] = np.memmap(file, dtype, "r", offset=end, shape=(header.count,))
        end += columns[name].nbytes
    if not header.id_bytes:
        return Index(header, columns, None)
    file.seek(end)
    text, ends = file.read(header.id_bytes).decode("utf-8"), columns.pop("id_end").tolist()
    return Index(header, columns, [text[a:b] for a, b in pairwise([0, *ends])])


def save_index(manifest: Path, index: Index) -> None:
    """Write the index of a manifest. If that fails, log a warning, because the index only saves time.

    An existing file that is not an index is not replaced.
    """
    encoded = "".join(index.ids or ()).encode("utf-8")
    arrays = [index.columns[name].astype(dtype, copy=False) for name, dtype in COLUMNS.items()]
    if encoded:
        arrays.append(np.cumsum([len(id_) for id_ in index.ids or ()], dtype="<u8"))
    parts: list[bytes | memoryview] = [*(array.view(np.uint8).data for array in arrays), encoded]
    header = replace(index.header, id_bytes=len(encoded))
    crc32 = _header_checksum(header)
    for part in parts:
        crc32 = zlib.crc32(part, crc32)
    described = (_FORMAT + ", " + json.dumps(asdict(replace(header, crc32=crc32)))[1:]).encode()
    try:
        _require_replaceable(index_path(manifest))
        with storage.publish(index_path(manifest)) as file:
            file.write(described.ljust(_HEADER_BYTES - 1) + b"\n")
            for part in parts:
                file.write(part)
    except OSError as error:
        _logger.warning(
            "the index of %s cannot be written (%s); each start will read the whole manifest",
            manifest,
            error.strerror or error,
        )


def _require_replaceable(path: Path) -> None:
    """Raise OSError if the path is an existing file that is not an index."""
    if path.exists():
        with storage.open_file(path) as file:
            if file.read(len(_FORMAT)) not in (b"", _FORMAT.encode()):
                raise OSError(errno.EEXIST, f"{path.name} exists and is not an index; rename it")


@contextmanager
def indexing(manifest: Path) -> Iterator[None]:
    """Context in which one process per host indexes a manifest while the others wait."""
    with storage.open_file(manifest) as file:
        with suppress(OSError):  # a file system without locks: each process indexes it
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _layout(header: IndexHeader) -> dict[str, str]:
    return COLUMNS | ({"id_end": "<u8"} if header.id_bytes else {})


def _read_header(file: BinaryIO) -> IndexHeader | None:
    """Read the header; None if the file is not a complete index of this version."""
    try:
        fields = json.loads(file.read(_HEADER_BYTES))
        del fields["format"]
        header = IndexHeader(**{**fields, "source": tuple(fields["source"])})
        row = sum(np.dtype(dtype).itemsize for dtype in _layout(header).values())
        expected = _HEADER_BYTES + header.count * row + header.id_bytes
        is_whole = os.fstat(file.fileno()).st_size == expected
        return header if header.version == _VERSION and header.count > 0 and is_whole else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _header_checksum(header: IndexHeader) -> int:
    return zlib.crc32(json.dumps(asdict(replace(header, crc32=0))).encode())


def _checksum(header: IndexHeader, file: BinaryIO) -> int:
    """CRC-32 of header and columns. The file is read in chunks, not mapped, to save memory."""
    crc32 = _header_checksum(header)
    while piece := file.read(_CHUNK_BYTES):
        crc32 = zlib.crc32(piece, crc32)
    return crc32
