"""Kaldi's data directories: offsets into recordings, commands that are not run, files that do not match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.corpora import faults, noise, read, rows

from asr_emapl.audio.decode import read_audio
from asr_emapl.data.utterance import Utterance
from data_prep.folder import prepare


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    noise(tmp_path / "r1.wav", 3.0)
    noise(tmp_path / "r2.flac", 1.0)
    rows(data.mkdir() or data / "wav.scp", f"r1 {tmp_path}/r1.wav", f"r2\t{tmp_path}/r2.flac ")
    rows(data / "segments", "u1 r1 0.5 1.25", "u2 r1  1.5 -1", "u3\tr2 0 1.0")
    rows(data / "text", "u1 go on", "u2\tdon't", "u3 stop")
    rows(data / "utt2spk", "u1 ann", "u2 ann", "u3 bob")
    return data


def test_a_kaldi_directory(kaldi: Path, tmp_path: Path) -> None:
    r1, r2 = str(tmp_path / "r1.wav"), str(tmp_path / "r2.flac")
    assert read(prepare(kaldi, tmp_path / "out")) == [
        Utterance("u1", r1, 0.75, "GO ON", "ann", 0.5),
        Utterance("u2", r1, 1.5, "DON'T", "ann", 1.5),
        Utterance("u3", r2, 1.0, "STOP", "bob"),
    ]


def test_a_kaldi_directory_with_only_recordings(
    kaldi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("segments", "text", "utt2spk"):
        (kaldi / name).unlink()
    monkeypatch.chdir(tmp_path)
    rows(kaldi / "wav.scp", "r1 r1.wav")
    assert read(prepare(kaldi, tmp_path / "out")) == [Utterance("r1", str(tmp_path / "r1.wav"), 3.0)]


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A data directory of one call with a speaker on each channel."""
    data = tmp_path / "call"
    soundfile.write(tmp_path / "call.wav", np.tile([0.25, -0.5], (32_000, 1)), 16_000)
    rows(data.mkdir() or data / "wav.scp", f"call {tmp_path}/call.wav")
    return data


def test_segments_have_channels(call: Path, tmp_path: Path) -> None:
    rows(call / "segments", "a call 0 1 0", "b call 0.5 2 1", "c call 0.5 2")
    one, other, both = read(prepare(call, tmp_path / "out"))
    assert [u.channel for u in (one, other, both)] == [0, 1, None]
    waves = [read_audio(u.source, offset=u.offset, duration=u.duration) for u in (one, other, both)]
    assert [round(float(wave.mean()), 3) for wave in waves] == [0.25, -0.5, -0.125]


@pytest.mark.parametrize(("side", "channel"), [("A", 0), ("B", 1), ("2", 1)])
def test_sides_of_a_call_have_channels(call: Path, tmp_path: Path, side: str, channel: int) -> None:
    rows(call / "reco2file_and_channel", f"call call {side}")
    (whole,) = read(prepare(call, tmp_path / "out"))
    assert whole.channel == channel
    rows(call / "segments", "a call 0 1")
    (part,) = read(prepare(call, tmp_path / "out"))
    assert part.channel == channel


def test_a_side_in_a_mono_file_is_that_file(kaldi: Path, tmp_path: Path) -> None:
    rows(kaldi / "reco2file_and_channel", "r1 r1 B", "r2 r2 A")
    assert {u.channel for u in read(prepare(kaldi, tmp_path / "out"))} == {None}


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("segments", "a call 0 1 2", "channel 2 (counted from 0)"),
        ("segments", "a call 0 1 -1", "channel from 0"),
        ("segments", "a call 0 1 0 0", "channel from 0"),
        ("reco2file_and_channel", "call call C", "does not end with a channel"),
    ],
)
def test_a_missing_channel_is_named(call: Path, tmp_path: Path, name: str, line: str, fault: str) -> None:
    rows(call / name, line)
    assert any(fault in found for found in faults(call, tmp_path / "out"))


def test_commands_in_wav_scp_are_named_and_not_run(kaldi: Path, tmp_path: Path) -> None:
    with (kaldi / "wav.scp").open("a") as file:
        file.write(f"r3 touch {tmp_path}/ran && cat {tmp_path}/r1.wav |\nr4 | touch {tmp_path}/ran\n")
    found = faults(kaldi, tmp_path / "out", leave_out=True)
    commands = (f"touch {tmp_path}/ran && cat {tmp_path}/r1.wav |", f"| touch {tmp_path}/ran")
    for number, (line, command) in enumerate(zip(found, commands, strict=True), start=3):
        assert line.startswith(f"{kaldi}/wav.scp:{number}: ")
        assert repr(command) in line
    assert not (tmp_path / "ran").exists()


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        with (data / name).open("a") as file:
            file.write(f"{line}\n")

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (append("segments", "u1 r1 2 3"), "segments:4: u1 is repeated (first at"),
        (append("segments", "u4 r1 2"), "channel from 0]', got 'r1 2'"),
        (append("segments", "u4 r9 2 3"), "segments:4: recording r9 is not in wav.scp"),
        (append("segments", "u4 r1 0 1"), "segments:4: u4 has no line in text"),
        (append("text", "u4 hello"), "text:4: u4 has no audio"),
        (append("text", "u1 hello"), "text:4: u1 is repeated (first at"),
        (append("wav.scp", "r3"), "wav.scp:3: r3 has no value"),
        (
            lambda data: append("wav.scp", f"r3 {data}/wav.scp:17")(data),
            "wav.scp:3: archive offsets are not supported",
        ),
        (lambda data: (data / "text").write_bytes(b"u1 \xff"), "text:1: not UTF-8"),
    ],
)
def test_files_that_do_not_match_are_named(
    kaldi: Path, tmp_path: Path, change: Callable[[Path], None], fault: str
) -> None:
    change(kaldi)
    found = faults(kaldi, tmp_path / "out")
    assert sum(fault in line for line in found) == 1, found
    assert all(line.startswith(str(kaldi)) and line.endswith(")") for line in found)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda data: rows(data / "segments", "u1 r1 0 1", "u2 r1 2 3.5", "u3 r2 0 1"), "end 3.50 s exceeds"),
        (
            lambda data: rows(data / "segments", "u1 r1 0 1", "u2 r1 2 2", "u3 r2 0 1"),
            "invalid times 2 to 2 s",
        ),
        (
            lambda data: rows(data / "segments", "u1 r1 0 1", "u2 r1 3 3.04", "u3 r2 0 1"),
            "invalid times 3 to 3.04",
        ),
        (
            lambda data: rows(data / "segments", "u1 r1 0 1", "u2 r1 nan 2", "u3 r2 0 1"),
            "invalid times nan to",
        ),
        (lambda data: rows(data / "text", "u1 go", "u2", "u3 stop"), "empty transcript"),
    ],
)
def test_utterances_with_faults_can_be_left_out(
    kaldi: Path, tmp_path: Path, change: Callable[[Path], Any], fault: str
) -> None:
    change(kaldi)
    _, line = faults(kaldi, tmp_path / "out")
    assert fault in line
    assert [u.id for u in read(prepare(kaldi, tmp_path / "out", leave_out=True))] == ["u1", "u3"]
