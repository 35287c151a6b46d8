"""Any folder of audio, with transcripts or without.

The transcripts are text files beside the audio (a.wav, a.txt), or a table (CSV, TSV) with the columns `path`
and `text`, or the folder is one of Kaldi's data directories (it holds wav.scp).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.errors import UserError
from asr_emapl.storage import check_outputs, read_lines
from data_prep.candidates import Candidate, Prepared, check, preset, settle
from data_prep.kaldi import FILES as KALDI_FILES
from data_prep.kaldi import read_data_dir
from data_prep.table import read_table

AUDIO = frozenset((".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"))
"""Endings of files that are taken for audio."""
UNREADABLE = frozenset((".aac", ".amr", ".m4a", ".mp4", ".sph", ".webm", ".wma"))
"""Endings of audio that cannot be decoded here: said, so that it is not missed."""


def download() -> NoReturn:
    """There is nothing to fetch: a UserError says so."""
    raise UserError("a folder of audio is your own: there is nothing to download (name it with --data)")


def prepare(
    source: Path,
    destination: Path,
    *,
    name: str = "",
    table: Path | None = None,
    text: str = "librispeech",
    leave_out: bool = False,
    workers: int = 2,
) -> Prepared:
    """Verify a folder of audio and write its manifest, destination/<name>.jsonl.

    Every file is whole and decodable, each transcript has its audio and each audio file its transcript (or
    none has one), and each text, once normalised, is spelled as the preset asks. Any sample rate and number
    of channels will do; the notes say what is resampled or averaged when it is read.

    Args:
        source: the folder, searched with all folders in it; or a Kaldi data directory.
        destination: where the manifest goes; made if missing.
        name: of the manifest; "" for the folder's.
        table: CSV or TSV with the columns `path` (relative to the table's folder) and `text`, and `id` and
            `speaker` if wanted; instead of a search.
        text: the preset of `asr_emapl.text.normalise`.
        leave_out: leave utterances with faults out instead of raising. A malformed table, or Kaldi's files
            that do not go together, raise in any case.
        workers: threads that read headers.

    Raises:
        UserError: there is no audio; or faults, the first of them listed, the rest counted.
    """
    source = Path(source)
    spelling = preset(text)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder (name the one that holds the audio)")
    name = name or source.resolve().name
    path = Path(destination) / f"{name}.jsonl"
    check_outputs([path], [table, *(source / file for file in KALDI_FILES)])
    notes: list[str] = []
    if table is not None:
        candidates = _from_table(Path(table))
    elif (source / "wav.scp").is_file():
        candidates = read_data_dir(source)
    else:
        candidates = _from_tree(source, notes)
    if not candidates:
        raise UserError(f"{table or source}: names no audio (endings known: {', '.join(sorted(AUDIO))})")
    found = check(candidates, spelling, workers)
    found.notes.extend(notes)
    notes = settle(name, found, leave_out)
    write_manifest(path, found.utterances)
    return Prepared({name: path}, notes)


def _from_table(table: Path) -> list[Candidate]:
    folder = table.absolute().parent
    return [
        Candidate(
            # A path without a name is that of a folder, which is reported as such.
            id=row.cells.get("id") or (path.with_suffix("").as_posix() if path.name else row.place),
            audio=str(folder / path),
            place=row.place,
            text=row.cells["text"],
            speaker=row.cells.get("speaker") or None,
        )
        for row in read_table(table, ["path", "text"])
        for path in [Path(row.cells["path"])]
    ]


def _from_tree(source: Path, notes: list[str]) -> list[Candidate]:
    """A candidate for each audio file below a folder, named by its path from there without the ending."""
    files = sorted(_files(source))
    audio = [path for path in files if path.suffix.lower() in AUDIO]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    stems = {path.with_suffix("") for path in audio}
    unreadable = Counter(path.suffix.lower() for path in files if path.suffix.lower() in UNREADABLE)
    if unreadable:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(unreadable.items()))
        notes.append(f"passed over, for they cannot be decoded: {listed} (convert them to FLAC)")
    orphans = [str(path) for stem, path in texts.items() if stem not in stems]
    if orphans:
        notes.append(f"{len(orphans)} text files without audio of their name, passed over: {orphans[0]} ...")
    is_labelled = not stems.isdisjoint(texts)
    return [
        _beside(path, path.relative_to(source), texts.get(path.with_suffix("")), is_labelled)
        for path in audio
    ]


def _beside(path: Path, name: Path, transcript: Path | None, is_labelled: bool) -> Candidate:
    """The candidate of one audio file, with the text file beside it."""
    text, fault = None, ""
    if transcript is not None:
        try:
            text = " ".join(line for _, line in read_lines(transcript))
        except UserError as error:
            fault = str(error)
    elif is_labelled:
        fault = "has no text file beside it, as others have (add it, or move the audio elsewhere)"
    id_ = name.with_suffix("").as_posix()
    return Candidate(id_, str(path.absolute()), str(path), text, fault=fault)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones left out; links are followed, each folder is visited once."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror} (check permissions)") from error

    visited: set[Path] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(place).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))
