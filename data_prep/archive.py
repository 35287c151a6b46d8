"""Corpora that come as tar archives: fetched, extracted safely, verified, mended where they are broken."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import publish, read_object
from data_prep.transfer import fetch

_logger = logging.getLogger(__name__)

_MAX_LINES = 50
"""Findings that an error report lists before it only counts the rest."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Where an archive is, its MD5 (hexadecimal), and the folder in it that is wanted (a/b)."""

    url: str
    md5: str
    folder: str


def demand_known(corpus: str, parts: Collection[str], known: Collection[str]) -> None:
    """UserError unless parts are named, and all of them are among those known."""
    unknown = sorted(set(parts) - set(known))
    if unknown or not parts:
        raise UserError(
            f"{corpus}: no part {', '.join(unknown) or 'given'} (choose among: {', '.join(known)})"
        )


def install(archive: Archive, destination: Path, verify: Callable[[Path], list[str]]) -> Path:
    """Have the archive's folder, whole, at destination/<archive.folder>.

    The folder gets its name only when `verify` has found nothing wrong with it; the sizes of its files are
    then noted beside it, in .<name>.sizes.json. With that note a later call looks at the sizes alone and
    leaves it at that: nothing is fetched, read or verified again. Without it, a folder that is there is
    verified. What is broken is named on stderr and put back from the archive, file by file; files that the
    archive does not have are left alone. The archive stays in `destination` and may be deleted.

    Args:
        archive: what to install.
        destination: where; made if missing. Takes the archive's size and that of what it holds.
        verify: what is wrong with the folder it is given, one line a finding.

    Raises:
        UserError: a failed transfer, an archive that is unsafe or lacks the folder, findings in what was
            extracted, a full disk.
    """
    try:
        return _install(archive, destination, verify)
    except OSError as error:
        raise UserError(
            f"{error.filename or destination}: {error.strerror or error} (check permissions and free space, "
            "then download again)"
        ) from error


def extract(path: Path, folder: Path) -> None:
    """Unpack an archive of files and folders; nothing in it can land outside `folder`.

    By hand, since tarfile's own filter is absent from Pythons that systems still ship (3.10.11, 3.11.3).

    Raises:
        UserError: the archive is broken, or holds a link, a device, or a path that leads outside.
        OSError: a file cannot be written.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _extract_member(tar, member, folder)
    # EOFError: a gzip stream that breaks off.
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path}: cannot be extracted: {error} (delete the archive and download again)"
        ) from error


def _install(archive: Archive, destination: Path, verify: Callable[[Path], list[str]]) -> Path:
    target = destination / archive.folder
    is_there = target.is_dir()
    if is_there:
        findings = _changes(target)
        if findings == []:
            return target
        if findings is None:
            findings = verify(target)
        if not findings:
            _note_sizes(target)
            return target
        _logger.warning(f"{target}: not whole, put back from the archive:\n{list_findings(findings)}")
    destination.mkdir(parents=True, exist_ok=True)
    path = destination / archive.url.rsplit("/", 1)[1]
    fetch(archive.url, path, archive.md5)
    scratch = destination / f".{path.name}.extracted"
    shutil.rmtree(scratch, ignore_errors=True)  # of a call that was killed
    try:
        extract(path, scratch)
        extracted = scratch / archive.folder
        if not extracted.is_dir():
            raise UserError(f"{path}: has no {archive.folder} (delete the archive and download again)")
        if is_there:
            _put_back(extracted, target)
        _demand_whole(target if is_there else extracted, path, verify)
        target.parent.mkdir(parents=True, exist_ok=True)
        # SPEAKERS.TXT, LICENSE.TXT and the like: the same in every archive.
        for document in extracted.parent.iterdir():
            if document.is_file() and not (target.parent / document.name).exists():
                document.replace(target.parent / document.name)
        if hasattr(os, "sync"):
            os.sync()  # contents first, then the name that vouches for them
        if not is_there:
            extracted.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _note_sizes(target)
    return target


def _demand_whole(folder: Path, path: Path, verify: Callable[[Path], list[str]]) -> None:
    findings = verify(folder)
    if findings:
        head = f"{path}: what came out of it is not whole (remove what is surplus, then download again):"
        raise UserError(list_findings([head, *findings], _MAX_LINES))


def _put_back(extracted: Path, target: Path) -> None:
    """Replace each file in `target` by the one in `extracted`; those that are only in `target` stay."""
    for path in sorted(extracted.rglob("*")):
        place = target / path.relative_to(extracted)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        raise tarfile.TarError(f"{member.name!r} would be outside")
    target = folder.joinpath(*parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _sizes_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.sizes.json")


def _changes(folder: Path) -> list[str] | None:
    """What differs from the sizes noted, a line a file; None if none are noted."""
    try:
        noted = read_object(_sizes_file(folder), "sizes")
    except UserError:
        return None
    found = dict(_sizes(folder))
    return [
        f"{folder / name}: {found.get(name, 'no')} bytes instead of {size}"
        for name, size in noted.items()
        if found.get(name) != size
    ]


def _note_sizes(folder: Path) -> None:
    """Note the sizes of all files. On a disk that is read-only or full there is no note, and no harm done."""
    with suppress(OSError), publish(str(_sizes_file(folder))) as file:
        file.write(json.dumps(dict(_sizes(folder))).encode())


def _sizes(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every file below a folder, named from there, and its size in bytes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _sizes(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat().st_size
