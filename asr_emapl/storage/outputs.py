"""Check the outputs of a command before it starts."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr_emapl.errors import UserError, listing
from asr_emapl.storage.atomic import Place, open_descriptor, target_mode, writing
from asr_emapl.storage.files import is_url

# fsspec's URLs of local files.
_LOCAL_URL = re.compile(r"(file|local)://")


def check_outputs(
    outputs: Sequence[Place], inputs: Iterable[Place | None] = (), *, overwrite: bool = True
) -> None:
    """Raise an error for outputs that cannot be written or that would overwrite other files.

    Args:
        outputs: paths or URLs to write.
        inputs: paths or URLs that the command reads; empty ones and None are ignored.
        overwrite: whether existing files may be replaced.

    Raises:
        UserError: an output is an input (by any path or link), two outputs are one file, an output is a
            directory, its folder is not writable, or it exists and `overwrite` is False.
    """
    first: dict[str, Place] = {}
    existing: dict[tuple[int, int], Place] = {}
    replaced: list[str] = []
    for output in outputs:
        place = _local(output)
        if first.setdefault(place if is_url(place) else os.path.realpath(place), output) is not output:
            raise UserError(f"{output}: would be written twice; specify two different files")
        if is_url(place):
            continue
        if open_descriptor(Path(place)) is not None:
            existing[_identity(place)] = output
            continue
        with writing(output):
            is_replaced = _check_file(Path(place))
        if is_replaced:
            existing[_identity(place)] = output
            replaced.append(str(output))
    for read in inputs:
        if not read:
            continue
        place = _local(read)
        known = first.get(place) if is_url(place) else existing.get(_identity(place))
        if known is not None:
            raise UserError(f"{known}: is read by this command ({read}); specify another output file")
    if replaced and not overwrite:
        raise UserError(
            f"{listing(replaced, 1)}: already exists; specify another output, or replace it with --overwrite"
        )


def _local(place: Place) -> str:
    return _LOCAL_URL.sub("", os.fspath(place), count=1)


def _check_file(path: Path) -> bool:
    """Return whether a regular file would be replaced. Raise OSError if it cannot be created or replaced."""
    mode = target_mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        return False  # a device or a pipe is written directly
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return mode is not None


def _identity(path: str) -> tuple[int, int]:
    """Device and inode of a file; (-1, -1) if it is missing, which is reported when it is read."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return (-1, -1)
    return found.st_dev, found.st_ino
