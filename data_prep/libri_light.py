"""Libri-Light (Kahn et al. 2020): audiobooks without transcripts, cut where nobody speaks.

The layout: <part>/<speaker>/<book>/ holds files of minutes to hours, <name>.flac, 16 kHz mono, and for each
of them <name>.json, which says where speech is: `voice_activity`, a list of [start, end] in seconds.

Nothing is copied: an utterance of the manifest is a stretch (`offset`, `duration`) of the original file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from asr_emapl.data.manifest_writer import write_manifests
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import read_object
from data_prep.archive import Archive, demand_known, install
from data_prep.candidates import MAX_LINES, Prepared, probe_all

# Addresses and MD5s as the corpus's own instructions (github.com/facebookresearch/libri-light) give them.
_URL = "https://dl.fbaipublicfiles.com/librilight/data"
_MD5 = {
    "small": "c49207eb86a8e8ac895561c37232041e",
    "medium": "c75e7ac62471bfbf2db77528d62a9b74",
    "large": "4dfbac018f50b99797ece101fc9f0c30",
}

_SLACK_S = 0.5
"""Seconds by which speech may end after its file, for what a detector's frames add; it is cut off there."""
_MAX_PAUSE_S = 1.0
"""A longer silence is left out, and parts two segments."""

Stretch = tuple[float, float]
"""Start and end, seconds."""


def download(destination: Path, parts: Sequence[str], *, workers: int = 2) -> dict[str, Path]:
    """Fetch small (577 h, 35 GB), medium (5,193 h, 321 GB), large (51,934 h, 3.05 TB) to destination/<part>.

    As `data_prep.archive.install` does it: resumed, checked, whole or not there, nothing done twice. Disk
    space for twice the archive is needed.

    Returns:
        The folder of each part.

    Raises:
        UserError: an unknown part, a failed transfer, a wrong MD5, an unsafe or incomplete archive.
    """
    demand_known("Libri-Light", parts, _MD5)

    def findings(folder: Path) -> list[str]:
        facts, _ = probe_all((str(path) for path in sorted(folder.rglob("*.flac"))), workers)
        faults = [fact for fact in facts.values() if isinstance(fact, str)]
        jsons = {str(path.with_suffix(".flac")) for path in folder.rglob("*.json")}
        faults += [f"{path}: has no audio (download again)" for path in sorted(jsons - set(facts))]
        faults += [f"{path}: has no json (download again)" for path in sorted(set(facts) - jsons)]
        return faults or ([] if facts else [f"{folder}: has no audio (download again)"])

    return {
        part: install(Archive(f"{_URL}/{part}.tar", _MD5[part], part), Path(destination), findings)
        for part in dict.fromkeys(parts)
    }


def prepare(
    source: Path,
    destination: Path,
    parts: Sequence[str] | None = None,
    *,
    max_seconds: float = 20.0,
    min_seconds: float = 1.0,
    use_voice_activity: bool = True,
    leave_out: bool = False,
    workers: int = 2,
) -> Prepared:
    """Verify parts and write one manifest of unlabelled segments a part, destination/<part>.jsonl.

    Stretches of speech are joined, pauses of up to 1 s included, for as long as a segment stays within
    `max_seconds`; what is longer without a pause is cut into equal pieces. Segments under `min_seconds` are
    left out. The notes give the hours of segments, of speech, and of all audio.

    Args:
        source: the folder that holds the parts.
        destination: where the manifests go; made if missing.
        parts: folder names; None: those of small, medium, large that are there.
        max_seconds: the longest segment.
        min_seconds: the shortest.
        use_voice_activity: False: cut whole files, silence and all, into equal pieces; no json is needed.
        leave_out: leave files with faults out instead of raising.
        workers: threads that read headers.

    Raises:
        UserError: a part is absent; or audio that is broken or json that is absent or malformed, the first
            of them listed, the rest counted.
        ValueError: not 0 < min_seconds <= max_seconds.
    """
    if not 0 < min_seconds <= max_seconds < math.inf:
        raise ValueError(f"segments from {min_seconds} to {max_seconds} s: not 0 < shortest <= longest")
    folders = _part_folders(Path(source), parts)
    found: dict[Path, list[Utterance]] = {}
    notes: list[str] = []
    for part, folder in folders.items():
        speech, faults, part_notes = _read_part(folder, use_voice_activity, workers)
        if faults and not leave_out:
            head = f"{part}: {len(faults)} files with faults (fix them, or --leave-out these):"
            raise UserError(list_findings([head, *faults], MAX_LINES))
        if faults:
            notes.append(list_findings([f"{part}: left out {len(faults)} files:", *faults], 6))
        utterances = [
            utterance
            for path, stretches in speech.items()
            for utterance in _utterances(path, segments(stretches, max_seconds, min_seconds))
        ]
        hours = sum(utterance.duration for utterance in utterances) / 3600
        notes.append(f"{part}: {len(utterances)} segments, {hours:.2f} h, of {', '.join(part_notes)}")
        found[Path(destination) / f"{part}.jsonl"] = utterances
    write_manifests(found)
    return Prepared(dict(zip(folders, found, strict=True)), notes)


