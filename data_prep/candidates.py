"""Utterances as listed by a corpus, and their validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe_whole
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, counted, list_findings, listing
from asr_emapl.progress import track
from asr_emapl.text.needed import AUTO, Changes, needed_preset
from asr_emapl.text.normalise import PRESETS, Preset

MAX_LINES = 50
"""Maximum number of findings listed in an error; the others are only counted."""

_SHOWN = 12  # characters
_SHOWN_TEXT = 60  # length of a quoted transcript

AudioFacts = tuple[float, int, int]
"""Duration (seconds), sample rate (Hz), channels."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One utterance as listed by the corpus.

    Attributes:
        id: unique in its part.
        audio: path of the file.
        place: where the corpus lists it, for messages: a file, or file:line.
        text: the original transcript, or None.
        speaker: name of the speaker; None if unknown.
        offset: start in the file, in seconds.
        duration: in seconds; None: to the end of the file.
        channel: channel of the file, counted from 0; None: the mean of all channels.
        may_be_mono: whether to ignore `channel` for single-channel files.
        fault: a fault that is already known, or "".
    """

    id: str
    audio: str
    place: str
    text: str | None = None
    speaker: str | None = None
    offset: float = 0.0
    duration: float | None = None
    channel: int | None = None
    may_be_mono: bool = False
    fault: str = ""


@dataclass(slots=True)
class Checked:
    """Results for the candidates of a part: valid utterances, one line per invalid candidate, and notes."""

    utterances: list[Utterance] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Prepared:
    """The manifest of each part, and notes for the user, for example about skipped files."""

    manifests: dict[str, Path]
    notes: list[str]


def preset(name: str) -> Preset:
    """Return the normalisation with this name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in PRESETS:
        raise UserError(f"--text {name!r} is not one of {', '.join((AUTO, *PRESETS))}")
    return PRESETS[name]


def check(
    candidates: Iterable[Candidate],
    spelling: Preset | None,
    workers: int,
    like: Sequence[str] | None = None,
) -> Checked:
    """Verify text and audio of candidates; valid ones become utterances, in the same order.

    The faults are: an id that is not unique; a normalised transcript that is empty or contains characters
    that `spelling` does not accept; audio that is missing, empty or truncated, or cannot be decoded; times
    outside the file. Each file's header is read once, by `workers` threads.

    Args:
        spelling: normalisation; None: the one that the texts of valid candidates need.
        like: see `needed_preset`.
    """
    candidates = list(candidates)
    found = Checked()
    averaged = {candidate.audio for candidate in candidates if candidate.channel is None}
    facts, notes = probe_all((candidate.audio for candidate in candidates), workers, averaged)
    found.notes.extend(notes)
    other_faults = list(_other_faults(candidates, facts))
    if spelling is None:
        valid = [c for c, faults in zip(candidates, other_faults, strict=True) if not faults]
        spelling = _needed(valid or candidates, like)
    changes, invalid, unspelled = Changes(), Counter[str](), 0
    for candidate, others in zip(candidates, other_faults, strict=True):
        text = None if candidate.text is None else spelling.normalise(candidate.text)
        if candidate.text is not None and text is not None:
            strange = "" if others else spelling.strange(text)
            invalid.update(strange)
            unspelled += bool(strange)
        fact = facts[candidate.audio]
        faults = _text_faults(text, spelling) + others
        if faults:
            faults = [fault.removeprefix(f"{candidate.place}: ") for fault in faults]
            found.findings.append(f"{candidate.place}: {'; '.join(faults)}")
        elif not isinstance(fact, str):
            if candidate.text is not None and text is not None:
                changes.add(candidate.text, text)
            found.utterances.append(_utterance(candidate, text, fact))
    if changes.changed:
        found.notes.append(f"{changes} ({spelling.stated})")
    if unspelled:
        common = [f"{character!r} in {count:,}" for character, count in invalid.most_common()]
        listed = listing(common, _SHOWN)
        found.notes.append(f"{counted(unspelled, 'transcript')} with invalid characters: {listed}")
    return found


def _needed(candidates: Iterable[Candidate], like: Sequence[str] | None) -> Preset:
    """The normalisation that the transcripts need. Those that every preset leaves invalid do not count."""
    texts = [candidate.text for candidate in candidates if candidate.text is not None]
    words = PRESETS["words"]
    return PRESETS[needed_preset((t for t in texts if not words.strange(words.normalise(t))), like)]


