"""Lines of text files, all that is wrong with them told in one error."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from asr_emapl import storage
from asr_emapl.errors import UnreachableError, UserError

Line = tuple[int, str]
"""Its number from 1, and what is on it, without its end."""

_Parsed = TypeVar("_Parsed")
_SHOWN_FINDINGS = 20  # an error lists at most so many broken lines


class BrokenLineError(Exception):
    """What is wrong with one line."""


def read_lines(place: str | Path) -> list[Line]:
    """The lines of a path or URL that are not blank; gzip, a byte order mark and CRLF are seen through.

    Raises:
        UserError: the file cannot be read, or is not UTF-8.
    """
    try:
        content = storage.read(str(place))
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{place}:{number}: not UTF-8 text: convert the file (iconv -t UTF-8)") from error
    except UnreachableError:
        raise
    # EOFError, zlib.error: half of a gzip file, or a damaged one.
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place}: cannot be read ({reason}): name a readable file") from error
    # Not splitlines(): that would also part a line at, say, U+2028 inside a JSON text.
    numbered = enumerate(text.split("\n"), start=1)
    return [(number, line.rstrip("\r")) for number, line in numbered if line.strip()]


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
    more = len(findings) - _SHOWN_FINDINGS
    tail = [f"{place}: and {more} more"] if more > 0 else []
    raise UserError("\n".join(findings[:_SHOWN_FINDINGS] + tail))
