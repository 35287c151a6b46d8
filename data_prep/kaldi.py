"""Kaldi's data directories: wav.scp; segments, text, utt2spk, reco2file_and_channel where there are any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from asr_emapl.errors import UserError, list_findings
from asr_emapl.storage import read_lines
from data_prep.candidates import MAX_LINES, Candidate

# How reco2file_and_channel names channels.
_SIDES = {"A": 0, "B": 1, "1": 0, "2": 1}

FILES = ("wav.scp", "segments", "text", "utt2spk")
"""Files of a data directory that are read."""


def read_data_dir(folder: Path) -> list[Candidate]:
    """The utterances of a Kaldi data directory, in the order of segments (or of wav.scp without it).

    Fields are separated by spaces or tabs. Relative paths are taken from the current folder, as Kaldi takes
    them. Without `text` the utterances are unlabelled. Commands in wav.scp ("... |") are never run. A channel
    that `segments` (fifth field, from 0) or `reco2file_and_channel` (A, B or 1, 2) states is the one that is
    read.

    Raises:
        UserError: a file cannot be read; wav.scp names commands or archives instead of files; a line is
            malformed, or there twice; `text` and `segments` do not go together.
    """
    findings: list[str] = []
    recordings = _keyed(folder / "wav.scp", findings)
    for place, value in recordings.values():
        if value.endswith("|") or value.startswith("|"):
            findings.append(f"{place}: a command, {value!r}: not run (write its output to a file, name that)")
        elif not Path(value).is_file() and Path(value.rpartition(":")[0]).is_file():
            findings.append(f"{place}: a place in an archive, {value!r} (copy it to a file, name that)")
    sides = _sides(folder / "reco2file_and_channel", findings)
    if (folder / "segments").exists():
        stretches = _segments(folder / "segments", recordings, sides, findings)
    else:
        stretches = {
            key: Candidate(key, _absolute(value), place, channel=sides.get(key), may_be_mono=True)
            for key, (place, value) in recordings.items()
        }
    texts = _keyed(folder / "text", findings, may_be_empty=True) if (folder / "text").exists() else None
    speakers = _keyed(folder / "utt2spk", findings) if (folder / "utt2spk").exists() else {}
    if texts is not None:
        findings += [
            f"{p}: {k} has no audio (remove the line)" for k, (p, _) in texts.items() if k not in stretches
        ]
        findings += [
            f"{stretch.place}: {key} has no line in text (add it, or remove the utterance)"
            for key, stretch in stretches.items()
            if key not in texts
        ]
    if findings:
        raise UserError(list_findings(findings, MAX_LINES))
    return [
        replace(
            stretch,
            text=None if texts is None else texts[key][1],
            speaker=speakers[key][1] if key in speakers else None,
        )
        for key, stretch in stretches.items()
    ]


def _absolute(audio: str) -> str:
    return str(Path(audio).absolute())


def _sides(path: Path, findings: list[str]) -> dict[str, int]:
    """The channel of each recording, counted from 0; none where the file is absent."""
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
    stretches: dict[str, Candidate] = {}
    for key, (place, value) in _keyed(path, findings).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], float(fields[1]), float(fields[2])
            channel = int(fields[3]) if len(fields) > 3 else None
        except (IndexError, ValueError):
            findings.append(f"{place}: {value!r} is no recording, start, end and channel (correct the line)")
            continue
        if len(fields) > 4 or (channel is not None and channel < 0):
            findings.append(f"{place}: {value!r} is no recording, start, end and channel from 0 (correct it)")
            continue
        if recording not in recordings:
            findings.append(f"{place}: recording {recording} is not in wav.scp (add it, or remove the line)")
            continue
        # A negative end is Kaldi's for the end of the recording.
        duration = None if end < 0 else end - start
        stretches[key] = Candidate(
            key,
            _absolute(recordings[recording][1]),
            place,
            offset=start,
            duration=duration,
            channel=sides.get(recording) if channel is None else channel,
            may_be_mono=channel is None,
        )
    return stretches


def _keyed(path: Path, findings: list[str], *, may_be_empty: bool = False) -> dict[str, tuple[str, str]]:
    """The lines of a file by their first field: where each stands, and the rest of it."""
    keyed: dict[str, tuple[str, str]] = {}
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        key, *rest = line.split(maxsplit=1)
        if key in keyed:
            findings.append(f"{place}: {key} is at {keyed[key][0]} too (remove one of them)")
        elif not rest and not may_be_empty:
            findings.append(f"{place}: {key} and nothing else (complete the line)")
        else:
            keyed[key] = (place, rest[0].strip() if rest else "")
    return keyed
