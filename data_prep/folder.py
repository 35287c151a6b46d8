"""Prepare your own audio, with or without transcripts.

A folder with audio and text files (a.wav, a.txt), a table (CSV, TSV) with the columns `path` and `text`, a
Kaldi data directory (with wav.scp), or a manifest (of this package, NeMo or lhotse).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.errors import UserError, counted
from asr_emapl.storage import check_outputs, read_lines
from asr_emapl.text.needed import AUTO
from data_prep.candidates import Candidate, Prepared, check, preset, settle
from data_prep.kaldi import FILES as KALDI_FILES
from data_prep.kaldi import read_data_dir
from data_prep.table import read_table

NO_TEXT = "none"
"""Value of --text that omits transcripts."""
AUDIO = frozenset((".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav"))
"""Extensions of audio files."""
TABLES = frozenset((".csv", ".tsv"))
"""Extensions of tables."""
UNREADABLE = frozenset((".aac", ".amr", ".m4a", ".mp4", ".sph", ".webm", ".wma"))
"""Extensions of audio files that cannot be decoded; the notes list them."""


def download() -> NoReturn:
    """Raise a UserError, because there is nothing to download."""
    raise UserError("your own audio cannot be downloaded (pass its folder with --data)")


def prepare(
    source: Path,
    destination: Path,
    *,
    name: str = "",
    table: Path | None = None,
    text: str = AUTO,
    like: Path | None = None,
    require_text: bool = False,
    leave_out: bool = False,
    speaker_folders: bool = False,
    workers: int = 2,
) -> Prepared:
    """Verify audio and its transcripts and write a manifest, destination/<name>.jsonl.

    Checks that each file is complete and can be decoded, that each transcript has audio, that either all or
    no audio files have a transcript, and that the preset accepts each normalised text. Any sample rate and
    number of channels are accepted. The notes list resampled and averaged files and changed transcripts.

    Args:
        source: a folder of audio, searched recursively; a folder with one table; a Kaldi data directory; or
            a table or manifest file.
        destination: folder of the manifest; created if missing.
        name: name of the manifest; "" uses the name of the source.
        table: CSV or TSV with the columns `path` (relative to the table's folder) and `text`, and optionally
            `id` and `speaker`; replaces the folder search.
        text: a preset of `asr_emapl.text.normalise`; "auto": inferred from the transcripts; "none": omit the
            transcripts.
        like: with "auto", a manifest whose transcripts decide, so that both get the same alphabet.
        require_text: raise if there are no transcripts at all.
        leave_out: skip invalid utterances instead of raising. A malformed table or inconsistent Kaldi files
            always raise.
        speaker_folders: use the folder name as speaker if the speaker is unknown.
        workers: threads that read headers.

    Raises:
        UserError: there is no audio, there are no transcripts but they are required, or there are faults. The
            first faults are listed, the others counted.
    """
    source = Path(source)
    if text not in (AUTO, NO_TEXT):
        preset(text)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder (pass the folder or file with the audio)")
    # A file may have two extensions (cuts.jsonl.gz); dots in folder names are kept.
    name = name or (source.resolve().name if source.is_dir() else source.name.partition(".")[0])
    path = Path(destination) / f"{name}.jsonl"
    check_outputs([path], [source, table, like, *(source / file for file in KALDI_FILES)])
    notes: list[str] = []
    candidates = _candidates(source, table, notes)
    if speaker_folders:
        candidates = [replace(c, speaker=c.speaker or Path(c.audio).parent.name) for c in candidates]
    if text == NO_TEXT:
        candidates, text = _without_texts(candidates), AUTO
    _require_some(candidates, table or source, require_text=require_text)
    found = check(candidates, None if text == AUTO else preset(text), workers, _texts(like))
    found.notes.extend(notes)
    notes = settle(name, found, leave_out)
    write_manifest(path, found.utterances)
    return Prepared({name: path}, notes)


def _without_texts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates as read, without texts: their only faults are missing or unreadable texts."""
    return [replace(candidate, text=None, fault="") for candidate in candidates]


def _texts(manifest: Path | None) -> list[str] | None:
    return None if manifest is None else [u.text or "" for u in read_manifest(manifest)]


def _require_some(candidates: Sequence[Candidate], place: Path, *, require_text: bool) -> None:
    """Check that there is audio, and if `require_text`, that any of it has a transcript."""
    if not candidates:
        raise UserError(f"{place}: has no audio (known extensions: {', '.join(sorted(AUDIO))})")
    if require_text and all(candidate.text is None and not candidate.fault for candidate in candidates):
        raise UserError(
            f"{place}: {counted(len(candidates), 'audio file')}, but no transcripts (put a .txt file beside "
            "each audio file, or use a CSV or TSV with the columns path and text)"
        )


def _candidates(source: Path, table: Path | None, notes: list[str]) -> list[Candidate]:
    """Return the utterances of any supported source."""
    if table is None and source.is_file():
        if source.suffix.lower() not in TABLES:
            return _from_manifest(source)
        table = source
    if table is None and (source / "wav.scp").is_file():
        return read_data_dir(source)
    if table is None:
        files = sorted(_files(source))
        table = _only_table(source, files)
        if table is None:
            return _from_tree(source, files, notes)
        notes.append(f"transcripts are from {table}")
    return _from_table(table)


def _only_table(source: Path, files: list[Path]) -> Path | None:
    """Return the table of a folder, or None if there is no table or audio files have text files.

    Raises:
        UserError: there are several tables.
    """
    audio = {path.with_suffix("") for path in files if path.suffix.lower() in AUDIO}
    if any(path.suffix.lower() == ".txt" and path.with_suffix("") in audio for path in files):
        return None
    tables = [path for path in files if path.suffix.lower() in TABLES]
    if len(tables) > 1:
        first = tables[0].name
        raise UserError(f"{source}: has {len(tables)} tables, such as {first} (choose one with --table)")
    return tables[0] if tables else None


def _from_manifest(manifest: Path) -> list[Candidate]:
    utterances = read_manifest(manifest)
    packed = next((u.id for u in utterances if u.byte_range is not None), None)
    if packed is not None:
        raise UserError(
            f"{manifest}: {packed} is packed in a shard (use the manifest directly; it needs no preparation)"
        )
    return [
        Candidate(
            u.id,
            u.audio,
            f"{manifest}: {u.id}",
            u.text,
            u.speaker,
            u.offset,
            u.duration,
            u.channel,
            may_be_mono=True,
        )
        for u in utterances
    ]


def _from_table(table: Path) -> list[Candidate]:
    folder = table.absolute().parent
    return [
        Candidate(
            # A path without a name is a folder, which is reported later.
            id=row.cells.get("id") or (path.with_suffix("").as_posix() if path.name else row.place),
            audio=str(folder / path),
            place=row.place,
            text=row.cells["text"],
            speaker=row.cells.get("speaker") or None,
        )
        for row in read_table(table, ["path", "text"])
        for path in [Path(row.cells["path"])]
    ]


def _from_tree(source: Path, files: list[Path], notes: list[str]) -> list[Candidate]:
    """Return one candidate per audio file below a folder. Its id is the relative path without extension."""
    audio = [path for path in files if path.suffix.lower() in AUDIO]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    stems = {path.with_suffix("") for path in audio}
    unreadable = Counter(path.suffix.lower() for path in files if path.suffix.lower() in UNREADABLE)
    if unreadable:
        listed = ", ".join(f"{count} {ending}" for ending, count in sorted(unreadable.items()))
        notes.append(f"skipped files that cannot be decoded: {listed} (convert them to FLAC)")
    orphans = [str(path) for stem, path in texts.items() if stem not in stems]
    if orphans:
        notes.append(f"skipped {len(orphans)} text files without a matching audio file, such as {orphans[0]}")
    is_labelled = not stems.isdisjoint(texts)
    return [
        _beside(path, path.relative_to(source), texts.get(path.with_suffix("")), is_labelled)
        for path in audio
    ]


def _beside(path: Path, name: Path, transcript: Path | None, is_labelled: bool) -> Candidate:
    """Return the candidate for an audio file and its text file."""
    text, fault = None, ""
    if transcript is not None:
        try:
            text = " ".join(line for _, line in read_lines(transcript))
        except UserError as error:
            fault = str(error)
    elif is_labelled:
        fault = "has no text file, while other files do (add it, or move the audio elsewhere)"
    id_ = name.with_suffix("").as_posix()
    return Candidate(id_, str(path.absolute()), str(path), text, fault=fault)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the non-hidden files below a folder. Symbolic links are followed; each folder is visited once."""

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
