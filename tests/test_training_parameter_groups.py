"""Parts of the model with their own learning rate: scaled, frozen for a time, the same after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import make_corpus, tiny_config
from torch import Tensor, nn

from asr_emapl.config import load_config
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import OptimizerConfig, ParameterGroupConfig, build_optimizer
from asr_emapl.runs.reader import read_log
from asr_emapl.training.trainer import train

FRONT = "optimizer.groups={frontend: {lr_factor: 0.1, frozen_hours: 0.005}, output: {lr_factor: 0.0}}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("groups")
    make_corpus(root)
    return root


def weights(run: Path, step: int = -1) -> dict[str, Tensor]:
    state: dict[str, Any] = torch.load(sorted((run / "checkpoints").glob("*.pt"))[step], weights_only=True)
    return state["student"]


def trained(corpus: Path, run: Path, *overrides: str) -> dict[str, Tensor]:
    train(tiny_config(corpus, f"run_dir={run}", "checkpoint.keep=9", *overrides))
    return weights(run)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not before[name].equal(after[name])}


def test_a_part_is_frozen_for_its_hours_and_then_trained(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = trained(corpus, run, FRONT, "hours=0.002")
    still_frozen = trained(corpus, run, FRONT, "hours=0.005")
    assert moved(first, still_frozen) == {"layers", "final_norm"}
    thawed = trained(corpus, run, FRONT, "hours=0.012")
    assert moved(still_frozen, thawed) == {"layers", "final_norm", "frontend"}


def test_a_resumed_run_is_the_same(corpus: Path, tmp_path: Path) -> None:
    whole = trained(corpus, tmp_path / "whole", FRONT, "hours=0.01")
    trained(corpus, tmp_path / "parts", FRONT, "hours=0.004")
    parts = trained(corpus, tmp_path / "parts", FRONT, "hours=0.01")
    assert moved(whole, parts) == set()


def test_parts_that_change_at_a_resume_keep_the_moments_of_their_parameters(
    corpus: Path, tmp_path: Path
) -> None:
    whole = trained(corpus, tmp_path / "whole", "hours=0.006")
    trained(corpus, tmp_path / "parts", "hours=0.003", "optimizer.groups={layers.1: {}, .*bias: {}}")
    parts = trained(corpus, tmp_path / "parts", "hours=0.006", "optimizer.groups={layers.0: {}}")
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_noise_is_that_of_trained_parts(corpus: Path, tmp_path: Path) -> None:
    settings = (
        "hours=0.002",
        "batch.seconds=8",
        "device.max_seconds=4",
        "optimizer.noise_every_steps=1",
        "optimizer.groups={.*: {frozen_hours: 1.0}}",
    )
    trained(corpus, tmp_path / "run", *settings)
    log = read_log(tmp_path / "run" / "log.jsonl")
    noises = [line["gradient_noise"] for line in log if "gradient_noise" in line]
    assert noises
    assert all(noise == [0.0, 0.0] for noise in noises)


def test_a_factor_of_one_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    plain = trained(corpus, tmp_path / "plain", "hours=0.005")
    grouped = trained(
        corpus, tmp_path / "grouped", "hours=0.005", "optimizer.groups={layers: {}, frontend: {}}"
    )
    for name, expected in plain.items():
        torch.testing.assert_close(grouped[name], expected, atol=1e-6, rtol=1e-5)


def test_a_frozen_part_does_not_count_in_the_clipped_norm(corpus: Path, tmp_path: Path) -> None:
    """Otherwise its gradient would slow the rest of the model down."""
    clip, frozen = "optimizer.clip_norm=1.0e-3", "optimizer.groups={frontend: {frozen_hours: 1.0}}"
    sgd = ("optimizer.name=sgd", "optimizer.momentum=0.0", "optimizer.lr=1.0", "hours=0.0005")
    start = trained(corpus, tmp_path / "start", "hours=0.0005", "optimizer.lr=0.0")
    after = trained(corpus, tmp_path / "clipped", clip, frozen, *sgd)
    step = torch.cat([(after[n] - start[n]).flatten() for n in start if not n.startswith("frontend")])
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("kappa", [0.25, 4.0])
def test_the_factor_does_not_depend_on_kappa(kappa: float) -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "output": nn.Linear(2, 2)})
    config = OptimizerConfig(
        groups={"enc": ParameterGroupConfig(lr_factor=0.1), ".*weight": ParameterGroupConfig()}
    )
    optimizer = build_optimizer(model, "adamw", config.reference().at(kappa)[0], config.groups)
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(model.parameters())
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1, 1]
    assert [group["lr_factor"] for group in optimizer.param_groups] == [0.1, 1.0, 1.0]
    assert len({group["lr"] for group in optimizer.param_groups}) == 1


@pytest.mark.parametrize("groups", ["{nothing: {}}", "{'.*': {}, output: {}}"])
def test_a_part_without_parameters_is_an_error(corpus: Path, tmp_path: Path, groups: str) -> None:
    with pytest.raises(UserError, match=r"no parameter is left that '(nothing|output)'"):
        train(tiny_config(corpus, f"run_dir={tmp_path}", f"optimizer.groups={groups}"))


def test_unknown_settings_of_a_part_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimizer: {groups: {encoder: {lr_facto: 1.0}}}")
    with pytest.raises(UserError, match="lr_facto"):
        load_config(tmp_path / "a.yaml")


def test_an_invalid_pattern_is_an_error() -> None:
    with pytest.raises(UserError, match=r"optimizer\.groups: '\(' is not a regular expression"):
        build_optimizer(nn.Linear(2, 2), "sgd", {"lr": 0.1}, {"(": ParameterGroupConfig()})
