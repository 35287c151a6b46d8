"""A text file to which lines are appended, which tolerates resumes and a full disk."""

from __future__ import annotations

import logging
from pathlib import Path

from asr_emapl.storage import require_file

_logger = logging.getLogger(__name__)
_BUFFER_BYTES = 1 << 13


class LineFile:
    """Appends lines to a file.

    Args:
        lines: number of lines of the existing file to keep; None: all.

    Raises:
        OSError: the file cannot be opened, or is not a regular file.
    """

    def __init__(self, path: Path, lines: int | None = None) -> None:
        self.path = path
        require_file(path)
        self._pending = bytearray()
        self._has_failed = False
        self.lines = 0 if lines is None else _truncate(path, lines)
        self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        """Append a line to the buffer; `flush` writes it."""
        self._pending += line.encode() + b"\n"
        self.lines += 1
        if len(self._pending) >= _BUFFER_BYTES and not self._has_failed:
            self.flush()

    def flush(self) -> None:
        """Write the buffer. If that fails, warn once and keep the lines for the next call."""
        try:
            while self._pending:
                del self._pending[: self._file.write(self._pending)]
        except OSError as error:
            if not self._has_failed:
                _logger.warning(
                    f"{self.path} cannot be written ({error.strerror}); training continues and keeps the "
                    "lines in memory until it can be"
                )
            self._has_failed = True
            return
        self._has_failed = False

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self._file.close()


def _truncate(path: Path, lines: int) -> int:
    """Truncate a file after its first `lines` complete lines; return their number."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        count, end = 0, 0
        while count < lines and file.readline().endswith(b"\n"):
            count, end = count + 1, file.tell()
        file.truncate(end)
    return count
