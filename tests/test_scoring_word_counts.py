"""Confusions, and words outside a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import align
from asr_emapl.scoring.word_counts import (
    Confusions,
    OutOfVocabulary,
    confusions,
    out_of_vocabulary,
    read_vocabulary,
)

PAIRS = [("THE CAT SAT", "THE CAT SIT"), ("ON THE MAT", "ON THE MAT"), ("", "HM"), ("A B C D", "A B X")]


def test_confusions() -> None:
    alignments = [align("A B C", "A X C D"), align("B B", "X"), align("E", "Y"), align("E", "")]
    assert confusions(alignments, 2) == Confusions(
        [("B", "X", 2), ("E", "Y", 1)], [("B", 1), ("E", 1)], [("D", 1)]
    )
    assert confusions(alignments, 1).substitutions == [("B", "X", 2)]
    assert confusions([], 5) == Confusions([], [], [])


def test_out_of_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("THE\nCAT\n\nSIT\n")
    manifest = tmp_path / "train.jsonl"
    manifest.write_text('{"id": "u", "text": "ON A MAT"}\n')
    words = read_vocabulary([str(tmp_path / "words"), str(manifest)], str)
    assert words == {"THE", "CAT", "SIT", "ON", "A", "MAT"}
    found = out_of_vocabulary([align(*pair) for pair in PAIRS], words)
    assert found == OutOfVocabulary(6, 4, 10, 4, 1, [("B", 1), ("C", 1), ("D", 1), ("SAT", 1)])
    assert found.share == 0.4
    assert json.loads(json.dumps(found.to_dict()))["share"] == 0.4
    assert out_of_vocabulary([], words).share == 0.0


def test_invalid_word_lists(tmp_path: Path) -> None:
    (tmp_path / "lexicon").write_text("A AH\nTHE DH AH\n")
    with pytest.raises(UserError, match=r"lexicon:1: 2 words.*\n.*lexicon:2: 3 words"):
        read_vocabulary([str(tmp_path / "lexicon")], str)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="no words"):
        read_vocabulary([str(tmp_path / "empty")], str)
