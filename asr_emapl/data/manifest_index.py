"""The index of a manifest: lengths, hashed ids and byte offsets of its utterances, mapped into memory.

It is written beside the manifest (`train.jsonl.index`), and again when the manifest has changed. It opens
millions of utterances in a second, and the processes of a host share its memory.

The file has a line of JSON (`IndexHeader`) padded to 4,096 bytes, then each of `COLUMNS` as one array
[utterances]. If utterances have no id, it also has the ends of the derived ids as an array [utterances], and
the ids themselves as UTF-8.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from asr_emapl import storage

_logger = logging.getLogger(__name__)
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
    """What an index says of its manifest.

    Attributes:
        count: utterances.
        source: size in bytes and modification time in nanoseconds of the manifest.
        without_text: number of utterances without a transcript.
        without_text_lines: numbers of the first lines of them, for an error message.
        id_bytes: length of all ids; 0 if the manifest has ids.
        crc32: of all that follows the header.
    """

    count: int
    source: tuple[int, int]
    without_text: int
    without_text_lines: list[int] = field(default_factory=list)
    id_bytes: int = 0
    crc32: int = 0
    version: int = _VERSION


def index_path(manifest: Path) -> Path:
    """Where the index of a manifest is."""
    return manifest.with_name(f"{manifest.name}.index")


def source_state(manifest: Path) -> tuple[int, int]:
    """What changes when the manifest does: size in bytes, modification time in nanoseconds."""
    found = manifest.stat()
    return found.st_size, found.st_mtime_ns


def load_index(manifest: Path) -> tuple[IndexHeader, Columns, list[str] | None] | None:
    """Load header, mapped columns [count] and derived ids; None if there is no index of the file as it is."""
    path = index_path(manifest)
    try:
        with storage.open_file(path) as file:
            header = _header(file)
            if header is None or header.source != source_state(manifest):
                return None
            if _checksum(file) != header.crc32:
                _logger.warning("%s is damaged: indexing %s again", path, manifest)
                return None
    except OSError:
        return None
    columns: Columns = {}
    end = _HEADER_BYTES
    for name, dtype in _layout(header).items():
        columns[name] = np.memmap(path, dtype, "r", offset=end, shape=(header.count,))
        end += columns[name].nbytes
    ids = None
    if header.id_bytes:
        text = storage.read(str(path), end, header.id_bytes).decode("utf-8")
        ids = _split(text, columns.pop("id_end"))
    return header, columns, ids


def save_index(manifest: Path, header: IndexHeader, columns: Columns, ids: list[str] | None) -> None:
    """Write the index of a manifest. If that fails, log a warning: the index only saves time."""
    encoded = "".join(ids or ()).encode("utf-8")
    arrays = [columns[name].astype(dtype, copy=False) for name, dtype in COLUMNS.items()]
    if encoded:
        arrays.append(np.cumsum([len(id_) for id_ in ids or ()], dtype="<u8"))
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.view(np.uint8).data, crc)
    crc = zlib.crc32(encoded, crc)
    described = asdict(header) | {"id_bytes": len(encoded), "crc32": crc}
    try:
        with storage.publish(index_path(manifest)) as file:
            file.write(json.dumps(described).encode().ljust(_HEADER_BYTES - 1) + b"\n")
            for array in arrays:
                file.write(array.view(np.uint8).data)
            file.write(encoded)
    except OSError as error:
        _logger.warning(
            "the index of %s cannot be written (%s); each start will read the whole manifest",
            manifest,
            error.strerror or error,
        )


@contextmanager
def indexing(manifest: Path) -> Iterator[None]:
    """Let one process per host index a manifest while the others wait."""
    with storage.open_file(manifest) as file:
        with suppress(OSError):  # a file system without locks: each process indexes it
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _layout(header: IndexHeader) -> dict[str, str]:
    return COLUMNS | ({"id_end": "<u8"} if header.id_bytes else {})


def _header(file: BinaryIO) -> IndexHeader | None:
    """The header of an index whose size fits it; None: of another version, or not an index."""
    try:
        fields = json.loads(file.read(_HEADER_BYTES))
        header = IndexHeader(**{**fields, "source": tuple(fields["source"])})
        row = sum(np.dtype(dtype).itemsize for dtype in _layout(header).values())
        expected = _HEADER_BYTES + header.count * row + header.id_bytes
        is_whole = os.fstat(file.fileno()).st_size == expected
        return header if header.version == _VERSION and header.count > 0 and is_whole else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the rest of a file, which is read and not mapped, so that it does not take memory."""
    crc = 0
    while piece := file.read(_CHUNK_BYTES):
        crc = zlib.crc32(piece, crc)
    return crc


def _split(text: str, ends: NDArray[Any]) -> list[str]:
    starts = [0, *ends[:-1].tolist()]
    return [text[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