def _other_faults(
    candidates: Iterable[Candidate], facts: Mapping[str, AudioFacts | str]
) -> Iterator[list[str]]:
    """The faults of each candidate, without those of its text."""
    first_seen: dict[str, str] = {}
    for candidate in candidates:
        fact = facts[candidate.audio]
        faults = [candidate.fault] if candidate.fault else []
        faults += [fact] if isinstance(fact, str) else _audio_faults(candidate, fact)
        if first_seen.setdefault(candidate.id, candidate.place) != candidate.place:
            first = first_seen[candidate.id]
            faults.append(f"id {candidate.id!r} is also used by {first} (make ids unique)")
        yield faults


def _utterance(candidate: Candidate, text: str | None, fact: AudioFacts) -> Utterance:
    length, _, channels = fact
    rest = length - candidate.offset
    return Utterance(
        candidate.id,
        candidate.audio,
        rest if candidate.duration is None else min(candidate.duration, rest),
        text,
        candidate.speaker,
        candidate.offset,
        channel=candidate.channel if channels > 1 else None,
    )


def settle(part: str, found: Checked, leave_out: bool) -> list[str]:
    """Return the notes about a part.

    Raises:
        UserError: there are findings and `leave_out` is False.
    """
    if not found.findings:
        return [f"{part}: {note}" for note in found.notes]
    if not leave_out:
        head = f"{part}: {len(found.findings)} faults (fix them or pass --leave-out):"
        raise UserError(list_findings([head, *found.findings], MAX_LINES))
    left_out = list_findings([f"{part}: {len(found.findings)} skipped:", *found.findings], 6)
    return [left_out, *(f"{part}: {note}" for note in found.notes)]


def probe_all(
    audio: Iterable[str], workers: int, averaged: Container[str] | None = None
) -> tuple[dict[str, AudioFacts | str], list[str]]:
    """Return header data or an error for each file, and notes about files that will be resampled or averaged.

    Args:
        averaged: files for which no channel is selected; None: all files.
    """
    paths = list(dict.fromkeys(audio))
    with ThreadPoolExecutor(workers) as pool:
        probed = track(pool.map(_facts, paths), "reading headers", len(paths), "files")
        facts = dict(zip(paths, probed, strict=True))
    good = [known for known in facts.values() if not isinstance(known, str)]
    rates = Counter(rate for _, rate, _ in good if rate != SAMPLE_RATE_HZ)
    notes = []
    if rates:
        listed = ", ".join(f"{count} of {rate} Hz" for rate, count in rates.most_common(5))
        notes.append(f"{rates.total()} of {len(good)} files are resampled on reading: {listed}")
    several = sum(
        not isinstance(known, str) and known[2] > 1
        for path, known in facts.items()
        if averaged is None or path in averaged
    )
    if several:
        notes.append(f"{several} of {len(good)} files have several channels, which are averaged on reading")
    return facts, notes


def _facts(path: str) -> AudioFacts | str:
    try:
        return probe_whole(path)
    except UserError as error:
        return str(error)


def _text_faults(text: str | None, spelling: Preset) -> list[str]:
    if text is None:
        return []
    if not text:
        return ["empty transcript (add it)"]
    strange = spelling.strange(text)
    if not strange:
        return []
    noun = "character" if len(strange) == 1 else "characters"
    listed = listing([repr(character) for character in strange], _SHOWN)
    remedy = "spell them out, or choose another normalisation with --text"
    return [f"invalid {noun} {listed} in {_shortened(text)!r} ({remedy})"]


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 3]}..."


def _audio_faults(candidate: Candidate, fact: AudioFacts) -> list[str]:
    """Return the faults in times and channel of a candidate."""
    length, _, channels = fact
    faults = []
    end = length if candidate.duration is None else candidate.offset + candidate.duration
    if not 0 <= candidate.offset < min(end, length):
        faults.append(f"invalid times {candidate.offset:g} to {end:g} s (correct the times)")
    elif end > length + LENGTH_TOLERANCE_S:
        faults.append(f"end {end:.2f} s exceeds {candidate.audio}, {length:.2f} s long (correct the times)")
    channel = candidate.channel
    if channel is not None and channel >= channels and not (channels == 1 and candidate.may_be_mono):
        faults.append(
            f"channel {channel} (counted from 0) does not exist in {candidate.audio}, "
            f"which has {counted(channels, 'channel')} (correct it)"
        )
    return faults
