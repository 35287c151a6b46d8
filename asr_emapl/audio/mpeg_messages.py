"""Keep messages of the MP3 decoder off stderr.

libmpg123, inside libsndfile, prints notes on tags and damaged frames directly to file descriptor 2, and
libsndfile does not turn that off. Errors are reported by exceptions.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_STDERR = 2
_BEGINNINGS = (
    *(b"Note: ", b"[src/libmpg123"),
    *(b"Warning: Xing", b"Warning: Encountered more data", b"Warning: Real sample count"),
)


class _Redirection:
    """File descriptor 2 is a temporary file while a thread decodes; other output is written afterwards."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._real, self._file = -1, -1

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            try:
                self._real = os.dup(_STDERR)
                with tempfile.TemporaryFile(buffering=0) as file:
                    self._file = os.dup(file.fileno())
                os.dup2(self._file, _STDERR)
            except OSError:
                self._restore()  # stderr is closed, or there is no space

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()

    def after_fork(self) -> None:
        """In a child process, none of the threads that decode exists."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            os.lseek(self._file, 0, os.SEEK_END)  # the parent writes what is there
            self._restore(keep=False)

    def _restore(self, *, keep: bool = True) -> None:
        if self._real >= 0:
            os.dup2(self._real, _STDERR)
            os.close(self._real)
        if self._file >= 0:
            if keep:
                self._write_others()
            os.close(self._file)
        self._real = self._file = -1

    def _write_others(self) -> None:
        size = os.lseek(self._file, 0, os.SEEK_CUR)
        lines = os.pread(self._file, size, 0).splitlines(keepends=True)
        others = b"".join(line for line in lines if not line.startswith(_BEGINNINGS))
        with suppress(OSError):
            while others:
                others = others[os.write(_STDERR, others) :]


_redirection = _Redirection()
os.register_at_fork(after_in_child=_redirection.after_fork)


@contextmanager
def without_mpeg_messages(active: bool = True) -> Iterator[None]:
    """Context in which libmpg123 prints nothing; what others print to stderr comes after it."""
    if not active:
        yield
        return
    _redirection.begin()
    try:
        yield
    finally:
        _redirection.end()
