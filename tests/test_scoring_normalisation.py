"""Normalisations by name."""

from __future__ import annotations

import sys

import jiwer
import pytest

from asr_emapl.errors import UserError
from asr_emapl.scoring.normalisation import NORMALISATIONS, normalisation


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
    with pytest.raises(UserError, match=r"'lower' is not known.*none, jiwer, whisper-english"):
        normalisation("lower")
    monkeypatch.setitem(sys.modules, "whisper_normalizer", None)
    monkeypatch.delitem(sys.modules, "whisper_normalizer.basic", raising=False)
    monkeypatch.delitem(sys.modules, "whisper_normalizer.english", raising=False)
    with pytest.raises(UserError, match=r"whisper-normalizer.*pip install 'asr_emapl\[whisper\]'"):
        normalisation("whisper-english")
