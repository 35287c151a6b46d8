"""Files by path or URL: read by ranges of bytes, and written so that a name stands for a whole file.

Local files go through the system's own calls; fsspec, loaded at the first URL, serves the rest (s3://, gs://,
https://, memory:// and so on). Whatever goes wrong, with a URL too, is an OSError: FileNotFoundError if the
server says that there is no such file, UnreachableError if it cannot be asked.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from asr_emapl.errors import UnreachableError
from asr_emapl.storage.partial_file import whole_file

# Local files that a process keeps open, well below the 1,024 that systems allow it.
_OPEN_FILES = 128
# Between the attempts to read from a URL, in seconds: a run of days is not to end with one lost connection.
# Together with the time that connecting takes, less than the default of device.timeout_seconds.
_PAUSES_S = (1.0, 5.0, 15.0, 45.0)
# HTTP statuses of files that are not there; and of requests that may be answered later, with all from 500 on.
_ABSENT, _BUSY = (404, 410), (408, 429)
# What a path may lead to that never ends, or blocks whoever opens it.
_NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Pipes that a shell has opened for the command, as in <(zcat a.gz): they end when their command does.
_SHELL_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")

_Result = TypeVar("_Result")


def is_url(place: str | Path) -> bool:
    """Whether it is a URL, and not a path."""
    return isinstance(place, str) and re.match(r"[A-Za-z][\w+.:-]*://", place) is not None


def join(folder: str, name: str) -> str:
    """The place called `name` in a folder (path or URL); a path that is absolute, or a URL, as it is."""
    # The second question is for speed: a Path takes longer to make than the rest of an utterance.
    if is_url(name) or (name.startswith("/") and not is_url(folder)):
        return name
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder, name))


def split(place: str | Path) -> tuple[str, str]:
    """The folder, a path made absolute or a URL, and the name in it."""
    if is_url(place):
        folder, _, name = str(place).rpartition("/")
        return folder, name
    path = Path(place).absolute()
    return str(path.parent), path.name


def read(place: str, start: int = 0, length: int | None = None) -> bytes:
    """`length` bytes from `start` on (None: all the rest); fewer where the file ends before."""
    if is_url(place):
        end = None if length is None else start + length
        return bytes(_remote(place, lambda fs, path: fs.cat_file(path, start=start or None, end=end)))
    if length is None:
        with open_file(place) as file:
            file.seek(start)
            return file.read()
    return _descriptor(place).read(start, length)


def open_file(path: str | Path, *, pipe: bool = False) -> BinaryIO:
    """A local file, open for reading.

    Args:
        pipe: whether a pipe that the shell has opened, which can be read only once, will do as well.

    Raises:
        OSError: it cannot be opened, or it is a folder, a device, a socket or a named pipe.
    """
    return os.fdopen(_open_descriptor(path, pipe), "rb")


def close_files() -> None:
    """Have local files opened anew: one that was replaced stays open as it was."""
    _descriptor.cache_clear()


def size(place: str) -> int | None:
    """Length in bytes, None if there is no such file."""
    try:
        if not is_url(place):
            return Path(place).stat().st_size
        found = _remote(place, lambda fs, path: fs.info(path))["size"]
    except FileNotFoundError:
        return None
    if found is None:
        raise OSError(f"{place}: the server does not say how long it is")
    return int(found)


def remove(place: str) -> None:
    """Delete a file."""
    if is_url(place):
        _remote(place, lambda fs, path: fs.rm_file(path))
    else:
        Path(place).unlink()


@contextmanager
def publish(place: str) -> Iterator[BinaryIO]:
    """A new file; it appears at `place`, whole and durable, once the block has ended without an error.

    A local one is written as `partial_file.whole_file` says; one for a URL in the system's folder for
    temporary files, and sent when it is whole.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    if not is_url(place):
        with whole_file(Path(place)) as local:
            yield local
        return
    with tempfile.NamedTemporaryFile() as file:
        yield cast(BinaryIO, file)
        file.flush()
        _remote(place, lambda fs, path: fs.put_file(file.name, path))


