"""Check language model files before KenLM reads them: damaged files can crash the process or fill its memory.

An ARPA file is read once, line by line. The header, the n-gram count of each section and the line lengths are
checked; unparsable probabilities are left to KenLM. For binary files, only the header is checked.
"""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import IO

from asr_emapl.errors import UserError
from asr_emapl.storage import unpacked

MAX_WORD_BYTES = 1_000
"""Longer words are treated as file corruption, because KenLM and other readers use fixed-size buffers."""

_MAX_LINE_BYTES = 16_384
_MAX_EMPTY_LINES = 1_000
_MAX_ORDER = 6  # the limit in KenLM's default build
_COUNT = re.compile(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,12})\s*")

# The header of a KenLM binary. Its constants tell KenLM the byte order and the widths of the types.
_KENLM_MAGIC = b"mmap lm http://kheafield.com/code format version"
_KENLM_SANITY = struct.pack("<52s4xfffIIxxxxQ", _KENLM_MAGIC + b" 5\n\x00", 0.0, 1.0, -0.5, 1, 2**32 - 1, 1)
# Order, probing multiplier, type of the model, whether words are stored, version.
_KENLM_PARAMETERS = struct.Struct("<BxxxfI?xxxI")


def check_language_model(path: Path) -> None:
    """Check that a file is a complete ARPA language model, or a KenLM binary with a valid header.

    Raises:
        UserError: the file is invalid; the message contains the line number.
    """
    try:
        with unpacked(path) as file:
            first = file.readline(_MAX_LINE_BYTES)
            if first.startswith(_KENLM_MAGIC):
                rest = file.read(len(_KENLM_SANITY) + _KENLM_PARAMETERS.size + 8 * _MAX_ORDER)
                _check_binary(first + rest, path)
            else:
                _ArpaChecker(path, first, file).check()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); specify a language model") from error


class _ArpaChecker:
    """One pass over an ARPA file."""

    def __init__(self, path: Path, first: bytes, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._line, self._number = first, 1

    def check(self) -> None:
        self._expect(b"\\data\\", "not a language model: expected \\data\\ (ARPA) or a KenLM binary")
        self._next()
        counts = self._counts()
        for order, count in enumerate(counts, start=1):
            self._expect(b"\\%d-grams:" % order, f"expected the section \\{order}-grams:")
            self._section(order, count)
        self._expect(b"\\end\\", "expected \\end\\; the file may be truncated")

    def _counts(self) -> list[int]:
        """The header's number of n-grams per order."""
        counts: list[int] = []
        self._skip_empty()
        while self._line.strip() and not self._line.startswith(b"\\"):
            match = _COUNT.fullmatch(self._line.strip())
            if match is None or int(match[1]) != len(counts) + 1:
                raise self._error(f"expected 'ngram {len(counts) + 1}=<number of n-grams>'")
            counts.append(int(match[2]))
            self._next()
        if not 2 <= len(counts) <= _MAX_ORDER:
            raise self._error(f"a model of order {len(counts)}; KenLM reads orders 2 to {_MAX_ORDER}")
        return counts

    def _section(self, order: int, count: int) -> None:
        """Count the lines of a section. This is the innermost loop, so it does no other work."""
        begin, line = self._number, b""
        for line in iter(partial(self._file.readline, _MAX_LINE_BYTES), b""):
            self._number += 1
            if len(line) > MAX_WORD_BYTES:
                self._check_words(line)
            # The lines of n-grams begin with a number. An empty line or a backslash ends the section.
            if line[0] <= 92 and (line[0] == 92 or not line.strip()):
                break
        else:
            self._number += 1
            line = b""
        self._line = line
        found = self._number - begin - 1
        if found != count:
            raise self._error(
                f"the section \\{order}-grams: has {found} lines before this one, the header says {count}; "
                "the file may be truncated"
            )

    def _check_words(self, line: bytes) -> None:
        if len(line) >= _MAX_LINE_BYTES or max(map(len, line.split()), default=0) > MAX_WORD_BYTES:
            raise self._error(f"a word has more than {MAX_WORD_BYTES:,} bytes")

    def _expect(self, content: bytes, message: str) -> None:
        self._skip_empty()
        if self._line.strip() != content:
            raise self._error(message)

    def _skip_empty(self) -> None:
        for _ in range(_MAX_EMPTY_LINES):
            if self._line.strip() or not self._line:
                return
            self._next()
        raise self._error(f"more than {_MAX_EMPTY_LINES:,} empty lines")

    def _next(self) -> None:
        self._line = self._file.readline(_MAX_LINE_BYTES)
        self._number += 1

    def _error(self, message: str) -> UserError:
        return UserError(f"{self._path}:{self._number}: {message}")


def _check_binary(content: bytes, path: Path) -> None:
    """Check the first bytes of a KenLM binary."""
    damaged = UserError(f"{path}: this KenLM binary is damaged or its version differs; build it again")
    end = len(_KENLM_SANITY) + _KENLM_PARAMETERS.size
    if len(content) < end or not content.startswith(_KENLM_SANITY):
        raise damaged
    order, multiplier, kind, _, _ = _KENLM_PARAMETERS.unpack(content[len(_KENLM_SANITY) : end])
    if not 1 <= order <= _MAX_ORDER or not 1.0 <= multiplier <= 100.0 or kind > 5:
        raise damaged
    counts = struct.unpack(f"<{order}Q", content[end : end + 8 * order].ljust(8 * order, b"\xff"))
    # Every KenLM format uses more than one byte per n-gram, so larger counts are corrupt and would exhaust
    # memory.
    if sum(counts) > path.stat().st_size:
        raise damaged
