"""Read text files by path or URL, line by line, decompressed and decoded.

All code that reads lines uses this module, so that a pipe without a writer, a device, a compressed file of
empty lines or a line of gigabytes is an error, and does not hang or exhaust the memory. gzip and xz are
recognised by their first bytes.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from asr_emapl.errors import UnreachableError, UserError, list_findings
from asr_emapl.storage import files

Line = tuple[int, str]
"""The number of a line, from 1, and its text without the line end."""

MAX_LINE_BYTES = 16 << 20
"""Maximum length of a line; lines of manifests, transcripts and language models are far shorter."""

MAX_BLANK_LINES = 1_000_000
"""Maximum number of consecutive empty lines."""

MAX_DOCUMENT_BYTES = 64 << 20
"""Maximum size of a file that is read as a whole, such as a config or a tokenizer."""

_NAME, _CONVERT = "specify a readable file", "convert the file (iconv -t UTF-8)"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNPACKERS: dict[bytes, Callable[[BinaryIO], object]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
PACKED = tuple(_UNPACKERS)
"""First bytes of files that are decompressed while they are read."""

# EOFError, LZMAError, zlib.error: a compressed file is truncated or damaged. ValueError: a NUL in the path.
_FAILURES = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)

_Parsed = TypeVar("_Parsed")


class BrokenLineError(ValueError):
    """A line is invalid; the message says why."""


def raw_lines(place: str | Path, *, complete: bool = False, remedy: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each non-empty line, without the line end.

    A byte order mark is removed. Only LF and CRLF end a line, because Unicode's other line separators occur
    in transcripts.

    Args:
        complete: omit a last line without a line feed, which a program may still be writing.
        remedy: what to do if the file cannot be read; part of the message.

    Raises:
        UserError: the file cannot be read or decompressed, a line is longer than `MAX_LINE_BYTES`, or there
            are more than `MAX_BLANK_LINES` consecutive empty lines.
    """
    for number, _, line in placed_lines(place, complete=complete, remedy=remedy):
        yield number, line


def placed_lines(
    place: str | Path, *, complete: bool = False, remedy: str = ""
) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number, the offset in the decompressed file and the bytes of each line of `raw_lines`.

    Raises:
        UserError: as `raw_lines`.
    """
    empty = start = 0
    try:
        with unpacked(place) as file:
            for number in count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                begin, start = start, start + len(line)
                if not line or (complete and not line.endswith(b"\n")):
                    return
                if len(line) > MAX_LINE_BYTES:
                    size = MAX_LINE_BYTES >> 20
                    raise UserError(f"{place}:{number}: a line has more than {size} MiB; is it a text file?")
                if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                    begin, line = len(_BYTE_ORDER_MARK), line[len(_BYTE_ORDER_MARK) :]
                if line.strip():
                    empty = 0
                    yield number, begin, line.rstrip(b"\r\n")
                elif (empty := empty + 1) > MAX_BLANK_LINES:
                    raise UserError(
                        f"{place}: more than {MAX_BLANK_LINES:,} empty lines; is it the right file?"
                    )
    except _FAILURES as error:
        raise _unreadable(place, error, remedy) from error


def read_lines(place: str | Path, *, complete: bool = False, remedy: str = "") -> Iterator[Line]:
    """Yield the lines of `raw_lines` as text.

    Raises:
        UserError: as `raw_lines`, or a line is not UTF-8.
    """
    for number, line in raw_lines(place, complete=complete, remedy=remedy):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{place}:{number}: not UTF-8 text; {remedy or _CONVERT}") from error
        if text.strip():
            yield number, text


def read_document(place: str | Path, *, max_bytes: int = MAX_DOCUMENT_BYTES, remedy: str = "") -> str:
    """Read the whole text of a path or URL, decompressed, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is longer than `max_bytes`.
    """
    try:
        with unpacked(place) as file:
            content = file.read(max_bytes + 1)
    except _FAILURES as error:
        raise _unreadable(place, error, remedy) from error
    if len(content) > max_bytes:
        raise UserError(f"{place}: longer than {max_bytes >> 20} MiB; is it the right file?")
    try:
        return content.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise UserError(f"{place}:{number}: not UTF-8 text; {remedy or _CONVERT}") from error


def parse_lines(
    place: str | Path, lines: Iterable[Line], parse: Callable[[str], _Parsed]
) -> list[tuple[int, _Parsed]]:
    """Parse each line; return the line numbers and values.

    Raises:
        UserError: `parse` raised BrokenLineError; the message lists `place:number: problem` for each line.
    """
    parsed: list[tuple[int, _Parsed]] = []
    broken: list[Line] = []
    for number, line in lines:
        try:
            parsed.append((number, parse(line)))
        except BrokenLineError as finding:
            broken.append((number, str(finding)))
    raise_broken(place, broken)
    return parsed


def raise_broken(place: str | Path, broken: list[Line]) -> None:
    """Raise a UserError that lists the first twenty findings, if there are any."""
    if broken:
        raise UserError(list_findings([f"{place}:{number}: {what}" for number, what in broken]))


@contextmanager
def unpacked(place: str | Path) -> Iterator[BinaryIO]:
    """Open the file at a path or URL; gzip and xz are decompressed while it is read.

    Raises:
        OSError, EOFError, LZMAError, zlib.error: the file cannot be read or decompressed, on opening or later
            in the block.
    """
    if files.is_url(place):
        packed: BinaryIO = io.BufferedReader(io.BytesIO(files.read(str(place))))
    else:
        packed = files.open_file(place, pipe=True)
    with packed:
        head = cast(io.BufferedReader, packed).peek(8)
        for magic, unpack in _UNPACKERS.items():
            if head.startswith(magic):
                with cast(BinaryIO, unpack(packed)) as file:
                    yield file
                return
        yield packed


def _unreadable(place: str | Path, error: Exception, remedy: str) -> UserError:
    if isinstance(error, UnreachableError):
        return error
    absent = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else None
    reason = absent or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"{place}: cannot be read ({reason}); {remedy or _NAME}")
