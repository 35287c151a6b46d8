"""A text file that grows by lines, cut back where a run goes on, and patient with a full disk."""

from __future__ import annotations

from pathlib import Path

from asr_emapl.terminal import say

# Lines that gather before they are written.
_BUFFER_BYTES = 1 << 13


class LineFile:
    """Appends lines to a file.

    Args:
        lines: to keep of what the file holds; None: all.
    """

    def __init__(self, path: Path, lines: int | None = None) -> None:
        self.path = path
        self._pending = bytearray()
        self._warned = False
        self.lines = 0 if lines is None else _cut(path, lines)
        self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        """Add a line; it is on its way to the disk after `flush`."""
        self._pending += line.encode() + b"\n"
        self.lines += 1
        if len(self._pending) >= _BUFFER_BYTES and not self._warned:
            self.flush()

    def flush(self) -> None:
        """Write what is pending; where that fails, say so once and keep it for the next time."""
        try:
            while self._pending:
                del self._pending[: self._file.write(self._pending)]
        except OSError as error:
            if not self._warned:
                say(
                    f"warning: {self.path} cannot be written ({error.strerror}): its lines wait in memory "
                    "until it can; training goes on"
                )
            self._warned = True
            return
        self._warned = False

    def close(self) -> None:
        """No more is to come."""
        self.flush()
        self._file.close()


def _cut(path: Path, lines: int) -> int:
    """Cut a file off after its first `lines` lines; returns how many it has then."""
    if not path.exists():
        return 0
    with path.open("r+b") as file:
        count, end = 0, 0
        while count < lines and file.readline().endswith(b"\n"):
            count, end = count + 1, file.tell()
        file.truncate(end)
    return count
