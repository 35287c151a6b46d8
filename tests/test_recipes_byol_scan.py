"""The scan of BYOL over batches: which runs it makes, how it compares curves, and its probe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from support.self_supervised import self_supervised_config

from asr_emapl.config import load_config
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.planning import build_plan, nominal_step_audio
from asr_emapl.training.trainer import train

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "byol_scan"
CONFIG = RECIPE / "conf" / "byol.yaml"
sys.path[:0] = [str(RECIPE), str(RECIPE.parent)]

import probe  # noqa: E402
from byol_scan import POINTS, ByolScan, compare, loss_curve  # noqa: E402


def scan(kappas: list[float]) -> ByolScan:
    return ByolScan(load_config(CONFIG), kappas, 2)


def test_the_runs_of_a_scan():
    runs = list(scan([0.25, 4.0, 16.0]).runs())
    assert len(runs) == len({run.name for run in runs}) == 2 * (1 + 3 * 3 + 1)
    for run in runs:
        config = load_config(CONFIG, run.overrides)
        assert run.name.endswith(f"-seed{config.seed}")
        window = config.self_supervised.window_seconds
        assert config.batch.seconds >= window * config.self_supervised.byol.statistics_crops
        assert len(config.batch.progressive) == (2 if run.kind == "progressive" else 0)


@pytest.mark.parametrize("kappa", [0.25, 16.0])
def test_what_each_mode_scales(kappa):
    plans = {}
    for run in scan([kappa]).runs():
        config = load_config(CONFIG, run.overrides)
        plans[run.kind] = build_plan(config, nominal_step_audio(config, 1)).at(0.0)
    base = plans["reference"]
    for mode, rho, lr in (
        ("full", base.rho**kappa, base.lr * kappa**0.5),
        ("optimizer", base.rho, base.lr * kappa**0.5),
        ("nothing", base.rho, base.lr),
    ):
        found = plans[f"{mode}-kappa{kappa:g}"]
        assert (found.rho, found.lr) == pytest.approx((rho, lr)), mode


def test_curves_are_compared_by_seed(tmp_path):
    names = ("step", "gradient_norm", "utterances", "tokens", "lr", "rho", "kappa", "half_life_hours")
    rest = {"kind": "unlabelled", "taken": True} | dict.fromkeys(names, 1)
    steps = [{"event": "step", "step": i, "hours": i / 10, **rest, "loss": float(i)} for i in range(1, 81)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    curve = loss_curve(tmp_path, 8.0)
    assert len(curve) == POINTS
    assert curve[0] == (0.5, 5.0)
    assert curve[-1] == (7.5, 75.0)
    base, other = [(1.0, 2.0), (2.0, 1.0)], [(1.0, 3.0), (2.0, 2.0)]
    rows = compare(
        {
            "reference": [{"loss": base, "speaker": base}] * 2,
            "full-kappa4": [{"loss": other, "speaker": base}] * 2,
        }
    )
    (row,) = (row for row in rows if (row.kind, row.metric) == ("full-kappa4", "loss"))
    assert (row.end, row.last, row.mean, row.distance) == ([2.0, 2.0], [1.0, 1.0], [1.0, 1.0], 1.0)


def test_the_probe_separates_what_is_linearly_separable():
    torch.manual_seed(0)
    speakers = torch.arange(4).repeat_interleave(20)
    noise = torch.randn(80, 8, dtype=torch.float64)
    centres = 5.0 * torch.eye(4, 8, dtype=torch.float64)
    assert probe.accuracy(centres[speakers] + 0.5 * noise, speakers) == 1.0
    assert probe.accuracy(noise, speakers) < 0.5


def test_the_probe_of_a_run_has_a_point_for_each_checkpoint(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "UTTERANCES", 4)
    monkeypatch.setattr(probe, "SECONDS", 0.5)
    audio = sorted(corpus.glob("unlabelled-*.flac"))[:8]
    utterances = [Utterance(f"u{i}", str(path), 0.6, speaker=str(i % 2)) for i, path in enumerate(audio)]
    write_manifest(tmp_path / "speakers.jsonl", utterances)
    where = (f"data.unlabelled=[{tmp_path}/speakers.jsonl]", f"run_dir={tmp_path}/run")
    often = ("hours=0.01", "checkpoint.every_hours=0.004", "self_supervised.byol.statistics_crops=2")
    train(self_supervised_config(corpus, "byol", *where, *often, "batch.seconds=2"))
    curve = probe.probe(tmp_path / "run")
    assert len(curve) == len(list((tmp_path / "run/checkpoints").glob("step-*.pt"))) == 2
    assert all(0.0 <= accuracy <= 100.0 for _, accuracy in curve)
    monkeypatch.setattr(probe, "UTTERANCES", 20)
    with pytest.raises(UserError, match="needs two speakers with 20 utterances"):
        probe.probe(tmp_path / "run")
