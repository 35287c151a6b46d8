"""Texts that look alike count as errors and cause a warning."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.evaluation import ScoringConfig, prepared
from asr_emapl.scoring.normalisation import normalisation
from asr_emapl.scoring.wer import match_ids
from asr_emapl.scoring.written_forms import hidden_differences

COMPOSED = "caf\u00e9 noir"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        (COMPOSED, DECOMPOSED, 1),
        (DECOMPOSED, COMPOSED, 1),
        (DECOMPOSED, DECOMPOSED, 0),
        (COMPOSED, "caf\u00e8 noir", 0),
        ("a b", "a\u200b b", 1),
        ("\ufeffa b", "a b", 1),
        ("a b", "a \u200b b", 1),
        ("x y", "a b", 0),
    ],
)
def test_pairs(reference: str, hypothesis: str, expected: int) -> None:
    assert hidden_differences([(reference, hypothesis)]) == expected


def test_a_pair_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, hypothesis = tmp_path / "ref.trn", tmp_path / "hyp.trn"
    reference.write_text(f"{COMPOSED} (u1)\n", "utf-8")
    hypothesis.write_text(f"{DECOMPOSED} (u1)\n", "utf-8")
    prepared(str(reference), str(hypothesis), ScoringConfig(), normalisation("none"))
    assert "1 utterances have words that look alike" in capsys.readouterr().err
    texts = prepared(str(reference), str(hypothesis), ScoringConfig(), normalisation("plain"))
    assert texts[0]["u1"].text == texts[1]["u1"]
    assert capsys.readouterr().err == ""


def test_ids() -> None:
    with pytest.raises(UserError, match="look alike and differ in Unicode"):
        match_ids(["caf\u00e9"], ["cafe\u0301"], allow_missing=False)
    with pytest.raises(UserError, match=r"have no hypothesis: a; 1 hypotheses have no reference: b\. Score"):
        match_ids(["a"], ["b"], allow_missing=False)
