"""Libri-Light (Kahn et al. 2020): audiobooks without transcripts, cut at pauses.

<part>/<speaker>/<book>/ contains <name>.flac files of minutes to hours (16 kHz, mono). Next to each,
<name>.json lists the speech times: `voice_activity`, a list of [start, end] in seconds. Utterances of the
manifest refer to the original files by `offset` and `duration`; no audio is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from asr_emapl.data.manifest_writer import write_manifests
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.storage import read_object
from data_prep.archive import Archive, install_parts
from data_prep.candidates import Checked, Prepared, probe_all, settle

# URLs and MD5s are from github.com/facebookresearch/libri-light.
_URL = "https://dl.fbaipublicfiles.com/librilight/data"
_MD5 = {
    "small": "c49207eb86a8e8ac895561c37232041e",
    "medium": "c75e7ac62471bfbf2db77528d62a9b74",
    "large": "4dfbac018f50b99797ece101fc9f0c30",
}

_SLACK_S = 0.5
"""Tolerance in seconds for speech that ends after its file because of the detector's frames; it is cut."""
_MAX_PAUSE_S = 1.0
"""A longer pause separates two segments."""

Span = tuple[float, float]
"""Start and end, seconds."""


def download(destination: Path, parts: Sequence[str], *, workers: int = 2) -> dict[str, Path]:
    """Download small (577 h, 35 GB), medium (5,193 h, 321 GB) and large (51,934 h, 3.05 TB).

    The folders are destination/<part>; see `data_prep.archive.install`. This requires twice the archive size.

    Returns:
        The folder of each part.

    Raises:
        UserError: a part is unknown, a transfer fails, or an archive has a wrong MD5, is unsafe or is
            incomplete.
    """

    def findings(part: str, folder: Path) -> list[str]:
        facts, _ = probe_all((str(path) for path in sorted(folder.rglob("*.flac"))), workers)
        faults = [fact for fact in facts.values() if isinstance(fact, str)]
        jsons = {str(path.with_suffix(".flac")) for path in folder.rglob("*.json")}
        faults += [f"{path}: has no audio (download again)" for path in sorted(jsons - set(facts))]
        faults += [f"{path}: has no json (download again)" for path in sorted(set(facts) - jsons)]
        return faults or ([] if facts else [f"{folder}: has no audio (download again)"])

    archives = {part: Archive(f"{_URL}/{part}.tar", md5, part) for part, md5 in _MD5.items()}
    return install_parts("Libri-Light", archives, parts, Path(destination), findings)


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
    """Verify parts and write one manifest of unlabelled segments per part, destination/<part>.jsonl.

    A segment consists of speech with pauses of up to 1 s and is at most `max_seconds` long. Longer speech
    without a pause is cut into equal pieces. Segments shorter than `min_seconds` are skipped. The notes give
    the hours of segments, speech and total audio.

    Args:
        source: the folder that contains the parts.
        destination: folder of the manifests; created if missing.
        parts: folder names; None: whichever of small, medium and large exist.
        max_seconds: maximum length of a segment.
        min_seconds: minimum length of a segment.
        use_voice_activity: whether to cut at pauses. If False, whole files are cut into equal pieces, and no
            json is required.
        leave_out: skip invalid files instead of raising.
        workers: threads that read headers.

    Raises:
        UserError: a part is missing; audio is damaged; json is missing or malformed. The first faults are
            listed, the others counted.
        ValueError: 0 < min_seconds <= max_seconds does not hold.
    """
    if not 0 < min_seconds <= max_seconds < math.inf:
        raise ValueError(f"expected 0 < min_seconds <= max_seconds, got {min_seconds} and {max_seconds}")
    folders = _part_folders(Path(source), parts)
    found: dict[Path, list[Utterance]] = {}
    notes: list[str] = []
    for part, folder in folders.items():
        speech, checked = _read_part(folder, use_voice_activity, workers)
        checked.utterances = [
            utterance
            for path, spans in speech.items()
            for utterance in _utterances(path, segments(spans, max_seconds, min_seconds))
        ]
        hours = sum(utterance.duration for utterance in checked.utterances) / 3600
        summary = f"{len(checked.utterances)} segments ({hours:.2f} h) from {', '.join(checked.notes)}"
        checked.notes = [summary]
        notes += settle(part, checked, leave_out)
        found[Path(destination) / f"{part}.jsonl"] = checked.utterances
    write_manifests(found)
    return Prepared(dict(zip(folders, found, strict=True)), notes)


def segments(speech: Sequence[Span], max_seconds: float, min_seconds: float) -> list[Span]:
    """Merge sorted, disjoint spans of speech into segments of at most `max_seconds`."""
    joined: list[Span] = []
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
        problem = f"no part {', '.join(absent)}" if absent else "none of small, medium, large found"
        raise UserError(f"{source}: {problem} (download it, or pass the parent folder)")
    return {part: source / part for part in wanted}


def _read_part(
    folder: Path, use_voice_activity: bool, workers: int
) -> tuple[dict[Path, list[Span]], Checked]:
    """Return the spans of speech in each file of a part, and its faults and notes."""
    paths = [path.absolute() for path in sorted(folder.glob("*/*/*.flac"))]
    facts, audio_notes = probe_all(map(str, paths), workers)
    speech: dict[Path, list[Span]] = {}
    checked = Checked()
    seconds = 0.0
    for path in paths:
        fact = facts[str(path)]
        try:
            if isinstance(fact, str):
                raise UserError(fact)
            speech[path] = _speech(path, fact[0]) if use_voice_activity else [(0.0, fact[0])]
            seconds += fact[0]
        except UserError as error:
            checked.findings.append(str(error))
    spoken = sum(end - start for spans in speech.values() for start, end in spans)
    checked.notes = [f"{spoken / 3600:.2f} h of speech in {seconds / 3600:.2f} h of audio", *audio_notes]
    return speech, checked


def _speech(path: Path, length: float) -> list[Span]:
    """Return the sorted, disjoint spans of speech listed for an audio file of `length` seconds."""
    place = path.with_suffix(".json")
    if not place.exists():
        raise UserError(f"{place}: is missing (download it again, or use --no-voice-activity)")
    remedy = "download it again, or use --no-voice-activity"
    try:
        spans = read_object(place, f"voice_activity ({remedy})")["voice_activity"]
        pairs = sorted((float(start), float(end)) for start, end in spans)
    except (ValueError, OverflowError, TypeError, KeyError):
        raise UserError(f"{place}: voice_activity must list [start, end] in seconds ({remedy})") from None
    if any(not 0 <= start <= end <= length + _SLACK_S for start, end in pairs):
        raise UserError(f"{place}: speech outside the {length:.2f} s of audio (download both again)")
    speech: list[Span] = []
    for start, end in pairs:
        end = min(end, length)
        if speech and start <= speech[-1][1]:
            speech[-1] = (speech[-1][0], max(end, speech[-1][1]))
        elif start < end:
            speech.append((start, end))
    return speech


def _utterances(path: Path, spans: Sequence[Span]) -> list[Utterance]:
    """Return one utterance per span, with id <speaker>-<book>-<file>-<number> and times in milliseconds."""
    audio, speaker = str(path), path.parts[-3]
    stem = "-".join((*path.parts[-3:-1], path.stem))
    return [
        Utterance(f"{stem}-{number:05d}", audio, round(end - start, 3), None, speaker, round(start, 3))
        for number, (start, end) in enumerate(spans)
    ]
