"""Candidates: each file is read once, faults are listed per utterance, valid candidates are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.corpora import noise

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from data_prep import candidates
from data_prep.candidates import Candidate, check, preset, settle


def test_valid_candidates_become_utterances_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = str(noise(tmp_path / "a.wav", 2.0))
    looked_at: list[str] = []
    real = candidates.probe_whole
    monkeypatch.setattr(candidates, "probe_whole", lambda path: looked_at.append(path) or real(path))
    stated = [
        Candidate("b", audio, "t:1", "go", "ann", offset=0.5, duration=1.5),
        Candidate("a", audio, "t:2", None, offset=0.5),
        Candidate("c", audio, "t:3", "on", duration=2.04),  # within the tolerance
    ]
    found = check(stated, preset("librispeech"), 2)
    assert (found.findings, looked_at) == ([], [audio])
    assert found.notes == [
        "2 of 2 transcripts changed: 2 capitalised (capitals, straight apostrophes, single spaces)"
    ]
    assert found.utterances == [
        Utterance("b", audio, 1.5, "GO", "ann", 0.5),
        Utterance("a", audio, 1.5, None, None, 0.5),
        Utterance("c", audio, 2.0, "ON"),
    ]


def test_all_faults_of_an_utterance_are_on_one_line(tmp_path: Path) -> None:
    audio = str(tmp_path / "absent.wav")
    stated = [
        Candidate("a", audio, "t:1", "go"),
        Candidate("a", audio, "t:2", "7 caf\u00e9s", fault="odd (look)"),
    ]
    one, two = check(stated, preset("librispeech"), 1).findings
    assert one == f"t:1: {audio}: no such audio file (correct the path, or copy the file)"
    for fault in (
        "t:2: invalid characters '7', '\u00c9' in '7 CAF\u00c9S'",
        "odd (look)",
        "no such audio file",
        "id 'a' is also used by t:1",
    ):
        assert two.count(fault) == 1


def test_settle(tmp_path: Path) -> None:
    stated = [Candidate(str(number), str(tmp_path / "absent"), f"t:{number}") for number in range(60)]
    found = check(stated, preset("plain"), 1)
    with pytest.raises(UserError) as error:
        settle("dev", found, leave_out=False)
    lines = str(error.value).split("\n")
    assert lines[0].startswith("dev: 60 faults")
    assert len(lines) == 51
    assert lines[-1] == "... and 11 more"
    (note,) = settle("dev", found, leave_out=True)
    assert note.startswith("dev: 60 skipped:\nt:0: ")
    assert note.endswith("\n... and 55 more")
