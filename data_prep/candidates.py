"""Utterances as a corpus states them, and what remains of them once text and audio have been looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import LENGTH_TOLERANCE_S, probe_whole
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError, list_findings
from asr_emapl.text.needed import AUTO, Changes, needed_preset
from asr_emapl.text.normalise import PRESETS, Preset

MAX_LINES = 50
"""Findings that an error report lists before it only counts the rest."""

AudioFacts = tuple[float, int, int]
"""Duration (seconds), sample rate (Hz), channels."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One utterance as the corpus states it.

    Attributes:
        id: has to be unique in its part.
        audio: path of the file.
        place: where the corpus states it, for reports: a file, or file:line.
        text: the transcript as it is spelled there, None if there is none.
        speaker: who speaks, if known.
        offset: where in the file it begins, seconds.
        duration: seconds; None: to the end of the file.
        channel: of the file, counted from 0; None: the mean of all.
        may_be_mono: a file of one channel is that channel already.
        fault: what is wrong with it already; "" if nothing is.
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
    """What came of a part's candidates: good utterances, a line for each fault, and what is worth knowing."""

    utterances: list[Utterance] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Prepared:
    """What was written: the manifest of each part, and notes for the user (what is resampled or left out)."""

    manifests: dict[str, Path]
    notes: list[str]


def preset(name: str, candidates: Iterable[Candidate] = ()) -> Preset:
    """The normalisation of that name; for "auto", the one that the transcripts of the candidates need.

    Raises:
        UserError: there is none of that name.
    """
    if name == AUTO:
        name = needed_preset(candidate.text for candidate in candidates if candidate.text is not None)
    if name not in PRESETS:
        raise UserError(f"--text {name!r} is not one of {', '.join((AUTO, *PRESETS))}")
    return PRESETS[name]


def check(candidates: Iterable[Candidate], spelling: Preset, workers: int) -> Checked:
    """Look at text and audio of candidates; the good ones become utterances, in the same order.

    A fault is: an id that was there before; a transcript that is empty or, once normalised, holds what
    `spelling` calls strange; audio that is absent, cannot be decoded, holds nothing or breaks off; a stretch
    that does not lie inside its file. Each file's header is read once, by `workers` threads.
    """
    candidates = list(candidates)
    found = Checked()
    averaged = {candidate.audio for candidate in candidates if candidate.channel is None}
    facts, notes = probe_all((candidate.audio for candidate in candidates), workers, averaged)
    found.notes.extend(notes)
    first_seen: dict[str, str] = {}
    changes = Changes()
    for candidate in candidates:
        text, faults = _spelled(candidate, spelling)
        if candidate.text is not None and text is not None:
            changes.add(candidate.text, text)
        if candidate.fault:
            faults.append(candidate.fault)
        known = facts[candidate.audio]
        if isinstance(known, str):
            faults.append(known)
        else:
            faults.extend(_stretch_faults(candidate, known[0]))
            faults.extend(_channel_faults(candidate, known[2]))
        if first_seen.setdefault(candidate.id, candidate.place) != candidate.place:
            faults.append(f"id {candidate.id!r} is that of {first_seen[candidate.id]} too (make ids unique)")
        if faults:
            faults = [fault.removeprefix(f"{candidate.place}: ") for fault in faults]
            found.findings.append(f"{candidate.place}: {'; '.join(faults)}")
        elif not isinstance(known, str):
            rest = known[0] - candidate.offset
            duration = rest if candidate.duration is None else min(candidate.duration, rest)
            found.utterances.append(
                Utterance(
                    candidate.id,
                    candidate.audio,
                    duration,
                    text,
                    candidate.speaker,
                    candidate.offset,
                    channel=candidate.channel if known[2] > 1 else None,
                )
            )
    if changes.changed:
        found.notes.append(f"{changes} ({spelling.stated})")
    return found


def settle(part: str, found: Checked, leave_out: bool) -> list[str]:
    """The notes on a part; UserError with all findings, unless they are to be left out."""
    if not found.findings:
        return [f"{part}: {note}" for note in found.notes]
    if not leave_out:
        head = f"{part}: {len(found.findings)} faults (fix them, or --leave-out these utterances):"
        raise UserError(list_findings([head, *found.findings], MAX_LINES))
    left_out = list_findings([f"{part}: left out {len(found.findings)}:", *found.findings], 6)
    return [left_out, *(f"{part}: {note}" for note in found.notes)]


def probe_all(
    audio: Iterable[str], workers: int, averaged: Container[str] | None = None
) -> tuple[dict[str, AudioFacts | str], list[str]]:
    """Facts on each file, or what is wrong with it; and notes on what will be resampled or averaged.

    Args:
        averaged: the files of which no channel is selected; None: all.
    """
    paths = list(dict.fromkeys(audio))
    with ThreadPoolExecutor(workers) as pool:
        facts = dict(zip(paths, pool.map(_facts, paths), strict=True))
    good = [known for known in facts.values() if not isinstance(known, str)]
    rates = Counter(rate for _, rate, _ in good if rate != SAMPLE_RATE_HZ)
    notes = []
    if rates:
        listed = ", ".join(f"{count} of {rate} Hz" for rate, count in rates.most_common(5))
        notes.append(f"{rates.total()} of {len(good)} files are resampled when they are read: {listed}")
    several = sum(
        not isinstance(known, str) and known[2] > 1
        for path, known in facts.items()
        if averaged is None or path in averaged
    )
    if several:
        notes.append(f"{several} of {len(good)} files have several channels, averaged when they are read")
    return facts, notes


def _facts(path: str) -> AudioFacts | str:
    try:
        return probe_whole(path)
    except UserError as error:
        return str(error)


def _spelled(candidate: Candidate, spelling: Preset) -> tuple[str | None, list[str]]:
    """The normal text, and what is wrong with it."""
    if candidate.text is None:
        return None, []
    text = spelling.normalise(candidate.text)
    strange = spelling.strange(text)
    if not text:
        return text, ["an empty transcript (add it)"]
    if strange:
        return text, [f"its text has {strange!r} (spell it out, or choose another --text)"]
    return text, []


def _channel_faults(candidate: Candidate, channels: int) -> Sequence[str]:
    """What is wrong with the channel of a candidate, in a file of `channels`."""
    channel = candidate.channel
    if channel is None or channel < channels or (channels == 1 and candidate.may_be_mono):
        return []
    return [f"is channel {channel} (counted from 0) of {candidate.audio}, which has {channels} (correct it)"]


def _stretch_faults(candidate: Candidate, length: float) -> Sequence[str]:
    """What is wrong with where a candidate lies in its file of `length` seconds."""
    end = length if candidate.duration is None else candidate.offset + candidate.duration
    if not 0 <= candidate.offset < min(end, length):
        return [f"goes from {candidate.offset:g} to {end:g} s (correct the times)"]
    if end > length + LENGTH_TOLERANCE_S:
        return [f"goes to {end:.2f} s in {candidate.audio}, {length:.2f} s long (correct the times)"]
    return []
