"""Normalisations by name, and texts that look alike but differ."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import jiwer
import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.evaluation import prepared
from asr_emapl.scoring.normalisation import NORMALISATIONS, differs_invisibly, normalisation
from asr_emapl.scoring.tally import ScoringConfig
from asr_emapl.scoring.wer import match_ids

COMPOSED = "caf\u00e9 noir"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_normalisations() -> None:
    text = "I can't  see [noise] Caf\u00e9, 3"
    assert normalisation("none").apply(text) == text
    assert normalisation("words").apply("Caf\u00e9, two") == "CAF\u00c9 TWO"
    assert normalisation("librispeech").apply("a  b") == "A B"
    theirs = jiwer.process_words(text, "x", jiwer.wer_standardize, jiwer.wer_standardize)
    assert normalisation("jiwer").apply(text).split() == theirs.references[0]
    assert normalisation("jiwer").apply("") == ""
    for name in NORMALISATIONS:
        if not name.startswith("whisper-"):
            assert normalisation(name).name == name
            assert normalisation(name).stated


def test_whisper_normalisers() -> None:
    pytest.importorskip("whisper_normalizer", reason="no whisper-normalizer: pip install '.[whisper]'")
    assert (
        normalisation("whisper-english").apply("Mr. Smith's colours: twenty-one!")
        == "mister smith is colors 21"
    )
    assert normalisation("whisper-basic").apply("D\u00eda, [x] ok!").split() == ["d\u00eda", "ok"]


def test_unavailable_normalisations(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"unknown normalisation 'lower'.*none, jiwer, whisper-english"):
        normalisation("lower")
    monkeypatch.setitem(sys.modules, "whisper_normalizer", None)
    monkeypatch.delitem(sys.modules, "whisper_normalizer.basic", raising=False)
    monkeypatch.delitem(sys.modules, "whisper_normalizer.english", raising=False)
    with pytest.raises(
        UserError, match=r"whisper-normalizer.*run pip install '.\[whisper\]' in the checkout"
    ):
        normalisation("whisper-english")


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        (COMPOSED, DECOMPOSED, True),
        (DECOMPOSED, COMPOSED, True),
        (DECOMPOSED, DECOMPOSED, False),
        (COMPOSED, "caf\u00e8 noir", False),
        ("a b", "a\u200b b", True),
        ("\ufeffa b", "a b", True),
        ("a b", "a \u200b b", True),
        ("x y", "a b", False),
    ],
)
def test_words_that_differ_invisibly(reference: str, hypothesis: str, expected: bool) -> None:
    assert differs_invisibly(reference, hypothesis) == expected


def test_invisible_differences_cause_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, hypothesis = tmp_path / "ref.trn", tmp_path / "hyp.trn"
    reference.write_text(f"{COMPOSED} (u1)\n", "utf-8")
    hypothesis.write_text(f"{DECOMPOSED} (u1)\n", "utf-8")
    prepared(str(reference), str(hypothesis), ScoringConfig(), normalisation("none"))
    assert "1 utterances have words that look alike" in capsys.readouterr().err
    texts = prepared(str(reference), str(hypothesis), ScoringConfig(), normalisation("plain"))
    assert texts[0]["u1"].text == texts[1]["u1"]
    assert capsys.readouterr().err == ""


def test_ids_that_look_alike() -> None:
    with pytest.raises(UserError, match="look alike but differ in Unicode"):
        match_ids(["caf\u00e9"], ["cafe\u0301"], allow_missing=False)
    with pytest.raises(UserError, match=r"have no hypothesis: a; 1 hypotheses have no reference: b\. Score"):
        match_ids(["a"], ["b"], allow_missing=False)
