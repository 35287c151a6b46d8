"""Atomic writes: a file appears under its name when it is complete and on disk, or not at all.

A local file is written under a hidden name in the same folder, then renamed. The hidden file is locked while
it is written. Hidden files without a lock were left by killed processes; the next process that writes into
the folder removes them.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from asr_emapl.errors import UserError
from asr_emapl.storage.files import is_url, upload

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where leftovers stay
    fcntl = None  # type: ignore[assignment]

Place = str | os.PathLike[str]
"""A path or a URL."""

_BUFFER_BYTES = 1 << 16
_NAME_CHARACTERS = 50  # length of the target's name in the hidden name; file names have at most 255 bytes
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.partial")
_OPEN_FILE = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")
_MAX_LINKS = 40
# Errors of file systems that do not support syncing a folder.
_NOT_SUPPORTED = (errno.EINVAL, errno.EACCES, errno.ENOSYS, errno.ENOTSUP)
_REMEDIES = {
    errno.ENOSPC: "; free some space or specify another folder",
    errno.EDQUOT: "; free some space or specify another folder",
    errno.EISDIR: "; specify a file",
    errno.EACCES: "; specify another folder",
    errno.EROFS: "; specify another folder",
}


@contextmanager
def publish(place: Place) -> Iterator[BinaryIO]:
    """Open a new file that appears at `place`, complete and on disk, when the block ends without an error.

    An existing file is unchanged until then; the new file gets its permissions. If `place` is a symbolic
    link, its target is replaced. A device, a pipe or an open file (/dev/stdout) is written directly. Missing
    folders are created. If `place` is a URL, the file is uploaded when the block ends.

    Raises:
        OSError: the file cannot be written; an existing file is unchanged.
    """
    if is_url(place):
        with tempfile.NamedTemporaryFile() as remote:
            yield cast(BinaryIO, remote)
            remote.flush()
            upload(remote.name, str(place))
        return
    path = Path(place)
    partial = None
    try:
        descriptor = _open_direct(path)
        if descriptor is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = Path(os.path.realpath(path)) if path.is_symlink() else path
            _remove_leftovers(str(target.parent))
            partial, descriptor = _create(target)
        with cast(io.BufferedWriter, os.fdopen(descriptor, "wb", _BUFFER_BYTES)) as file:
            try:
                yield cast(BinaryIO, file)
                sync(cast(BinaryIO, file))
            except BaseException:
                file.raw.close()  # without a flush, which could fail as well
                raise
            if partial is not None:
                if fcntl is None:
                    file.close()  # Windows cannot rename an open file
                # Rename while locked: another process would remove the file as a leftover.
                partial.replace(target)
                _sync_folder(target.parent)
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".partial"):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def write(place: Place, content: bytes | str | Iterable[str]) -> None:
    """Publish a file with this content. Text is written as UTF-8; unpaired surrogates are escaped.

    Raises:
        UserError: the file cannot be written; an existing file is unchanged.
    """
    with writing(place), publish(place) as file:
        if isinstance(content, bytes):
            file.write(content)
            return
        for piece in [content] if isinstance(content, str) else content:
            file.write(piece.encode("utf-8", "backslashreplace"))


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Convert an OSError in the block, which writes `place`, to a UserError that names `place`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise UserError(f"{place}: cannot be written ({error.strerror or error}){remedy}") from error


def replace_link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, atomically.

    Raises:
        OSError: the link cannot be created; an existing file is unchanged.
    """
    partial = _hidden_name(path)
    try:
        partial.symlink_to(target)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Flush a file to disk, so that its content survives a power failure."""
    file.flush()
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fsync(file.fileno())


def open_descriptor(path: Path) -> int | None:
    """The descriptor that a path such as /dev/stdout refers to, also by links; None for other paths."""
    for _ in range(_MAX_LINKS):
        # Path.resolve would follow the link from there to the open file.
        if match := _OPEN_FILE.fullmatch(os.path.abspath(path)):  # noqa: PTH100
            return int(match[1])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def target_mode(path: Path) -> int | None:
    """The mode of the file that would be replaced or written to; None if there is none.

    Raises:
        OSError: it is a directory, or a read-only file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(mode) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return mode


def is_standard_output(path: Place) -> bool:
    """Whether the path refers to this process's standard output, as /dev/stdout does."""
    return open_descriptor(Path(path)) == 1


def _open_direct(path: Path) -> int | None:
    """A descriptor if `place` is written directly; None if it is a regular file or does not exist."""
    number = open_descriptor(path)
    if number is not None:
        if number == 1 and sys.stdout is not None:
            sys.stdout.flush()
        # Opening it by name would overwrite a file from its beginning.
        return os.dup(number)
    mode = target_mode(path)
    return None if mode is None or stat.S_ISREG(mode) else os.open(path, os.O_WRONLY)


def _create(target: Path) -> tuple[Path, int]:
    """Create and lock a hidden file beside the target, with the permissions of the file that it replaces."""
    while True:
        partial = _hidden_name(target)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(descriptor, wait=True)
        # Another process may have removed it as a leftover before it was locked.
        if partial.exists():
            break
        os.close(descriptor)
    with suppress(OSError):
        partial.chmod(stat.S_IMODE(target.stat().st_mode))
    return partial, descriptor


def _hidden_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:_NAME_CHARACTERS]}.{uuid.uuid4().hex}.partial")


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Try to lock a file; returns whether this process holds the lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Flush a folder's renames to disk, if the system supports it."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise


@functools.lru_cache(maxsize=128)
def _remove_leftovers(folder: str) -> None:
    """Remove hidden files of killed processes. Done once per folder, because it may contain many files."""
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
