"""LibriSpeech (Panayotov et al. 2015), and any corpus laid out as it is, from the archives to manifests.

The layout: <part>/<speaker>/<chapter>/ holds <speaker>-<chapter>-<utterance>.flac, 16 kHz mono, and one
<speaker>-<chapter>.trans.txt with a line "<id> <TRANSCRIPT>" for each of them.

`download` fetches the official parts; `prepare` verifies all that is on disk before it writes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import probe_whole
from asr_emapl.data.manifest_writer import write_manifests
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import read_lines
from asr_emapl.text.normalise import ALPHABET, librispeech, outside
from data_prep.archive import Archive, demand_known, install

_MAX_LINES = 50
"""Findings that an error report lists before it only counts the rest."""

_FOLDER = "LibriSpeech"
_URL = "https://www.openslr.org/resources"


@dataclass(frozen=True, slots=True)
class _Official:
    """An official part: its resource on OpenSLR, MD5 of its .tar.gz, and number of its utterances."""

    resource: int
    md5: str
    utterances: int


# The MD5s are those that OpenSLR publishes beside the archives (md5sum.txt). Resource 31 is Mini LibriSpeech.
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


@dataclass(slots=True)
class _Part:
    """What was found in one part's folder: good utterances, and one line for each thing that is wrong."""

    utterances: list[Utterance] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def download(destination: Path, parts: Sequence[str]) -> dict[str, Path]:
    """Fetch official parts from OpenSLR to destination/LibriSpeech/<part>.

    A broken transfer resumes where it stopped. A part's folder appears under its name only when the archive
    has the official MD5 and what came out of it is whole: the official number of utterances, each with a
    transcript, audio of the length that its header says, and neither without the other. A part that is there
    is left alone if it is whole (its files have the sizes that were noted when it was verified), else it is
    put back from the archive. The archives stay in `destination` as <part>.tar.gz and may be deleted.

    Args:
        destination: made if missing. A part takes twice its archive's size (60 GB for train-other-500).
        parts: among dev-clean, dev-other, test-clean, test-other, train-clean-100, train-clean-360 and
            train-other-500, and of Mini LibriSpeech train-clean-5 and dev-clean-2.

    Returns:
        The folder of each part.

    Raises:
        UserError: an unknown part, a failed transfer, a wrong MD5, an unsafe or incomplete archive.
    """
    demand_known("LibriSpeech", parts, _OFFICIAL)
    folders = {}
    for part in dict.fromkeys(parts):
        official = _OFFICIAL[part]
        url = f"{_URL}/{official.resource}/{part}.tar.gz"
        archive = Archive(url, official.md5, f"{_FOLDER}/{part}")
        folders[part] = install(
            archive, Path(destination), partial(_findings, utterances=official.utterances)
        )
    return folders