def _open_descriptor(path: str | Path, pipe: bool = False) -> int:
    """As `open_file`. A device is not even opened: that alone can make it do something."""
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    is_pipe = pipe and stat.S_ISFIFO(mode) and str(path).startswith(_SHELL_PIPES)
    if stat.S_IFMT(mode) in _NO_FILES and not is_pipe:
        raise OSError(errno.EINVAL, f"{_NO_FILES[stat.S_IFMT(mode)]}, not a file", str(path))
    # Without blocking: it may have become a pipe since, or be a file of /proc that waits for events.
    return os.open(path, os.O_RDONLY | (0 if is_pipe else getattr(os, "O_NONBLOCK", 0)))


class _Descriptor:
    """An open local file. Reads name their position, so that threads and forked processes can share it."""

    def __init__(self, path: str) -> None:
        self.number = _open_descriptor(path)

    def read(self, start: int, length: int) -> bytes:
        """One call gives 2 GiB at the most, and may give less than was asked for."""
        # The system reserves as much memory as is asked for, whether the file is so long or not.
        length = min(length, os.fstat(self.number).st_size - start)
        pieces = []
        while length > 0 and (piece := os.pread(self.number, length, start)):
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __del__(self) -> None:
        # Absent where opening failed.
        if hasattr(self, "number"):
            os.close(self.number)


# What falls out of the cache is closed once nobody reads from it.
_descriptor = functools.lru_cache(maxsize=_OPEN_FILES)(_Descriptor)


def _remote(url: str, action: Callable[[Any, str], _Result]) -> _Result:
    """The action on the URL's file system, tried again where the connection may be to blame."""
    # Of chained URLs any link (reference://a::https://host/b.json). Such a file holds Jinja templates, which
    # fsspec renders: a manifest from elsewhere shall not have them run.
    if any(re.match("reference(:|$)", link) for link in url.lower().split("::")):
        raise OSError("reference:// is not supported: name the file itself")
    for pause in (*_PAUSES_S, None):
        try:
            # fsspec keeps file systems, one set for each process.
            from fsspec.core import url_to_fs

            return action(*url_to_fs(url))
        # Each file system has exceptions of its own.
        except Exception as error:
            reason = _reason(error)
            _raise_final(url, reason)
            if pause is None:
                what = " ".join(f"{type(reason).__name__}: {reason}".split())
                raise UnreachableError(
                    f"{url}: host {_host(url)} fails to answer ({what}; tried {len(_PAUSES_S) + 1} times); "
                    "check the server and the network, then rerun the same command"
                ) from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _reason(error: Exception) -> Exception:
    """What went wrong; fsspec's HTTP raises FileNotFoundError for everything, from the true error."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if isinstance(cause, Exception) and type(cause).__module__.startswith(("aiohttp.", "asyncio.")):
        return cause
    return cause if isinstance(cause, ConnectionError | TimeoutError) else error


def _raise_final(url: str, reason: Exception) -> None:
    """Raise an OSError if another attempt would end in the same way."""
    status = getattr(reason, "status", None)
    if isinstance(reason, FileNotFoundError) or status in _ABSENT:
        raise FileNotFoundError(url) from reason
    if isinstance(reason, PermissionError):
        raise reason
    # ValueError: an unknown protocol; ImportError: one whose package is not installed.
    if isinstance(reason, ImportError | NotImplementedError | ValueError):
        raise OSError(f"{reason}") from reason
    if isinstance(status, int) and 400 <= status < 500 and status not in _BUSY:
        raise OSError(f"{url}: the server answers {status} {getattr(reason, 'message', '')}") from reason


def _host(url: str) -> str:
    """Host and port that a URL names, without the password that it may have."""
    return urlsplit(url.rpartition("::")[2]).netloc.rpartition("@")[2]
