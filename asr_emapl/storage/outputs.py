"""What a command writes: refused before any work where it would destroy something, and written whole."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from asr_emapl.errors import UserError
from asr_emapl.storage import files as storage
from asr_emapl.storage.partial_file import open_descriptor

Place = str | os.PathLike[str]

_REMEDIES = {
    errno.ENOSPC: "; free some space or choose another place",
    errno.EDQUOT: "; free some space or choose another place",
    errno.EISDIR: "; name a file",
    errno.EACCES: "; choose another place",
    errno.EROFS: "; choose another place",
}
# fsspec's URLs of local files.
_LOCAL_URL = re.compile(r"(file|local)://")


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Turn an OSError of the block, which writes `place`, into a UserError that names it."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise UserError(f"{place}: cannot be written ({error.strerror or error}){remedy}") from error


def write(place: Place, content: bytes | str | Iterable[str]) -> None:
    """Write a file as `storage.publish` does; text as UTF-8, half a surrogate pair as its escape.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    with writing(place), storage.publish(os.fspath(place)) as file:
        if isinstance(content, bytes):
            file.write(content)
            return
        for piece in [content] if isinstance(content, str) else content:
            file.write(piece.encode("utf-8", "backslashreplace"))


def check_outputs(
    outputs: Sequence[Place], inputs: Iterable[Place | None] = (), *, overwrite: bool = True
) -> None:
    """Refuse outputs that cannot be written or would destroy something. Call it before the work.

    Args:
        outputs: paths or URLs to write.
        inputs: paths or URLs that the command reads; empty ones and None are left out.
        overwrite: whether files that exist may be replaced.

    Raises:
        UserError: an output is an input, by whatever path or link; two outputs are one file; an output is a
            directory, or its folder cannot be written to; or it exists, and is not to be overwritten.
    """
    first: dict[str, Place] = {}
    existing: dict[tuple[int, int], Place] = {}
    replaced: list[Place] = []
    for output in outputs:
        place = _local(output)
        if first.setdefault(_resolved(place), output) is not output:
            raise UserError(f"{output}: would be written twice; name two files")
        if storage.is_url(place):
            continue
        if open_descriptor(Path(place)) is not None:
            existing[_identity(place)] = output
            continue
        with writing(output):
            identity = _check_file(Path(place))
        if identity is not None:
            existing[identity] = output
            replaced.append(output)
    for read in inputs:
        if not read:
            continue
        place = _local(read)
        known = first.get(place) if storage.is_url(place) else existing.get(_identity(place))
        if known is not None:
            raise UserError(f"{known}: is read by this command ({read}); name another file to write")
    if replaced and not overwrite:
        more = f", and so do {len(replaced) - 1} more" if len(replaced) > 1 else ""
        raise UserError(
            f"{replaced[0]}: exists already{more}; name another place, or replace with --overwrite"
        )


def run_files(path: Path) -> list[Path]:
    """The files of a run directory that commands read; of any other path, the path itself."""
    if not path.is_dir():
        return [path]
    names = ("config.yaml", "log.jsonl", "speed.jsonl", "skipped.jsonl")
    return [*(path / name for name in names), *path.glob("checkpoints/*.pt")]


def _local(place: Place) -> str:
    return _LOCAL_URL.sub("", os.fspath(place), count=1)


def _resolved(place: str) -> str:
    return place if storage.is_url(place) else os.path.realpath(place)


def _check_file(path: Path) -> tuple[int, int] | None:
    """Device and inode of a regular file that is to be replaced; None if there is none.

    Raises:
        OSError: it cannot be made or replaced.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if found is not None and not stat.S_ISREG(found.st_mode):
        return None  # written through
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK) or (found is not None and not os.access(path, os.W_OK)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return None if found is None else (found.st_dev, found.st_ino)


def _identity(path: str) -> tuple[int, int]:
    """Device and inode; of what cannot be found, which is told when it is read, those of no file."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return (-1, -1)
    return found.st_dev, found.st_ino
