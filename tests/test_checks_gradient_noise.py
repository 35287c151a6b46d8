"""The share of noise in a run's log, and measured steps against ordinary ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.tiny import tiny_config
from typer.testing import CliRunner

from asr_emapl.checks.gradient_noise import NoiseSummary, summarise_noise
from asr_emapl.cli import app
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train


def steps(run):
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


def test_a_summary_restates_its_share():
    reading = NoiseSummary(share=0.5, interval=None, batch_seconds=48.0, reference_seconds=12.0, steps=10)
    assert reading.noise_scale_seconds == 48.0
    assert reading.reference_share == pytest.approx(48.0 / (48.0 + 12.0))
    assert NoiseSummary(1.0, None, 12.0, 12.0, 1).noise_scale_seconds == float("inf")
    records = [{"gradient_noise": [1.0, 4.0]}, {"loss": 3.0}, {"gradient_noise": [3.0, 4.0]}]
    assert summarise_noise(records, 12.0, 12.0).share == 0.5
    with pytest.raises(UserError, match="noise_every_steps"):
        summarise_noise([{"loss": 1.0}], 12.0, 12.0)


def test_the_large_gradients_of_the_beginning_do_not_decide_alone():
    """A tenth of the run has a hundred times the gradient and little noise; the rest is almost all noise."""
    early = [{"gradient_noise": [10.0, 100.0]}] * 20
    late = [{"gradient_noise": [0.95, 1.0]}] * 180
    reading = summarise_noise(early + late, 12.0, 12.0)
    assert reading.share == pytest.approx(0.9 * 0.95 + 0.1 * 0.1)
    low, high = reading.interval
    assert low < reading.share < high <= 1.0
    steady = summarise_noise(late, 12.0, 12.0)
    assert steady.interval == pytest.approx((0.95, 0.95))
    assert summarise_noise(late[:9], 12.0, 12.0).interval is None


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_narrows_with_more_steps_and_holds_the_share(seed):
    rng = np.random.default_rng(seed)
    widths = []
    for count in (100, 10_000):
        noisy = np.clip(0.8 + 0.3 * rng.standard_normal(count), 0.0, None)
        low, high = summarise_noise(
            [{"gradient_noise": [v, 1.0]} for v in noisy.tolist()], 12.0, 12.0
        ).interval
        widths.append(high - low)
        assert low - 0.05 < 0.8 < high + 0.05
    assert widths[1] < 0.3 * widths[0]


@pytest.mark.parametrize("held", ["device.max_seconds=6", "device.max_seconds=2"])
def test_measuring_changes_nothing_but_the_log(corpus, tmp_path, held):
    """In two halves (one pass would do), and in the micro-batches that memory asks for."""
    overrides = ("hours=0.006", "validation.every_hours=null", held)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'plain'}", *overrides))
    train(
        tiny_config(corpus, f"run_dir={tmp_path / 'measured'}", "optimizer.noise_every_steps=2", *overrides)
    )
    plain, measured = steps(tmp_path / "plain"), steps(tmp_path / "measured")
    assert [m["loss"] for m in measured] == pytest.approx([p["loss"] for p in plain], rel=1e-3)
    told = [i for i, m in enumerate(measured) if "gradient_noise" in m]
    assert set(told) == {i for i, m in enumerate(measured) if i % 2 == 0 and m["utterances"] > 1}
    for i in told:
        _, mean_square = measured[i]["gradient_noise"]
        assert mean_square == pytest.approx(measured[i]["gradient_norm"] ** 2)


def test_the_command_reads_a_run(corpus, tmp_path):
    run = tmp_path / "run"
    overrides = ("hours=0.006", "validation.every_hours=null", "optimizer.noise_every_steps=1")
    train(tiny_config(corpus, f"run_dir={run}", *overrides))
    told = CliRunner().invoke(app, ["gradient-noise", str(run)])
    assert told.exit_code == 0
    expected = summarise_noise(steps(run), 6.0, 6.0)
    assert f"{expected.share:.3f}" in told.output
    assert f"{expected.steps}" in told.output
