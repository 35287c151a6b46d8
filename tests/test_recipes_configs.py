"""The recipes' configs: all load, and the published setting says what each of its values stands on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asr_emapl.config import load_config
from asr_emapl.planning import nominal_step_audio

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
CONFIGS = sorted(RECIPES.glob("*/conf/*.yaml"))
PUBLISHED = RECIPES / "librispeech" / "conf" / "emapl_100h_860h.yaml"
# A key with a value on its line, or with a list or mapping of plain names under it.
VALUE = re.compile(r"\s*\w+:\s*[^\s#]")
MARK = re.compile(r"# .*(verified: [a-zA-Z]|from memory of the paper, not verified|our choice)")


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"quickstart", "mini", "emapl_100h_860h"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_config_loads(path: Path) -> None:
    import torch

    from asr_emapl.models.contract import build_model

    config = load_config(path)
    assert nominal_step_audio(config, 1).kappa() > 0.0
    assert config.teacher.half_life_seconds(config.batch.reference_seconds) > 0.0
    is_self_supervised = config.self_supervised.is_on
    assert bool(config.data.labelled) is not is_self_supervised
    assert bool(config.data.validation) is not is_self_supervised
    assert config.pseudo_labels.start_hours < config.hours
    assert config.optimizer.reference().at(1.0)[0]["lr"] == config.optimizer.lr
    if config.model.weights is None:  # the user's own file
        with torch.device("meta"):
            build_model(config.model, vocabulary_size=29, input_size=config.features.mel_bands)


def test_published_values_are_marked() -> None:
    lines = PUBLISHED.read_text(encoding="utf-8").splitlines()
    under_marked_list = False
    unmarked = []
    for line in lines:
        if line.lstrip().startswith("#"):
            continue
        if re.search(r":\s*#", line):
            under_marked_list = MARK.search(line) is not None
        elif under_marked_list and re.match(r"\s+(- |dev-)", line):
            continue
        else:
            under_marked_list = False
            if VALUE.match(line) and not MARK.search(line):
                unmarked.append(line)
    assert unmarked == []


def test_published_setting_is_the_one_recorded() -> None:
    import torch

    from asr_emapl.models.contract import build_model

    config = load_config(PUBLISHED)
    assert config.batch.reference_seconds == 8 * 290
    assert nominal_step_audio(config, 8).kappa() == 1.0
    assert config.teacher.half_life_seconds(config.batch.reference_seconds) / 3600 == pytest.approx(
        4467, abs=1
    )
    with torch.device("meta"):
        model = build_model(config.model, vocabulary_size=29, input_size=80)
    # The published model has about 255 M.
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(255e6, rel=0.01)
