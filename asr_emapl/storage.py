"""Files by path or URL: read by ranges of bytes, and written so that a name stands for a whole file.

Local files go through the system's own calls; fsspec, loaded at the first URL, serves the rest (s3://, gs://,
https://, memory:// and so on). Whatever goes wrong, with a URL too, is an OSError.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

# Local files that a process keeps open, well below the 1,024 that systems allow it.
_OPEN_FILES = 128
# Between the attempts to read from a URL, in seconds: a run of days is not to end with one lost connection.
_PAUSES_S = (1.0, 5.0)

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
        with Path(place).open("rb") as file:
            file.seek(start)
            return file.read()
    return _descriptor(place).read(start, length)


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

    A local one grows beside its place, whose folder is made; one for a URL in the system's folder for
    temporary files.
    """
    if is_url(place):
        with tempfile.NamedTemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.flush()
            _remote(place, lambda fs, path: fs.put_file(file.name, path))
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as local:
            yield local
            local.flush()
            os.fsync(local.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the renames in it survive a power cut, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Descriptor:
    """An open local file. Reads name their position, so that threads and forked processes can share it."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def read(self, start: int, length: int) -> bytes:
        """One call gives 2 GiB at the most, and may give less than was asked for."""
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
        except (FileNotFoundError, PermissionError):
            raise
        # ValueError: an unknown protocol; ImportError: one whose package is not installed.
        except (ImportError, NotImplementedError, ValueError) as error:
            raise OSError(f"{error}") from error
        # Each file system has exceptions of its own.
        except Exception as error:
            if pause is None:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")