def segments(speech: Sequence[Stretch], max_seconds: float, min_seconds: float) -> list[Stretch]:
    """Join stretches of speech, sorted and apart from one another, to segments of at most `max_seconds`."""
    joined: list[Stretch] = []
    for start, end in speech:
        pieces = math.ceil((end - start) / max_seconds)
        edges = [start + (end - start) * piece / pieces for piece in range(pieces)]
        for first, last in zip(edges, [*edges[1:], end], strict=True):
            before = joined[-1] if joined else None
            if before and first - before[1] <= _MAX_PAUSE_S and last - before[0] <= max_seconds:
                joined[-1] = (before[0], last)
            else:
                joined.append((first, last))
    return [(start, end) for start, end in joined if end - start >= min_seconds]


def _part_folders(source: Path, parts: Sequence[str] | None) -> dict[str, Path]:
    wanted = [part for part in _MD5 if (source / part).is_dir()] if parts is None else list(parts)
    absent = [part for part in wanted if not (source / part).is_dir()]
    if absent or not wanted:
        raise UserError(
            f"{source}: no part {', '.join(absent) or 'called small, medium or large'} (download it, or name "
            "the folder above it)"
        )
    return {part: source / part for part in wanted}


def _read_part(
    folder: Path, use_voice_activity: bool, workers: int
) -> tuple[dict[Path, list[Stretch]], list[str], list[str]]:
    """Where there is speech in each file of a part; what is wrong; and what is worth knowing."""
    paths = [path.absolute() for path in sorted(folder.glob("*/*/*.flac"))]
    facts, audio_notes = probe_all(map(str, paths), workers)
    speech: dict[Path, list[Stretch]] = {}
    faults: list[str] = []
    seconds = 0.0
    for path in paths:
        known = facts[str(path)]
        try:
            if isinstance(known, str):
                raise UserError(known)
            speech[path] = _speech(path, known[0]) if use_voice_activity else [(0.0, known[0])]
            seconds += known[0]
        except UserError as error:
            faults.append(str(error))
    spoken = sum(end - start for stretches in speech.values() for start, end in stretches)
    notes = [f"{spoken / 3600:.2f} h of speech in {seconds / 3600:.2f} h", *audio_notes]
    return speech, faults, notes


def _speech(path: Path, length: float) -> list[Stretch]:
    """Where the json beside an audio file of `length` seconds says that speech is: sorted, apart."""
    place = path.with_suffix(".json")
    if not place.exists():
        raise UserError(f"{place}: absent (fetch it again, or cut without it: --no-voice-activity)")
    remedy = "fetch it again, or --no-voice-activity"
    try:
        stretches = read_object(place, f"voice_activity ({remedy})")["voice_activity"]
        pairs = sorted((float(start), float(end)) for start, end in stretches)
    except (ValueError, OverflowError, TypeError, KeyError):
        raise UserError(f"{place}: no voice_activity as [start, end] in seconds ({remedy})") from None
    if any(not 0 <= start <= end <= length + _SLACK_S for start, end in pairs):
        raise UserError(f"{place}: speech outside the {length:.2f} s of audio (fetch both again)")
    speech: list[Stretch] = []
    for start, end in pairs:
        end = min(end, length)
        if speech and start <= speech[-1][1]:
            speech[-1] = (speech[-1][0], max(end, speech[-1][1]))
        elif start < end:
            speech.append((start, end))
    return speech


def _utterances(path: Path, stretches: Sequence[Stretch]) -> list[Utterance]:
    """One utterance a stretch, named <speaker>-<book>-<file>-<number>; times to the millisecond."""
    audio, speaker = str(path), path.parts[-3]
    stem = "-".join((*path.parts[-3:-1], path.stem))
    return [
        Utterance(f"{stem}-{number:05d}", audio, round(end - start, 3), None, speaker, round(start, 3))
        for number, (start, end) in enumerate(stretches)
    ]
