"""Read files by path or URL.

Local files are read by system calls, URLs (s3://, gs://, https://, memory://) by fsspec, imported at the
first URL. All failures are OSErrors: FileNotFoundError if the server reports that there is no such file,
UnreachableError if the server does not respond.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from asr_emapl.errors import UnreachableError

# Local files that a process keeps open; systems allow 1,024.
_OPEN_FILES = 128
_HASHED_BYTES = 1 << 20  # at a time
# Seconds between attempts to read a URL, so that one lost connection does not end a long run. Their sum plus
# the time to connect is less than the default of device.timeout_seconds.
_PAUSES_S = (1.0, 5.0, 15.0, 45.0)
# HTTP statuses of missing files, and of requests to repeat later (in addition to all from 500).
_ABSENT, _BUSY = (404, 410), (408, 429)
# File types that have no end, or that block the process that opens them.
_NOT_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Pipes that a shell opened for the command, as in <(zcat a.gz). They end when their command ends.
_SHELL_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")

_Result = TypeVar("_Result")


def is_url(place: object) -> bool:
    """Whether a place is a URL rather than a path."""
    return isinstance(place, str) and re.match(r"[A-Za-z][\w+.:-]*://", place) is not None


def join(folder: str, name: str) -> str:
    """Join a folder (path or URL) and a name; an absolute path or a URL is returned unchanged."""
    # Check the first character for speed: creating a Path takes longer than reading the rest of an utterance.
    if is_url(name) or (name.startswith("/") and not is_url(folder)):
        return name
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder, name))


def split(place: str | Path) -> tuple[str, str]:
    """Split a place into its folder (an absolute path or a URL) and its name."""
    if is_url(place):
        folder, _, name = str(place).rpartition("/")
        return folder, name
    path = Path(place).absolute()
    return str(path.parent), path.name


def read(place: str, start: int = 0, length: int | None = None) -> bytes:
    """Read `length` bytes from `start` (None: up to the end); fewer if the file is shorter."""
    if is_url(place):
        end = None if length is None else start + length
        return bytes(_remote(place, lambda fs, path: fs.cat_file(path, start=start or None, end=end)))
    if length is None:
        with open_file(place) as file:
            file.seek(start)
            return file.read()
    return _descriptor(place).read(start, length)


def open_file(path: str | Path, *, pipe: bool = False) -> BinaryIO:
    """Open a local file for reading.

    Args:
        pipe: whether to accept a pipe that the shell has opened, which can be read only once.

    Raises:
        OSError: the file cannot be opened, or is a folder, a device, a socket or a named pipe.
    """
    return os.fdopen(_open_descriptor(path, pipe), "rb")


def require_file(path: Path) -> None:
    """Check before writing that `path` is a regular file or does not exist.

    Raises:
        OSError: it is a folder, a device or a pipe, which would wait for a reader.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "exists and is not a regular file", str(path))


def close_files() -> None:
    """Close the open local files, so that the next read opens a replaced file."""
    _descriptor.cache_clear()


def size(place: str) -> int | None:
    """Length in bytes; None if there is no such file."""
    try:
        if not is_url(place):
            return Path(place).stat().st_size
        found = _remote(place, lambda fs, path: fs.info(path))["size"]
    except FileNotFoundError:
        return None
    if found is None:
        raise OSError(f"{place}: the server does not state its length")
    return int(found)


def sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a local file."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_HASHED_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def remove(place: str) -> None:
    """Delete a file."""
    if is_url(place):
        _remote(place, lambda fs, path: fs.rm_file(path))
    else:
        Path(place).unlink()


def upload(path: str, url: str) -> None:
    """Copy a local file to a URL."""
    _remote(url, lambda fs, target: fs.put_file(path, target))


def _open_descriptor(path: str | Path, pipe: bool = False) -> int:
    """Open a file for `open_file`. A device is not opened, because opening it can have side effects."""
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    is_pipe = pipe and stat.S_ISFIFO(mode) and str(path).startswith(_SHELL_PIPES)
    if stat.S_IFMT(mode) in _NOT_FILES and not is_pipe:
        raise OSError(errno.EINVAL, f"{_NOT_FILES[stat.S_IFMT(mode)]}, not a file", str(path))
    # Non-blocking, because it may have become a pipe meanwhile, or be a file in /proc that waits for events.
    return os.open(path, os.O_RDONLY | (0 if is_pipe else getattr(os, "O_NONBLOCK", 0)))


class _Descriptor:
    """An open local file. Each read has its own position, so threads and forked processes can share it."""

    def __init__(self, path: str) -> None:
        self.number = _open_descriptor(path)

    def read(self, start: int, length: int) -> bytes:
        # pread reserves `length` bytes of memory, returns at most 2 GiB, and may return less than asked for.
        length = min(length, os.fstat(self.number).st_size - start)
        pieces = []
        while length > 0 and (piece := os.pread(self.number, length, start)):
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __del__(self) -> None:
        # There is no descriptor if opening failed.
        if hasattr(self, "number"):
            os.close(self.number)


# A file that was removed from the cache is closed when no thread reads from it.
_descriptor = functools.lru_cache(maxsize=_OPEN_FILES)(_Descriptor)


def _remote(url: str, action: Callable[[Any, str], _Result]) -> _Result:
    """Run the action on the URL's file system; repeat it if the connection may have failed."""
    # Check all parts of a chained URL (reference://a::https://host/b.json). fsspec renders the Jinja
    # templates in such a file, which could run code from an untrusted manifest.
    if any(re.match("reference(:|$)", link) for link in url.lower().split("::")):
        raise OSError("reference:// is not supported; specify the file itself")
    for pause in (*_PAUSES_S, None):
        try:
            # fsspec caches file systems per process.
            from fsspec.core import url_to_fs

            return action(*url_to_fs(url))
        # Each file system raises its own exceptions.
        except Exception as error:
            reason = _reason(error)
            _raise_final(url, reason)
            if pause is None:
                what = " ".join(f"{type(reason).__name__}: {reason}".split())
                raise UnreachableError(
                    f"{url}: host {_host(url)} does not respond ({what}; tried {len(_PAUSES_S) + 1} times); "
                    "check the server and the network, then rerun the same command"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception) -> Exception:
    """The original error: fsspec's HTTP code raises FileNotFoundError for all, with it as the cause."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if isinstance(cause, Exception) and type(cause).__module__.startswith(("aiohttp.", "asyncio.")):
        return cause
    return cause if isinstance(cause, ConnectionError | TimeoutError) else error


def _raise_final(url: str, reason: Exception) -> None:
    """Raise an OSError if another attempt would fail in the same way."""
    status = getattr(reason, "status", None)
    if isinstance(reason, FileNotFoundError) or status in _ABSENT:
        raise FileNotFoundError(url) from reason
    if isinstance(reason, PermissionError):
        raise reason
    # ValueError: an unknown protocol; ImportError: the protocol's package is not installed.
    if isinstance(reason, ImportError | NotImplementedError | ValueError):
        raise OSError(f"{reason}") from reason
    if isinstance(status, int) and 400 <= status < 500 and status not in _BUSY:
        raise OSError(f"{url}: the server answers {status} {getattr(reason, 'message', '')}") from reason


def _host(url: str) -> str:
    """Host and port of a URL, without user and password."""
    return urlsplit(url.rpartition("::")[2]).netloc.rpartition("@")[2]
