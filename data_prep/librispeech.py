"""LibriSpeech (Panayotov et al. 2015) and any corpus with its layout: download, verify, write manifests.

<part>/<speaker>/<chapter>/ contains <speaker>-<chapter>-<utterance>.flac (16 kHz, mono) and one file
<speaker>-<chapter>.trans.txt with one line "<id> <TRANSCRIPT>" per utterance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.manifest_writer import write_manifests
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import read_lines
from asr_emapl.text.normalise import ALPHABET, librispeech, outside
from data_prep.archive import Archive, install_parts
from data_prep.candidates import MAX_LINES, probe_all
from data_prep.transfer import fetch

_FOLDER = "LibriSpeech"
_URL = "https://www.openslr.org/resources"


@dataclass(frozen=True, slots=True)
class _Official:
    """An official part: OpenSLR resource number, MD5 of the .tar.gz, and number of utterances."""

    resource: int
    md5: str
    utterances: int


# The MD5s are published with the archives (md5sum.txt). Resource 31 is Mini LibriSpeech.
_OFFICIAL = {
    "dev-clean": _Official(12, "42e2234ba48799c1f50f24a7926300a1", 2_703),
    "dev-clean-2": _Official(31, "6d7ab67ac6a1d2c993d050e16d61080d", 1_089),
    "dev-other": _Official(12, "c8d0bcc9cca99d4f8b62fcc847357931", 2_864),
    "test-clean": _Official(12, "32fa31d27d2e1cad72775fee3f4849a9", 2_620),
    "test-other": _Official(12, "fb5a50374b501bb3bac4815ee91d3135", 2_939),
    "train-clean-5": _Official(31, "5df7d4e78065366204ca6845bb08f490", 1_519),
    "train-clean-100": _Official(12, "2a93770f6d5c6c964bc36631d331a522", 28_539),
    "train-clean-360": _Official(12, "c0e676e450a7ff2f54aeade5171606fa", 104_014),
    "train-other-500": _Official(12, "d1a0fd59409feb2c614ce4d30c387708", 148_688),
}

# SHA-256. 3-gram and 4-gram: from rwth-i6/i6_experiments (common/datasets/librispeech); pruned 3-gram: from
# an experiment based on it.
LANGUAGE_MODELS = {
    "3-gram.pruned.1e-7": "71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb",
    "3-gram": "263649573475c2991d3e755eb4e690c9d2656f2b3283a1eb589e1e4e174bf874",
    "4-gram": "f2b2d1507637ddf459d3579159f7e8099ed7d77452ff1059aeeeaea33d274613",
}
"""Checksums of the language models that `download_language_model` can download."""


def download(destination: Path, parts: Sequence[str]) -> dict[str, Path]:
    """Download official parts from OpenSLR to destination/LibriSpeech/<part>; see `archive.install`.

    A part is complete if it has the official number of utterances, each with a transcript and with audio of
    the length given in its header. The archives stay in `destination` and may be deleted.

    Args:
        destination: created if missing. A part requires twice its archive size (60 GB for train-other-500).
        parts: any of dev-clean, dev-other, test-clean, test-other, train-clean-100, train-clean-360,
            train-other-500 and, from Mini LibriSpeech, train-clean-5 and dev-clean-2.

    Returns:
        The folder of each part.

    Raises:
        UserError: a part is unknown, a transfer fails, or an archive has a wrong MD5, is unsafe or is
            incomplete.
    """
    archives = {
        part: Archive(f"{_URL}/{official.resource}/{part}.tar.gz", official.md5, f"{_FOLDER}/{part}")
        for part, official in _OFFICIAL.items()
    }
    return install_parts("LibriSpeech", archives, parts, Path(destination), _findings)


def download_language_model(destination: Path, name: str) -> Path:
    """Download a word-level n-gram model of LibriSpeech to destination/<name>.arpa.gz, and verify it.

    The vocabulary is the 200,000 most frequent words of the corpus's books, in capitals (openslr.org/11). An
    interrupted transfer resumes.

    Raises:
        UserError: the name is unknown, the transfer fails, or the file cannot be written.
    """
    if name not in LANGUAGE_MODELS:
        raise UserError(f"--name {name!r} is not one of {', '.join(LANGUAGE_MODELS)}")
    path = destination / f"{name}.arpa.gz"
    try:
        destination.mkdir(parents=True, exist_ok=True)
        fetch(f"{_URL}/11/{path.name}", path, LANGUAGE_MODELS[name])
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written: {reason} (check permissions and free space)") from error
    return path


def prepare(
    source: Path, destination: Path, parts: Sequence[str] | None = None, *, workers: int = 2
) -> dict[str, Path]:
    """Verify a corpus in LibriSpeech's layout and write one manifest per part, destination/<part>.jsonl.

    All parts are verified before anything is written. Each transcript must have audio and each audio file a
    transcript. Audio must be complete, 16 kHz, mono. Normalised transcripts must be non-empty and contain
    only characters of `ALPHABET`. Ids must start with the speaker and the chapter of their folder, and be
    unique over all parts. Manifests are sorted by id and written together at the end.

    Args:
        source: the folder that contains the parts, or the one that contains LibriSpeech/.
        destination: folder of the manifests; created if missing.
        parts: folder names; None: all folders.
        workers: threads that read headers.

    Returns:
        The manifest of each part.

    Raises:
        UserError: a part is missing or empty, or has faults. The first 50 faults are listed, the others
            counted.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    destination = Path(destination)
    try:
        folders = _part_folders(Path(source), destination, parts)
        found = _read_parts(folders, workers)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror} (check permissions)") from error
    manifests = {destination / f"{part}.jsonl": utterances for part, utterances in found.items()}
    write_manifests(manifests)
    return dict(zip(folders, manifests, strict=True))


