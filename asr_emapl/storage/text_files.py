"""Text files by path or URL, read line by line: unpacked, decoded, and never more in memory than a line.

Every reader of lines in the toolkit goes through here, so that a pipe without a writer, a device, a packed
file of blank lines or one line of gigabytes is an error everywhere and a hang nowhere. gzip and xz are
recognised by their first bytes, whatever the file's name is.
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

from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.storage import files as storage

Line = tuple[int, str]
"""Its number from 1, and what is on it, without its end."""

MAX_LINE_BYTES = 16 << 20
"""No line of a manifest, transcript or language model comes near it."""

MAX_BLANK_LINES = 1_000_000
"""One after another."""

MAX_DOCUMENT_BYTES = 64 << 20
"""Of a file that is read as a whole: a config, a tokenizer."""

_NAME, _CONVERT = "name a readable file", "convert the file (iconv -t UTF-8)"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UNPACKERS: dict[bytes, Callable[[BinaryIO], object]] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
_MAX_FINDINGS = 20  # an error lists at most so many broken lines

_Parsed = TypeVar("_Parsed")


class BrokenLineError(ValueError):
    """What is wrong with one line."""


def raw_lines(place: str | Path, *, complete: bool = False, remedy: str = "") -> Iterator[tuple[int, bytes]]:
    """The lines of a path or URL that are not blank: their numbers from 1, and their bytes without the end.

    A byte order mark and CRLF are removed. Only line feeds end lines: other characters that Unicode calls
    line separators occur in transcripts.

    Args:
        complete: leave out a last line without a line feed, which may still be written.
        remedy: what to do about a file that cannot be read, for the message; "": what fits any.

    Raises:
        UserError: the file cannot be read or unpacked; a line is longer than `MAX_LINE_BYTES`; more than
            `MAX_BLANK_LINES` blank lines follow each other.
    """
    try:
        with unpacked(place) as file:
            yield from _numbered(place, file, complete)
    except UnreachableError:
        raise
    # EOFError, LZMAError, zlib.error: half of a packed file, or a damaged one. ValueError: a NUL in the path.
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise _unreadable(place, error, remedy) from error


def read_lines(place: str | Path, *, complete: bool = False, remedy: str = "") -> Iterator[Line]:
    """As `raw_lines`, decoded.

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
    """The whole text of a path or URL, unpacked, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is longer than `max_bytes`.
    """
    try:
        with unpacked(place) as file:
            content = file.read(max_bytes + 1)
    except UnreachableError:
        raise
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
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
    """What `parse` makes of each line, with its number.

    Raises:
        UserError: `parse` raised BrokenLineError; a line `place:number: what` for each.
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
    """A UserError that lists the findings, the first twenty of them; nothing if there are none."""
    if not broken:
        return
    findings = [f"{place}:{number}: {what}" for number, what in broken]
    more = len(findings) - _MAX_FINDINGS
    tail = [f"{place}: and {more} more"] if more > 0 else []
    raise UserError("\n".join(findings[:_MAX_FINDINGS] + tail))


@contextmanager
def unpacked(place: str | Path) -> Iterator[BinaryIO]:
    """The file at a path or URL, unpacked while it is read if it begins as gzip or xz does.

    Raises:
        OSError: it cannot be read; also while it is read, as EOFError, LZMAError and zlib.error are.
    """
    if storage.is_url(place):
        packed: BinaryIO = io.BufferedReader(io.BytesIO(storage.read(str(place))))
    else:
        packed = storage.open_file(place, pipe=True)
    with packed:
        head = cast(io.BufferedReader, packed).peek(8)
        for magic, unpack in _UNPACKERS.items():
            if head.startswith(magic):
                with cast(BinaryIO, unpack(packed)) as file:
                    yield file
                return
        yield packed


def _numbered(place: str | Path, file: BinaryIO, complete: bool) -> Iterator[tuple[int, bytes]]:
    blank = 0
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line or (complete and not line.endswith(b"\n")):
            return
        if len(line) > MAX_LINE_BYTES:
            size = MAX_LINE_BYTES >> 20
            raise UserError(f"{place}:{number}: a line of more than {size} MiB; is it a text file?")
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip():
            blank = 0
            yield number, line.rstrip(b"\r\n")
        elif (blank := blank + 1) > MAX_BLANK_LINES:
            raise UserError(f"{place}: more than {MAX_BLANK_LINES:,} blank lines; is it the right file?")


def _unreadable(place: str | Path, error: Exception, remedy: str) -> UserError:
    absent = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else None
    reason = absent or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return UserError(f"{place}: cannot be read ({reason}); {remedy or _NAME}")
