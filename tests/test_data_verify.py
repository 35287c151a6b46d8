"""Utterances are compared with their audio and an alphabet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from asr_emapl.data.utterance import Utterance
from asr_emapl.data.verify import verify
from asr_emapl.text.normalise import ALPHABET


def flac(path: Path, seconds: float) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * 16000)), 16000)
    return str(path)


def test_verify_finds_nothing_wrong_with_good_utterances(tmp_path: Path) -> None:
    one, two = flac(tmp_path / "one.flac", 1.0), flac(tmp_path / "two.flac", 2.0)
    utterances = [
        Utterance("exact", one, 1.0, "DON'T GO"),
        Utterance("first half", two, 1.0),
        Utterance("second half", two, 1.0, "GO", offset=1.0),
    ]
    assert verify(utterances, ALPHABET) == []
    assert verify([Utterance("within tolerance", one, 1.04)], None) == []


def test_verify_names_each_finding(tmp_path: Path) -> None:
    one = flac(tmp_path / "one.flac", 1.0)
    text = tmp_path / "text.flac"
    text.write_text("this is no FLAC")
    utterances = [
        Utterance("absent", str(tmp_path / "absent.flac"), 1.0),
        Utterance("undecodable", str(text), 1.0),
        Utterance("letters", flac(tmp_path / "b.flac", 1.0), 1.0, "CAF\u00c9 7"),
        Utterance("short", flac(tmp_path / "c.flac", 1.0), 0.9, "GO"),
        Utterance("long", one, 1.1, "GO"),
        Utterance("past the end", flac(tmp_path / "d.flac", 1.0), 0.5, "GO", offset=0.6),
    ]
    expected = {
        "absent": "no such audio file",
        "undecodable": "not decodable",
        "letters": "characters outside the alphabet: '7\u00c9'",
        "short": "1.00 s long, but 0.90 s in the manifest",
        "long": "1.00 s long, but ends at 1.10 s in the manifest",
        "past the end": "1.00 s long, but ends at 1.10 s in the manifest",
    }
    findings = verify(utterances, ALPHABET)
    assert len(findings) == len(expected)
    for finding, (id_, fault) in zip(findings, expected.items(), strict=True):
        assert finding.startswith(f"{id_}: ")
        assert fault in finding
        assert finding.endswith(")"), "the remedy is missing"
    assert len(verify(utterances, None)) == len(expected) - 1