def _part_folders(source: Path, destination: Path, parts: Sequence[str] | None) -> dict[str, Path]:
    """Return the folder of each requested part; the UserError lists all missing parts."""
    root = source / _FOLDER if (source / _FOLDER).is_dir() else source
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (pass the folder that contains the parts or {_FOLDER}/)")
    present = [folder.name for folder in _folders(root)]
    if parts is None:
        # Manifests may be written next to the parts. A folder without speakers is not a part.
        parts = [
            name
            for name in present
            if (root / name).resolve() != destination.resolve() or _folders(root / name)
        ]
    if not parts:
        raise UserError(f"{root}: contains no parts (pass the folder that contains train-clean-100 etc.)")
    remedy = "download it" + (f", or choose from: {', '.join(present)}" if present else "")
    missing = [f"{root}: no part named {part!r} ({remedy})" for part in parts if part not in present]
    if missing:
        raise UserError(list_findings(missing, MAX_LINES))
    return {part: root / part for part in parts}


def _read_parts(folders: dict[str, Path], workers: int) -> dict[str, list[Utterance]]:
    """Return the utterances of each part; the UserError reports the faults of all parts."""
    findings: list[str] = []
    found: dict[str, list[Utterance]] = {}
    first_seen: dict[str, str] = {}
    for name, folder in folders.items():
        found[name] = _read_part(folder, workers, findings)
        for utterance in found[name]:
            other = first_seen.setdefault(utterance.id, utterance.audio)
            if other != utterance.audio:
                findings.append(f"{utterance.audio}: has the same id as {other} (remove one of them)")
    if findings:
        raise UserError(list_findings(findings, MAX_LINES))
    return found


def _findings(part: str, folder: Path) -> list[str]:
    """Return the faults of an official part, one per line."""
    findings: list[str] = []
    count, official = len(_read_part(folder, 2, findings)), _OFFICIAL[part].utterances
    if count != official and not findings:
        findings.append(f"{folder}: found {count} utterances, expected {official}")
    return findings


