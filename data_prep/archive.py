"""Corpora in tar archives: download, extract safely, verify, and repair damaged files."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import publish, read_object
from data_prep.candidates import MAX_LINES
from data_prep.transfer import fetch

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Archive:
    """URL and MD5 (hexadecimal) of an archive, and the folder inside it to install (a/b)."""

    url: str
    md5: str
    folder: str


def install_parts(
    corpus: str,
    archives: Mapping[str, Archive],
    parts: Sequence[str],
    destination: Path,
    verify: Callable[[str, Path], list[str]],
) -> dict[str, Path]:
    """Install parts of a corpus with `install`, and return their folders.

    Args:
        archives: archives of all parts of the corpus, by part name.
        verify: returns the faults of a part in a folder, one line per fault.

    Raises:
        UserError: no parts are given, or some are unknown; see also `install`.
    """
    unknown = sorted(set(parts) - set(archives))
    if unknown or not parts:
        raise UserError(
            f"{corpus}: no part {', '.join(unknown) or 'given'} (choose from: {', '.join(archives)})"
        )
    return {
        part: install(archives[part], destination, partial(verify, part)) for part in dict.fromkeys(parts)
    }


def install(archive: Archive, destination: Path, verify: Callable[[Path], list[str]]) -> Path:
    """Install the folder of an archive as destination/<archive.folder>.

    The folder is renamed to its final name when `verify` finds no faults. File sizes are then recorded next
    to it, in .<name>.sizes.json; later calls only compare the sizes. An existing folder without this record
    is verified. Faults are logged, and damaged files are restored from the archive; files that are not in the
    archive are kept. The archive remains in `destination` and can be deleted.

    Args:
        destination: created if missing. Requires space for the archive and its content.
        verify: returns the faults of a folder, one line per fault.

    Raises:
        UserError: the transfer fails, the archive is unsafe or does not contain the folder, the extracted
            files have faults, or the disk is full.
    """
    try:
        return _install(archive, destination, verify)
    except OSError as error:
        raise UserError(
            f"{error.filename or destination}: {error.strerror or error} (check permissions and free space, "
            "then download again)"
        ) from error


def extract(path: Path, folder: Path) -> None:
    """Extract an archive into `folder`; never write outside it.

    tarfile's own filter is not used, because some Python versions lack it (3.10.11, 3.11.3).

    Raises:
        UserError: the archive is damaged, or contains a link, a device, or a path outside `folder`.
        OSError: a file cannot be written.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _extract_member(tar, member, folder)
    # EOFError: a truncated gzip stream.
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
            _record_sizes(target)
            return target
        _logger.warning(f"{target}: incomplete; restoring from the archive:\n{list_findings(findings)}")
    destination.mkdir(parents=True, exist_ok=True)
    path = destination / archive.url.rsplit("/", 1)[1]
    fetch(archive.url, path, archive.md5)
    scratch = destination / f".{path.name}.extracted"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
    try:
        extract(path, scratch)
        extracted = scratch / archive.folder
        if not extracted.is_dir():
            raise UserError(f"{path}: {archive.folder} is missing (delete the archive and download again)")
        if is_there:
            _restore(extracted, target)
        _require_complete(target if is_there else extracted, path, verify)
        target.parent.mkdir(parents=True, exist_ok=True)
        # SPEAKERS.TXT, LICENSE.TXT etc. are the same in every archive.
        for document in extracted.parent.iterdir():
            if document.is_file() and not (target.parent / document.name).exists():
                document.replace(target.parent / document.name)
        if hasattr(os, "sync"):
            os.sync()  # flush file contents to disk before the rename
        if not is_there:
            extracted.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _record_sizes(target)
    return target


def _require_complete(folder: Path, path: Path, verify: Callable[[Path], list[str]]) -> None:
    findings = verify(folder)
    if findings:
        head = f"{path}: extracted files are invalid (remove surplus files, then download again):"
        raise UserError(list_findings([head, *findings], MAX_LINES))


def _restore(extracted: Path, target: Path) -> None:
    """Move each file from `extracted` to `target`; other files in `target` are kept."""
    for path in sorted(extracted.rglob("*")):
        place = target / path.relative_to(extracted)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            path.replace(place)


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        raise tarfile.TarError(f"{member.name!r} is outside the archive's folder")
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
    """Return one line per file whose size differs from the recorded one; None if there is no record."""
    try:
        recorded = read_object(_sizes_file(folder), "sizes")
    except UserError:
        return None
    found = dict(_sizes(folder))
    return [
        f"{folder / name}: expected {size} bytes, found {found.get(name, 'no file')}"
        for name, size in recorded.items()
        if found.get(name) != size
    ]


def _record_sizes(folder: Path) -> None:
    """Record the sizes of all files. Failures, for example a full disk, are harmless and ignored."""
    with suppress(OSError), publish(str(_sizes_file(folder))) as file:
        file.write(json.dumps(dict(_sizes(folder))).encode())


def _sizes(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield relative path and size in bytes of each file below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _sizes(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat().st_size