def prepare(
    source: Path, destination: Path, parts: Sequence[str] | None = None, *, workers: int = 2
) -> dict[str, Path]:
    """Verify a corpus in LibriSpeech's layout and write one manifest a part, destination/<part>.jsonl.

    Verified over all parts before anything is written: every transcript has its audio and every audio file
    its transcript; every header can be decoded and says 16 kHz, mono, and a length that is there; no
    transcript is empty or, once normalised, has characters outside `ALPHABET`; ids begin with their folder's
    speaker and chapter and are unique over all parts. Manifests are sorted by id and appear all together.

    Args:
        source: the folder that holds the parts, or the one that holds LibriSpeech/.
        destination: where the manifests go; made if missing.
        parts: folder names; None: every folder there is.
        workers: threads that read headers.

    Returns:
        The manifest of each part.

    Raises:
        UserError: anything above does not hold, or a part is absent or empty. The message lists all that is
            wrong, one line a finding, the first 50 of them and the number of the rest.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, it has to be at least 1")
    destination = Path(destination)
    try:
        folders = _part_folders(Path(source), destination, parts)
        found = _read_parts(folders, workers)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror} (check permissions)") from error
    manifests = {destination / f"{part}.jsonl": utterances for part, utterances in found.items()}
    write_manifests(manifests)
    return dict(zip(folders, manifests, strict=True))


def _read_parts(folders: dict[str, Path], workers: int) -> dict[str, list[Utterance]]:
    """The utterances of each part; UserError reports all that is wrong with all of them."""
    findings: list[str] = []
    found: dict[str, list[Utterance]] = {}
    first_seen: dict[str, str] = {}
    with ThreadPoolExecutor(workers) as pool:
        for name, folder in folders.items():
            part = _read_part(folder, pool)
            findings.extend(part.findings)
            found[name] = part.utterances
            for utterance in part.utterances:
                other = first_seen.setdefault(utterance.id, utterance.audio)
                if other != utterance.audio:
                    findings.append(f"{utterance.audio}: its id is that of {other} too (remove one of them)")
    if findings:
        raise UserError(list_findings(findings, _MAX_LINES))
    return found


def _part_folders(source: Path, destination: Path, parts: Sequence[str] | None) -> dict[str, Path]:
    """The folder of each part asked for; UserError names all that are absent."""
    root = source / _FOLDER if (source / _FOLDER).is_dir() else source
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (name the one that holds the parts, or {_FOLDER}/)")
    if parts is None:
        # Manifests may be written beside the parts: their folder, without speakers, is no part the next time.
        parts = [
            folder.name
            for folder in _folders(root)
            if folder.resolve() != destination.resolve() or _folders(folder)
        ]
    if not parts:
        raise UserError(
            f"{root}: has no folder that could be a part (name the one above train-clean-100 etc.)"
        )
    there = [folder.name for folder in _folders(root)]
    absent = [part for part in parts if part not in there]
    if absent:
        remedy = f"download it, or choose among: {', '.join(there) or '(there is none)'}"
        lines = [f"{root}: no part named {part!r} ({remedy})" for part in absent]
        raise UserError(list_findings(lines, _MAX_LINES))
    return {part: root / part for part in parts}


def _read_part(folder: Path, pool: Executor) -> _Part:
    """All utterances of a part, sorted by id, and all that is wrong with it; `pool` reads the headers."""
    part = _Part()
    chapters = [(speaker, chapter) for speaker in _folders(folder) for chapter in _folders(speaker)]
    elsewhere = [folder, *_folders(folder)]
    elsewhere.extend(deep for _, chapter in chapters for deep in _folders(chapter))
    for path in (path for place in elsewhere for path in _audio_files(place)):
        part.findings.append(f"{path}: audio outside <speaker>/<chapter>/ (move or remove it)")

    candidates: list[Utterance] = []
    for speaker, chapter in chapters:
        candidates.extend(_read_chapter(speaker.name, chapter, part.findings))
    lengths = pool.map(_length, [utterance.audio for utterance in candidates])
    for utterance, length in zip(candidates, lengths, strict=True):
        if isinstance(length, str):
            part.findings.append(length)
        elif utterance.text is not None:
            part.utterances.append(
                Utterance(utterance.id, utterance.audio, length, utterance.text, utterance.speaker)
            )
    part.utterances.sort(key=lambda utterance: utterance.id)
    if not candidates and not part.findings:
        part.findings.append(f"{folder}: has no utterances (remove the folder, or download the part again)")
    return part


def _read_chapter(speaker: str, chapter: Path, findings: list[str]) -> list[Utterance]:
    """One utterance for each audio file, its duration still 0 and its text None where `findings` says why."""
    stem = f"{speaker}-{chapter.name}"
    transcripts = chapter / f"{stem}.trans.txt"
    audio = {path.stem: path for path in _audio_files(chapter)}
    if not transcripts.is_file() or transcripts.stat().st_size == 0:
        if audio:
            fault = "empty" if transcripts.is_file() else "absent"
            findings.append(
                f"{transcripts}: {fault}, for {len(audio)} audio files (extract the archive again)"
            )
        texts: dict[str, str | None] = dict.fromkeys(audio)
    else:
        texts = _read_transcripts(transcripts, findings)
    for id_ in sorted(texts.keys() - audio.keys()):
        findings.append(f"{transcripts}: {id_} has no audio (extract {id_}.flac again, or remove the line)")
    for id_, path in audio.items():
        if not id_.startswith(f"{stem}-"):
            findings.append(
                f"{path}: not named {stem}-<utterance>.flac as its folders ask (rename or move it)"
            )
        if id_ not in texts:
            findings.append(f"{path}: has no transcript (add it to {transcripts.name}, or remove the audio)")
    return [Utterance(id_, str(path.absolute()), 0.0, texts.get(id_), speaker) for id_, path in audio.items()]


def _read_transcripts(path: Path, findings: list[str]) -> dict[str, str | None]:
    """The normalised text for each id; None where it is no good, which `findings` then says."""
    texts: dict[str, str | None] = {}
    try:
        lines = list(read_lines(path))
    except UserError as error:
        findings.append(str(error))
        return texts
    for number, line in lines:
        id_, *words = line.split()
        text = librispeech(" ".join(words))
        letters = outside(text, ALPHABET)
        if id_ in texts:
            findings.append(f"{path}:{number}: second transcript of {id_} (remove one of them)")
        elif not text:
            findings.append(
                f"{path}:{number}: {id_} has an empty transcript (add it, or remove line and audio)"
            )
        elif letters:
            findings.append(f"{path}:{number}: characters outside the alphabet: {letters!r} (spell them out)")
        texts.setdefault(id_, text if text and not letters else None)
    return texts


def _length(audio: str) -> float | str:
    """Duration in seconds of a 16 kHz mono file, or what is wrong with the file."""
    try:
        duration, rate, channels = probe_whole(audio)
    except UserError as error:
        return str(error)
    if (rate, channels) != (SAMPLE_RATE_HZ, 1):
        return f"{audio}: {rate} Hz, {channels} channels (convert it to {SAMPLE_RATE_HZ} Hz, mono)"
    return duration


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, hidden ones left out."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def _audio_files(folder: Path) -> list[Path]:
    """The FLAC files right in a folder, sorted by name, hidden ones (leftovers of file managers) left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix == ".flac" and not path.name.startswith(".")
    )


def _findings(folder: Path, utterances: int) -> list[str]:
    """What is wrong with an official part that has that many utterances, one line a finding."""
    with ThreadPoolExecutor(2) as pool:
        found = _read_part(folder, pool)
    count = len(found.utterances)
    if count != utterances and not found.findings:
        found.findings.append(f"{folder}: {count} utterances, the official part has {utterances}")
    return found.findings
