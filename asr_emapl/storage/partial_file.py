"""Local files written whole: under a hidden name beside their place, and renamed once they are on the disk.

A process that is killed leaves a hidden file. Its lock goes with the process, so that the next process that
writes into the folder can tell such a file from one that is still being written, and removes it.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

try:
    import fcntl
except ImportError:  # pragma: no cover - not on Windows: leftovers stay there
    fcntl = None  # type: ignore[assignment]

_BUFFER_BYTES = 1 << 16
_NAME_CHARACTERS = 50  # of a file's name that its hidden name repeats: names are limited to 255 bytes
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.partial")
_OPEN_FILE = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_MOST_LINKS = 40
# What a file system answers to a sync of a folder, or to a lock, that it does not have.
_NOT_OFFERED = (errno.EINVAL, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new file; it appears at `path`, whole and durable, once the block has ended without an error.

    A file that is there stays as it is until then, and gives the new one its permissions. A symbolic link
    stays, and its target is replaced. A device, a pipe or an open file (/dev/stdout) is written directly.
    Missing folders are made.

    Raises:
        OSError: it cannot be written (the disk is full, `path` is a directory or read-only). Its `filename`
            is `path`.
    """
    with _named(path):
        direct = _direct(path)
    if direct is not None:
        with _File(direct, path) as raw:
            file = io.BufferedWriter(raw, _BUFFER_BYTES)
            yield cast(BinaryIO, file)
            file.flush()
        return
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        _remove_leftovers(str(target.parent))
        partial, descriptor = _create(target)
    try:
        # Closed without a flush: after an error, what is in the buffer would fail again.
        with _File(descriptor, path) as raw:
            file = io.BufferedWriter(raw, _BUFFER_BYTES)
            yield cast(BinaryIO, file)
            with _named(path):
                sync(cast(BinaryIO, file))
                if fcntl is None:
                    raw.close()  # Windows renames no open file
                # Still locked: else another process could take it for a leftover.
                partial.replace(target)
                sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def replace_link(path: Path, target: str) -> None:
    """Have `path` be a symbolic link to `target`, whatever it was before.

    Raises:
        OSError: it cannot be made; what was there before still is.
    """
    partial = _hidden_name(path)
    try:
        partial.symlink_to(target)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Have what was written so far survive a power cut, if it goes to a disk."""
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the renames in it survive a power cut, where the system can open folders."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # Some network file systems keep names on the disk by themselves; a folder may be closed to readers.
        if error.errno not in _NOT_OFFERED:
            raise


def open_descriptor(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout names, through links; None of any other."""
    for _ in range(_MOST_LINKS):
        # Not resolved, which would follow the link from there to what is open.
        if match := _OPEN_FILE.fullmatch(os.path.abspath(path)):  # noqa: PTH100
            return int(match[1])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def is_standard_output(path: str | os.PathLike[str]) -> bool:
    """Whether it is a name of this process's standard output, such as /dev/stdout."""
    return open_descriptor(Path(path)) == 1


class _File(io.FileIO):
    """An open file whose errors name the path that was asked for."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(str(path), "wb", opener=lambda name, flags: descriptor)
        self.path = path

    def write(self, content: Any) -> int:
        with _named(self.path):
            return super().write(content)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _direct(path: Path) -> int | None:
    """A descriptor of what is not replaced but written; None for a regular file, there or not."""
    number = open_descriptor(path)
    if number is not None:
        if number == 1 and sys.stdout is not None:
            sys.stdout.flush()
        # Opened by name, it would be written from its beginning, over what the process has printed.
        return os.dup(number)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        return os.open(path, os.O_WRONLY)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return None


def _create(target: Path) -> tuple[Path, int]:
    """A hidden file beside the target, open and locked, with the permissions of what it will replace."""
    while True:
        partial = _hidden_name(target)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor)
        # Before it was locked, another process may have taken it for a leftover.
        if partial.exists():
            break
        os.close(descriptor)
    with suppress(OSError):
        partial.chmod(stat.S_IMODE(target.stat().st_mode))
    return partial, descriptor


def _hidden_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:_NAME_CHARACTERS]}.{uuid.uuid4().hex}.partial")


def _lock(descriptor: int, *, wait: bool = True) -> bool:
    """Whether this process has the file's lock now."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=128)
def _remove_leftovers(folder: str) -> None:
    """Remove hidden files that killed processes left; once for each folder, which may hold many files."""
    leftovers: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:
        leftovers = [entry.path for entry in entries if _PARTIAL.fullmatch(entry.name)]
    for leftover in leftovers:
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(descriptor, wait=False):
                    Path(leftover).unlink()
            finally:
                os.close(descriptor)
