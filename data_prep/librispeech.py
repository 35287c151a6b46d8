"""LibriSpeech (Panayotov et al. 2015), and any corpus laid out as it is, from the archives to manifests.

The layout: <part>/<speaker>/<chapter>/ holds <speaker>-<chapter>-<utterance>.flac, 16 kHz mono, and one
<speaker>-<chapter>.trans.txt with a line "<id> <TRANSCRIPT>" for each of them.

`download` fetches the official parts; `prepare` verifies all that is on disk before it writes anything.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import URLError

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import probe
from asr_emapl.data.manifest import Utterance, report, write_manifests
from asr_emapl.errors import UserError
from asr_emapl.text.normalise import ALPHABET, librispeech, outside

_MAX_LINES = 50
"""Findings that an error report lists before it only counts the rest."""

_FOLDER = "LibriSpeech"
_URL = "https://www.openslr.org/resources/12/"


@dataclass(frozen=True, slots=True)
class _Archive:
    """What an official part has to be: the SHA-256 of its .tar.gz and the number of its utterances."""

    sha256: str
    utterances: int


# The hashes are the ones torchaudio.datasets.LIBRISPEECH checks against.
_ARCHIVES = {
    "dev-clean": _Archive("76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 2_703),
    "dev-other": _Archive("12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365", 2_864),
    "test-clean": _Archive("39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 2_620),
    "test-other": _Archive("d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29", 2_939),
    "train-clean-100": _Archive("d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 28_539),
    "train-clean-360": _Archive("146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf", 104_014),
    "train-other-500": _Archive("ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2", 148_688),
}


@dataclass(slots=True)
class _Part:
    """What was found in one part's folder: good utterances, and one line for each thing that is wrong."""

    utterances: list[Utterance] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def download(destination: Path, parts: Sequence[str]) -> dict[str, Path]:
    """Fetch official parts from OpenSLR to destination/LibriSpeech/<part>.

    A part's folder appears under its name only when the archive has the right SHA-256 and what came out of
    it is whole: the official number of utterances, each with a transcript and a readable header. A part that
    is there already is verified in the same way and then left alone. The archives stay in `destination` as
    <part>.tar.gz and may be deleted.

    Args:
        destination: made if missing. A part takes twice its archive's size (60 GB for train-other-500).
        parts: among dev-clean, dev-other, test-clean, test-other, train-clean-100, train-clean-360 and
            train-other-500.

    Returns:
        The folder of each part.

    Raises:
        UserError: an unknown part, a failed transfer, a wrong hash, an unsafe or incomplete archive.
    """
    destination = Path(destination)
    known = ", ".join(_ARCHIVES)
    unknown = sorted(set(parts) - set(_ARCHIVES))
    if unknown or not parts:
        raise UserError(f"LibriSpeech: no part {', '.join(unknown) or 'given'} (choose among: {known})")
    try:
        destination.mkdir(parents=True, exist_ok=True)
        return {part: _download_part(destination, part, _ARCHIVES[part]) for part in dict.fromkeys(parts)}
    except OSError as error:
        raise UserError(
            f"{error.filename or destination}: {error.strerror or error} (check permissions and free space)"
        ) from error


