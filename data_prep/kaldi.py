"""Kaldi's data directories: wav.scp, and segments, text, utt2spk where there are any."""

from __future__ import annotations

from pathlib import Path

from asr_emapl.data.manifest import report
from asr_emapl.errors import UserError
from data_prep.candidates import MAX_LINES, Candidate
from data_prep.lines import read_lines

FILES = ("wav.scp", "segments", "text", "utt2spk")
"""Files of a data directory that are read."""


def read_data_dir(folder: Path) -> list[Candidate]:
    """The utterances of a Kaldi data directory, in the order of segments (or of wav.scp without it).

    Fields are parted by blanks or tabs. Relative paths are taken from the current folder, as Kaldi takes
    them. Without `text` the utterances are unlabelled. Commands in wav.scp ("... |") are never run.

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
    if (folder / "segments").exists():
        stretches = _segments(folder / "segments", recordings, findings)
    else:
        stretches = {key: (place, value, 0.0, None) for key, (place, value) in recordings.items()}
    texts = _keyed(folder / "text", findings, may_be_empty=True) if (folder / "text").exists() else None
    speakers = _keyed(folder / "utt2spk", findings) if (folder / "utt2spk").exists() else {}
    if texts is not None:
        findings += [
            f"{p}: {k} has no audio (remove the line)" for k, (p, _) in texts.items() if k not in stretches
        ]
        findings += [
            f"{place}: {key} has no line in text (add it, or remove the utterance)"
            for key, (place, *_) in stretches.items()
            if key not in texts
        ]
    if findings:
        raise UserError(report(findings, MAX_LINES))
    return [
        Candidate(
            id=key,
            audio=str(Path(audio).absolute()),
            place=place,
            text=None if texts is None else texts[key][1],
            speaker=speakers[key][1] if key in speakers else None,
            offset=offset,
            duration=duration,
        )
        for key, (place, audio, offset, duration) in stretches.items()
    ]


_Stretch = tuple[str, str, float, float | None]
"""Where it is stated, the file, offset and duration in seconds (None: to the end)."""


def _segments(path: Path, recordings: dict[str, tuple[str, str]], findings: list[str]) -> dict[str, _Stretch]:
    stretches: dict[str, _Stretch] = {}
    for key, (place, value) in _keyed(path, findings).items():
        fields = value.split()
        try:
            recording, start, end = fields[0], float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            findings.append(f"{place}: {value!r} is no recording, start and end (correct the line)")
            continue
        if recording not in recordings:
            findings.append(f"{place}: recording {recording} is not in wav.scp (add it, or remove the line)")
            continue
        # A negative end is Kaldi's for the end of the recording.
        duration = None if end < 0 else end - start
        stretches[key] = (place, recordings[recording][1], start, duration)
    return stretches


def _keyed(path: Path, findings: list[str], *, may_be_empty: bool = False) -> dict[str, tuple[str, str]]:
    """The lines of a file by their first field: where each stands, and the rest of it."""
    keyed: dict[str, tuple[str, str]] = {}
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        key, *rest = line.split(maxsplit=1)
        if key in keyed:
            findings.append(f"{place}: {key} stands at {keyed[key][0]} too (remove one of them)")
        elif not rest and not may_be_empty:
            findings.append(f"{place}: {key} and nothing else (complete the line)")
        else:
            keyed[key] = (place, rest[0].strip() if rest else "")
    return keyed
