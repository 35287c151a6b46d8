"""Check language model files before KenLM reads them, since damaged ones can crash or exhaust the process.

An ARPA file is read once, line by line: its header, the number of n-grams in each section, and the length of
lines. Probabilities are left to KenLM, which reports what it cannot parse. Of a binary file, the header is
checked.
"""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from asr_emapl.errors import UserError
from asr_emapl.storage import unpacked

MAX_WORD_BYTES = 1_000
"""Longer words are damage; KenLM and other readers have fixed buffers."""

_MAX_LINE_BYTES = 16_384
_MAX_BLANK_LINES = 1_000
_MAX_ORDER = 6  # KenLM's own limit, as it is built
_COUNT = re.compile(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,12})\s*")

# The beginning of KenLM's binaries, and the numbers by which it knows its own byte order and widths.
_KENLM_MAGIC = b"mmap lm http://kheafield.com/code format version"
_KENLM_SANITY = struct.pack("<52s4xfffIIxxxxQ", _KENLM_MAGIC + b" 5\n\x00", 0.0, 1.0, -0.5, 1, 2**32 - 1, 1)
# Order, probing multiplier, type of the model, whether words are stored, version.
_KENLM_PARAMETERS = struct.Struct("<BxxxfI?xxxI")


def check_language_model(path: Path) -> None:
    """Pass where the file is an ARPA language model that is whole, or a binary whose header is sound.

    Raises:
        UserError: it is not; the message names the line.
    """
    try:
        with unpacked(path) as file:
            first = file.readline(_MAX_LINE_BYTES)
            if first.startswith(_KENLM_MAGIC):
                rest = file.read(len(_KENLM_SANITY) + _KENLM_PARAMETERS.size + 8 * _MAX_ORDER)
                _check_binary(first + rest, path)
            else:
                _Arpa(first, file).check()
    except _InvalidLineError as error:
        raise UserError(f"{path}:{error.args[0]}: {error.args[1]}") from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); name a language model") from error


class _InvalidLineError(Exception):
    """Its number, and what is wrong."""


class _Arpa:
    """One pass over an ARPA file."""

    def __init__(self, first: bytes, file: IO[bytes]) -> None:
        self._lines: Iterator[bytes] = iter(partial(file.readline, _MAX_LINE_BYTES), b"")
        self._line = first
        self._number = 1

    def check(self) -> None:
        self._skip_blank()
        if self._line.strip() != b"\\data\\":
            raise self._invalid(
                "not a language model: expected \\data\\, by which ARPA files begin, or KenLM's binary format"
            )
        self._next()
        counts = self._counts()
        for order, count in enumerate(counts, start=1):
            self._skip_blank()
            if self._line.strip() != b"\\%d-grams:" % order:
                raise self._invalid(f"expected the section \\{order}-grams:")
            self._section(order, count)
        self._skip_blank()
        if self._line.strip() != b"\\end\\":
            raise self._invalid("expected \\end\\, by which ARPA files end; is the file whole?")

    def _counts(self) -> list[int]:
        """The header's number of n-grams of each order."""
        counts: list[int] = []
        self._skip_blank()
        while self._line.strip() and not self._line.startswith(b"\\"):
            match = _COUNT.fullmatch(self._line.strip())
            if match is None or int(match[1]) != len(counts) + 1:
                raise self._invalid(f"expected 'ngram {len(counts) + 1}=<number of n-grams>'")
            counts.append(int(match[2]))
            self._next()
        if not 2 <= len(counts) <= _MAX_ORDER:
            raise self._invalid(f"a model of order {len(counts)}; KenLM reads orders 2 to {_MAX_ORDER}")
        return counts

    def _section(self, order: int, count: int) -> None:
        """Count the lines of a section. This loop sees every line of the file, so it does nothing else."""
        begin, line = self._number, b""
        for line in self._lines:
            self._number += 1
            if len(line) > MAX_WORD_BYTES:
                self._check_words(line)
            # Lines of n-grams begin with a number; a blank one or a backslash ends the section.
            if line[0] <= 92 and (line[0] == 92 or not line.strip()):
                break
        else:
            self._number += 1
            line = b""
        self._line = line
        found = self._number - begin - 1
        if found != count:
            raise self._invalid(
                f"the section \\{order}-grams: has {found} lines before this one, the header says {count}; "
                "is the file whole?"
            )

    def _check_words(self, line: bytes) -> None:
        if len(line) >= _MAX_LINE_BYTES or max(map(len, line.split()), default=0) > MAX_WORD_BYTES:
            raise self._invalid(f"a word of more than {MAX_WORD_BYTES:,} bytes")

    def _skip_blank(self) -> None:
        for _ in range(_MAX_BLANK_LINES):
            if self._line.strip() or not self._line:
                return
            self._next()
        raise self._invalid(f"more than {_MAX_BLANK_LINES:,} blank lines")

    def _next(self) -> None:
        self._line = next(self._lines, b"")
        self._number += 1

    def _invalid(self, what: str) -> _InvalidLineError:
        return _InvalidLineError(self._number, what)


def _check_binary(content: bytes, path: Path) -> None:
    """Refuse the beginning of a binary that KenLM would not write."""
    damaged = UserError(f"{path}: this KenLM binary is damaged or of another version; build it anew")
    end = len(_KENLM_SANITY) + _KENLM_PARAMETERS.size
    if len(content) < end or not content.startswith(_KENLM_SANITY):
        raise damaged
    order, multiplier, kind, _, _ = _KENLM_PARAMETERS.unpack(content[len(_KENLM_SANITY) : end])
    if not 1 <= order <= _MAX_ORDER or not 1.0 <= multiplier <= 100.0 or kind > 5:
        raise damaged
    counts = struct.unpack(f"<{order}Q", content[end : end + 8 * order].ljust(8 * order, b"\xff"))
    # Each n-gram takes more than a byte in every format of KenLM; larger counts would map memory without end.
    if sum(counts) > path.stat().st_size:
        raise damaged
