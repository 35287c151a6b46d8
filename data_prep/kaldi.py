"""Kaldi data directories: wav.scp, and optionally segments, text, utt2spk, reco2file_and_channel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import read_lines
from data_prep.candidates import MAX_LINES, Candidate

# The channels in reco2file_and_channel.
_SIDES = {"A": 0, "B": 1, "1": 0, "2": 1}

FILES = ("wav.scp", "segments", "text", "utt2spk")
"""Files of a data directory."""


def read_data_dir(folder: Path) -> list[Candidate]:
    """Return the utterances of a Kaldi data directory, in the order of `segments` or else of `wav.scp`.

    Fields are separated by spaces or tabs. Paths are relative to the current folder, as in Kaldi. Without
    `text`, the utterances are unlabelled. Commands in wav.scp ("... |") are never executed. The channel is
    the fifth field of `segments` (counted from 0), or is read from `reco2file_and_channel` (A, B or 1, 2).

    Raises:
        UserError: a file cannot be read; wav.scp lists commands or archives instead of files; a line is
            malformed or repeated; `text` and `segments` do not match.
    """
    findings: list[str] = []
    recordings = _keyed(folder / "wav.scp", findings)
    for place, value in recordings.values():
        if value.endswith("|") or value.startswith("|"):
            findings.append(
                f"{place}: commands are not executed: {value!r} (save its output, and list that file)"
            )
        elif not Path(value).is_file() and Path(value.rpartition(":")[0]).is_file():
            findings.append(f"{place}: archive offsets are not supported: {value!r} (list a file instead)")
    sides = _sides(folder / "reco2file_and_channel", findings)
    if (folder / "segments").exists():
        candidates = _segments(folder / "segments", recordings, sides, findings)
    else:
        candidates = {
            key: Candidate(key, _absolute(value), place, channel=sides.get(key), may_be_mono=True)
            for key, (place, value) in recordings.items()
        }
    texts = _keyed(folder / "text", findings, may_be_empty=True) if (folder / "text").exists() else None
    speakers = _keyed(folder / "utt2spk", findings) if (folder / "utt2spk").exists() else {}
    if texts is not None:
        findings += [
            f"{p}: {k} has no audio (remove the line)" for k, (p, _) in texts.items() if k not in candidates
        ]
        findings += [
            f"{candidate.place}: {key} has no line in text (add it, or remove the utterance)"
            for key, candidate in candidates.items()
            if key not in texts
        ]
    if findings:
        raise UserError(list_findings(findings, MAX_LINES))
    return [
        replace(
            candidate,
            text=None if texts is None else texts[key][1],
            speaker=speakers[key][1] if key in speakers else None,
        )
        for key, candidate in candidates.items()
    ]


def _absolute(audio: str) -> str:
    return str(Path(audio).absolute())


def _sides(path: Path, findings: list[str]) -> dict[str, int]:
    """Return the channel of each recording, counted from 0; empty if the file is missing."""
    channels: dict[str, int] = {}
    for key, (place, value) in (_keyed(path, findings) if path.exists() else {}).items():
        side = value.split()[-1].upper()
        if side in _SIDES:
            channels[key] = _SIDES[side]
        else:
            findings.append(f"{place}: {value!r} does not end with a channel: A, B, 1 or 2 (correct it)")
    return channels


def _segments(
    path: Path, recordings: dict[str, tuple[str, str]], sides: dict[str, int], findings: list[str]
) -> dict[str, Candidate]:
    candidates: dict[str, Candidate] = {}
    for key, (place, value) in _keyed(path, findings).items():
        try:
            recording, start, end, channel = _segment(value)
        except (ValueError, TypeError):
            expected = "recording start end [channel from 0]"
            findings.append(f"{place}: expected '{expected}', got {value!r} (correct it)")
            continue
        if recording not in recordings:
            findings.append(f"{place}: recording {recording} is not in wav.scp (add it, or remove the line)")
            continue
        candidates[key] = Candidate(
            key,
            _absolute(recordings[recording][1]),
            place,
            offset=start,
            duration=None if end < 0 else end - start,  # in Kaldi, a negative end means the end of the file
            channel=sides.get(recording) if channel is None else channel,
            may_be_mono=channel is None,
        )
    return candidates


def _segment(value: str) -> tuple[str, float, float, int | None]:
    """Parse recording, start, end and channel; raise ValueError or TypeError if the line is malformed."""

    def parse(recording: str, start: str, end: str, side: str = "") -> tuple[str, float, float, int | None]:
        channel = int(side) if side else None
        if channel is not None and channel < 0:
            raise ValueError(side)
        return recording, float(start), float(end), channel

    return parse(*value.split())


def _keyed(path: Path, findings: list[str], *, may_be_empty: bool = False) -> dict[str, tuple[str, str]]:
    """Return a dict from the first field of each line to (file:line, rest of the line)."""
    keyed: dict[str, tuple[str, str]] = {}
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        key, *rest = line.split(maxsplit=1)
        if key in keyed:
            findings.append(f"{place}: {key} is repeated (first at {keyed[key][0]}; remove one of them)")
        elif not rest and not may_be_empty:
            findings.append(f"{place}: {key} has no value (complete the line)")
        else:
            keyed[key] = (place, rest[0].strip() if rest else "")
    return keyed