def prepare(
    source: Path, destination: Path, parts: Sequence[str] | None = None, *, workers: int = 2
) -> dict[str, Path]:
    """Verify a corpus in LibriSpeech's layout and write one manifest a part, destination/<part>.jsonl.

    Verified over all parts before anything is written: every transcript has its audio and every audio file
    its transcript; every header can be decoded and says 16 kHz, mono; no transcript is empty or, once
    normalised, holds letters outside `ALPHABET`; ids begin with their folder's speaker and chapter and are
    unique over all parts. Manifests are sorted by id and appear all together.

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
        raise UserError(report(findings, _MAX_LINES))
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
            f"{root}: holds no folder that could be a part (name the one above train-clean-100 etc.)"
        )
    there = [folder.name for folder in _folders(root)]
    absent = [part for part in parts if part not in there]
    if absent:
        remedy = f"download it, or choose among: {', '.join(there) or '(there is none)'}"
        lines = [f"{root}: no part named {part!r} ({remedy})" for part in absent]
        raise UserError(report(lines, _MAX_LINES))
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
        part.findings.append(f"{folder}: holds no utterances (remove the folder, or download the part again)")
    return part


def _read_chapter(speaker: str, chapter: Path, findings: list[str]) -> list[Utterance]:
    """One utterance for each audio file, its duration still 0 and its text None where `findings` says why."""
    stem = f"{speaker}-{chapter.name}"
    transcripts = chapter / f"{stem}.trans.txt"
    audio = {path.stem: path for path in _audio_files(chapter)}
    if not transcripts.is_file():
        if audio:
            findings.append(
                f"{transcripts}: absent, for {len(audio)} audio files (extract the archive again)"
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
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        findings.append(f"{path}: not UTF-8 (extract the archive again, or save the file as UTF-8)")
        return texts
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
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
            findings.append(f"{path}:{number}: letters outside the alphabet: {letters!r} (spell them out)")
        texts.setdefault(id_, text if text and not letters else None)
    return texts


def _length(audio: str) -> float | str:
    """Duration in seconds of a 16 kHz mono file, or what is wrong with the file."""
    try:
        duration, rate, channels = probe(audio)
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


def _download_part(destination: Path, part: str, archive: _Archive) -> Path:
    """The verified folder of one part, fetched and extracted if it is not there."""
    target = destination / _FOLDER / part
    path = destination / f"{part}.tar.gz"
    if target.is_dir():
        _verify_download(target, path, archive)
        return target
    _fetch(path, archive)
    # Extracted beside the target and renamed last: the final name is the mark that a part is whole.
    with tempfile.TemporaryDirectory(dir=destination, prefix=f".{part}-") as scratch:
        _extract(path, Path(scratch))
        extracted = Path(scratch) / _FOLDER / part
        if not extracted.is_dir():
            raise UserError(f"{path}: holds no {_FOLDER}/{part} (delete the archive and download again)")
        _verify_download(extracted, path, archive)
        target.parent.mkdir(exist_ok=True)
        # SPEAKERS.TXT, LICENSE.TXT and the like: the same in every archive.
        for document in (Path(scratch) / _FOLDER).iterdir():
            if document.is_file() and not (target.parent / document.name).exists():
                document.replace(target.parent / document.name)
        extracted.replace(target)
    return target


def _fetch(path: Path, archive: _Archive) -> None:
    """Have the archive at `path` with the right hash: as it is there, else from OpenSLR."""
    if path.exists():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != archive.sha256:
            raise UserError(
                f"{path}: its SHA-256 is not that of the official archive (delete it and download again)"
            )
        return

    from torch.hub import download_url_to_file

    url = _URL + path.name
    try:
        # Written under a temporary name and renamed only with the right hash.
        download_url_to_file(url, str(path), hash_prefix=archive.sha256)
    except RuntimeError as error:
        raise UserError(f"{url}: broken in transfer: {error} (download again)") from error
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"{url}: cannot be fetched: {error} (check the network, then download again)"
        ) from error


def _extract(path: Path, folder: Path) -> None:
    """Unpack an archive of files and folders; nothing in it can land outside `folder`.

    By hand, since tarfile's own filter is absent from Pythons that systems still ship (3.10.11, 3.11.3).
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                _extract_member(tar, member, folder)
    # EOFError: a gzip stream that breaks off.
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path}: cannot be extracted: {error} (delete the archive and download again)"
        ) from error


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts:
        raise tarfile.TarError(f"{member.name!r} would lie outside")
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


def _verify_download(folder: Path, path: Path, archive: _Archive) -> None:
    """UserError unless the folder, extracted from the archive at `path`, is a whole official part."""
    with ThreadPoolExecutor(2) as pool:
        found = _read_part(folder, pool)
    count = len(found.utterances)
    if count != archive.utterances and not found.findings:
        found.findings.append(f"{folder}: {count} utterances, the official part has {archive.utterances}")
    if found.findings:
        target = path.parent / _FOLDER / folder.name
        lines = [
            f"{folder.name}: not whole (remove {target} and {path}, then download again)",
            *found.findings,
        ]
        raise UserError(report(lines, _MAX_LINES))
