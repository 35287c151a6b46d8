"""Tuning: the grid, its best point, its file and its plot."""

from __future__ import annotations

import json
import math

import pytest
import torch

from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding import tuning
from asr_emapl.decoding.beam import BeamConfig
from asr_emapl.decoding.tuning import GridPoint, best, draw, grid, read_config, write_config
from asr_emapl.errors import UserError

POINTS = [GridPoint(w, b, abs(w - 1.0) + abs(b - 2.0) + 1.0) for b in (0.0, 2.0) for w in (0.0, 1.0, 2.0)]


class Search:
    """Gives A B for a weight of at least 1, otherwise no text."""

    def __init__(self, weight=0.0):
        self.weight = weight

    def weighted(self, lm_weight, word_bonus):
        return Search(lm_weight + word_bonus)

    def text(self, log_probs):
        return "A B" if self.weight >= 1 else ""


def test_grid():
    points = list(grid(Search(), {"u": torch.zeros(1, 2)}, {"u": "A C"}, [0.0, 1.0], [0.0, 1.0]))
    expected = [GridPoint(0.0, 0.0, 100.0), GridPoint(1.0, 0.0, 50.0)]
    expected += [GridPoint(0.0, 1.0, 50.0), GridPoint(1.0, 1.0, 50.0)]
    assert points == expected


def test_best_of_equals_has_the_smallest_weights():
    assert best(POINTS) == GridPoint(1.0, 2.0, 1.0)
    assert best([GridPoint(1, -2, 5), GridPoint(0.5, 4, 5), GridPoint(0.5, -2, 5)]) == GridPoint(0.5, -2, 5)


def test_config_round_trip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text("A\n")
    write_config(tmp_path / "new" / "lm.json", BeamConfig(7, "", "words", 0.5, -1.0), wer_percent=12.3456)
    assert read_config(tmp_path / "new" / "lm.json") == BeamConfig(7, "", str(tmp_path / "words"), 0.5, -1.0)
    assert json.loads((tmp_path / "new" / "lm.json").read_text())["wer_percent"] == 12.346


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"beam": "7", "lm": "", "lexicon": "", "lm_weight": 1, "word_bonus": 0, "tokenizer": ""}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "lm.json").write_text(content)
    with pytest.raises(UserError, match="output of asr-emapl tune-lm"):
        read_config(tmp_path / "lm.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "gone.json")


def test_plot(tmp_path):
    draw(POINTS, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    draw(POINTS, tmp_path / "grid.svg")
    assert "<svg" in (tmp_path / "grid.svg").read_text()
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        draw(POINTS, tmp_path / "grid.pdf")


class _Lengthening:
    """A stand-in for a search: each bonus adds a word per nat to every ten of an utterance, down to none."""

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus, self.config = bonus, BeamConfig(lm_weight=1.0)

    def weighted(self, lm_weight: float, word_bonus: float) -> _Lengthening:
        assert lm_weight == 1.0
        return _Lengthening(word_bonus)

    def text(self, log_probs: torch.Tensor) -> str:
        return " ".join(["A"] * max(0, 10 + round(self.bonus)))


@pytest.mark.parametrize(
    ("words_per_second", "tolerance", "bonus"),
    # The search has 2.5 words per second without a bonus, and 0.25 more with each nat.
    [(2.5, 0.1, 0.0), (2.7, 0.25, 0.0), (2.3, 0.25, 0.0), (3.5, 0.0, 4.0), (3.5, 0.5, 2.0), (1.5, 0.5, -2.0)],
)
def test_the_bonus_nearest_to_zero_with_the_rate_of_labelled_speech(words_per_second, tolerance, bonus):
    wanted = tuning.WordRate(words_per_second, tolerance)
    found, rate = tuning.matching_bonus(_Lengthening(), [torch.zeros(1, 2)] * 5, 20.0, wanted)
    assert found == pytest.approx(bonus, abs=0.6)
    assert rate == pytest.approx(2.5 + 0.25 * bonus)


def test_the_tolerance_is_twice_the_standard_error_over_speakers():
    def spoken(speaker: str, words: int) -> Utterance:
        return Utterance(f"{speaker}-{words}", "a.wav", 10.0, "A " * words, speaker=speaker)

    labelled = [spoken("x", 20), spoken("x", 24), spoken("y", 26), spoken("y", 30)]
    others = [Utterance(str(i), "b.wav", 5.0, speaker=f"s{i % 4}") for i in range(8)]
    rate = tuning.WordRate.of(labelled, others)
    assert rate.words_per_second == pytest.approx(2.5)
    assert rate.tolerance == pytest.approx(2.0 * math.sqrt(0.6**2 / 2.0) * math.sqrt(1 / 2 + 1 / 4))
    # Without speakers, each utterance counts by itself.
    unknown = [Utterance(str(i), "a.wav", 10.0, "A " * n) for i, n in enumerate((20, 24, 26, 30))]
    assert tuning.WordRate.of(unknown, others).tolerance < rate.tolerance