def _read_part(folder: Path, workers: int, findings: list[str]) -> list[Utterance]:
    """Return the valid utterances of a part, sorted by id; add its faults to `findings`."""
    before = len(findings)
    chapters = [chapter for speaker in _folders(folder) for chapter in _folders(speaker)]
    others = [folder, *_folders(folder), *(deep for chapter in chapters for deep in _folders(chapter))]
    for path in (path for place in others for path in _audio_files(place)):
        findings.append(f"{path}: audio outside <speaker>/<chapter>/ (move or remove it)")

    read = [utterance for chapter in chapters for utterance in _read_chapter(chapter, findings)]
    facts, _ = probe_all((utterance.audio for utterance in read), workers)
    found = []
    for utterance in read:
        fact = facts[utterance.audio]
        if isinstance(fact, str):
            findings.append(fact)
            continue
        duration, rate, channels = fact
        if (rate, channels) != (SAMPLE_RATE_HZ, 1):
            remedy = f"convert it to {SAMPLE_RATE_HZ} Hz, mono"
            findings.append(f"{utterance.audio}: {rate} Hz, {channels} channels ({remedy})")
        elif utterance.text is not None:
            found.append(replace(utterance, duration=duration))
    if not read and len(findings) == before:
        findings.append(f"{folder}: contains no utterances (remove the folder, or download the part again)")
    return sorted(found, key=lambda utterance: utterance.id)


def _read_chapter(chapter: Path, findings: list[str]) -> list[Utterance]:
    """Return one utterance per audio file, without duration; its text is None if it is invalid."""
    speaker = chapter.parent.name
    stem = f"{speaker}-{chapter.name}"
    transcripts = chapter / f"{stem}.trans.txt"
    audio = {path.stem: path for path in _audio_files(chapter)}
    texts: dict[str, str | None] = dict.fromkeys(audio)
    if transcripts.is_file() and transcripts.stat().st_size > 0:
        texts = _read_transcripts(transcripts, findings)
    elif audio:
        fault = "is empty" if transcripts.is_file() else "is missing"
        findings.append(f"{transcripts}: {fault}, for {len(audio)} audio files (extract the archive again)")
    for id_ in sorted(texts.keys() - audio.keys()):
        findings.append(f"{transcripts}: {id_} has no audio (extract {id_}.flac again, or remove the line)")
    for id_, path in audio.items():
        if not id_.startswith(f"{stem}-"):
            findings.append(f"{path}: not named {stem}-<utterance>.flac (rename or move it)")
        if id_ not in texts:
            findings.append(f"{path}: has no transcript (add it to {transcripts.name}, or remove the audio)")
    return [Utterance(id_, str(path.absolute()), 0.0, texts.get(id_), speaker) for id_, path in audio.items()]


def _read_transcripts(path: Path, findings: list[str]) -> dict[str, str | None]:
    """Return the normalised text of each id, or None if it is invalid; add the reason to `findings`."""
    texts: dict[str, str | None] = {}
    try:
        lines = list(read_lines(path))
    except UserError as error:
        findings.append(str(error))
        return texts
    for number, line in lines:
        id_, *words = line.split()
        text = librispeech(" ".join(words))
        characters = outside(text, ALPHABET)
        fault = ""
        if id_ in texts:
            fault = f"second transcript of {id_} (remove one of them)"
        elif not text:
            fault = f"{id_} has an empty transcript (add it, or remove line and audio)"
        elif characters:
            fault = f"characters outside the alphabet: {characters!r} (spell them out)"
        if fault:
            findings.append(f"{path}:{number}: {fault}")
        texts.setdefault(id_, None if fault else text)
    return texts


def _folders(folder: Path) -> list[Path]:
    """Return the non-hidden folders in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def _audio_files(folder: Path) -> list[Path]:
    """Return the FLAC files directly in a folder, sorted by name, without hidden files of file managers."""
    return sorted(
        path for path in folder.iterdir() if path.suffix == ".flac" and not path.name.startswith(".")
    )
