"""Tuning: the grid, its best point, its file and its plot."""

from __future__ import annotations

import json

import pytest
import torch

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
