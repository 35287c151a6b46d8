"""Presets: sizes, checks, and how they combine with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_emapl.checks.conformance import check
from asr_emapl.config import config_from_dict, config_to_dict, load_config
from asr_emapl.errors import UserError
from asr_emapl.models.contract import ModelConfig, build_model
from asr_emapl.models.presets import PRESETS, TRANSFORMER


@pytest.mark.parametrize(
    ("preset", "parameters"), [("small", 4.73e6), ("base", 31e6), ("paper", 256e6), ("conformer", 24.7e6)]
)
def test_sizes(preset, parameters):
    with torch.device("meta"):
        model = build_model(ModelConfig(preset=preset), vocabulary_size=29, input_size=80)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_checks_pass(preset):
    options = {"dim": 16, "heads": 2, "layers": 2} | ({"feedforward": 32} if preset == "paper" else {})
    failed = [one for one in check(ModelConfig(preset=preset, options=options)) if not one.passed]
    assert failed == []


def test_options_override_a_preset_and_are_stored(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("model: {preset: small, options: {layers: 2}}\n", encoding="utf-8")
    config = load_config(path, ["model.options.dropout=0.2"])
    assert config.model.preset is None
    assert config.model.target == TRANSFORMER
    assert config.model.options == dict(PRESETS["small"][1]) | {"layers": 2, "dropout": 0.2}
    assert config_from_dict(config_to_dict(config), "the checkpoint") == config
    assert load_config(path, ["model.preset=conformer"]).model.target.endswith(":ConformerCtc")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "model.target=my_model:Mine",
            "preset small is .*TransformerCtc, but model.target is my_model:Mine",
        ),
        ("model.preset=huge", "model.preset: 'huge' is not one of small, base, paper, conformer or null"),
    ],
)
def test_settings_that_do_not_go_with_a_preset(tmp_path: Path, override: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: {preset: small}\n", encoding="utf-8")
    with pytest.raises(UserError, match=said):
        load_config(path, [override])
