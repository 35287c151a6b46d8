"""Lines without ids are found; LibriSpeech's, Kaldi's and numbered ids raise no alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.missing_ids import lines_without_ids
from asr_emapl.scoring.transcripts import read_transcripts


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ("THE CAT\nTHE DOG\n", "certain"),  # repeated
        ("THE CAT\nA DOG SEES THE CAT\n", "certain"),  # a word of the text
        ("YES\nNO\n", "certain"),  # nothing but first words
        ("\u6211\u4eec\u53bb\n\u4f60\u597d\u5417\n", "certain"),
        ("the cat sat\nwe went home\n2001 was long\n", "suspected"),
        ("THE CAT\n", "suspected"),
        ("Well, hello\nGood day\n", "suspected"),
        ("1272-128104-0000 MISTER QUILTER\n1272-128104-0001 NOR IS MISTER\n", "none"),
        ("sp1_utt1 the cat\nsp1_utt2 the dog\n", "none"),
        ("1 THE CAT\n2 THE DOG\n3\n", "none"),
        ("a ONE\nb TWO\n", "none"),
        ("a a b\nb b a\n", "none"),
        ("alice HELLO THERE\nbob GOOD DAY\n", "none"),
        ("common_voice_en_1 we go\ncommon_voice_en_2 they go\n", "none"),
        ("call-a hello\ncall-b hello\n", "none"),
    ],
)
def test_findings(content: str, finding: str) -> None:
    lines = [line.partition(" ") for line in content.splitlines()]
    assert lines_without_ids([line[0] for line in lines], [line[2] for line in lines]) == finding


def test_what_a_user_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ref.txt"
    path.write_text("THE CAT\nTHE DOG\n")
    with pytest.raises(
        UserError, match=r"ref\.txt: lines begin with words \('THE', 'THE'\), not with ids.*nl -ba"
    ):
        read_transcripts(path)
    path.write_text("THE CAT\n")
    assert read_transcripts(path) == {"THE": "CAT"}
    assert "lines begin with words ('THE'), not with ids?" in capsys.readouterr().err
    path.write_text("1 THE CAT\n2 THE DOG\n")
    assert read_transcripts(path) == {"1": "THE CAT", "2": "THE DOG"}
    assert capsys.readouterr().err == ""
