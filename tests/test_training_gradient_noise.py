"""The noise readout: estimates against known noise, and measured steps against ordinary ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import make_corpus, tiny_config
from typer.testing import CliRunner

from asr_emapl.cli import app
from asr_emapl.errors import UserError
from asr_emapl.training.gradient_noise import NoiseReading, estimate, read, square_norm
from asr_emapl.training.trainer import train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    make_corpus(root)
    return root


def steps(run):
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("counts", [[4, 4], [1, 3], [2, 2, 2, 2], [5, 1, 2]])
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_the_variance_of_gradients_with_known_noise(counts, noise):
    generator = torch.Generator().manual_seed(0)
    dim, trials, n = 20, 4000, sum(counts)
    signal = torch.randn(dim, generator=generator)
    each = signal + noise * torch.randn(trials, n, dim, generator=generator)
    parts = torch.stack([p.sum(1) / n for p in each.split(counts, dim=1)], 1)
    found = [estimate(p.square().sum(-1).tolist(), counts, p.sum(0).square().sum().item()) for p in parts]
    variance = sum(f.variance for f in found) / trials
    mean_square = sum(f.mean_square for f in found) / trials
    true = dim * noise**2 / n
    assert variance == pytest.approx(true, rel=0.05, abs=1e-5)
    assert mean_square == pytest.approx(signal.square().sum().item() + true, rel=0.05)


@given(st.lists(st.floats(0.0, 1e3), min_size=2, max_size=6))
def test_parts_that_agree_have_no_noise(direction):
    """Equal shares of one vector: nothing differs, so nothing is noise."""
    n = len(direction)
    vector = torch.tensor(direction, dtype=torch.float64)
    square = vector.square().sum().item()
    found = estimate([square / n**2] * n, [1] * n, square)
    assert found.variance == pytest.approx(0.0, abs=1e-9 * max(1.0, square))


def test_what_cannot_be_estimated():
    assert estimate([1.0], [4], 1.0) is None
    assert estimate([1.0, 0.0], [4, 0], 1.0) is None
    assert estimate([1.0, float("inf")], [2, 2], 1.0) is None
    assert estimate([1.0, 1.0], [2, 2], float("nan")) is None


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), max_size=5))
def test_the_square_norm_of_gradients(sizes):
    gradients = [None if size == 0 else torch.randn(size) for size in sizes]
    whole = torch.cat([g for g in gradients if g is not None] or [torch.zeros(1)])
    assert square_norm(gradients) == pytest.approx(whole.square().sum().item(), rel=1e-5, abs=1e-12)


def test_a_reading_restates_its_share():
    reading = NoiseReading(share=0.5, interval=None, batch_seconds=48.0, reference_seconds=12.0, steps=10)
    assert reading.noise_scale_seconds == 48.0
    assert reading.reference_share == pytest.approx(48.0 / (48.0 + 12.0))
    assert NoiseReading(1.0, None, 12.0, 12.0, 1).noise_scale_seconds == float("inf")
    records = [{"gradient_noise": [1.0, 4.0]}, {"loss": 3.0}, {"gradient_noise": [3.0, 4.0]}]
    assert read(records, 12.0, 12.0).share == 0.5
    with pytest.raises(UserError, match="noise_every_steps"):
        read([{"loss": 1.0}], 12.0, 12.0)


def test_the_large_gradients_of_the_beginning_do_not_decide_alone():
    """A tenth of the run has a hundred times the gradient and little noise; the rest is almost all noise."""
    early = [{"gradient_noise": [10.0, 100.0]}] * 20
    late = [{"gradient_noise": [0.95, 1.0]}] * 180
    reading = read(early + late, 12.0, 12.0)
    assert reading.share == pytest.approx(0.9 * 0.95 + 0.1 * 0.1)
    low, high = reading.interval
    assert low < reading.share < high <= 1.0
    steady = read(late, 12.0, 12.0)
    assert steady.interval == pytest.approx((0.95, 0.95))
    assert read(late[:9], 12.0, 12.0).interval is None


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_narrows_with_more_steps_and_holds_the_share(seed):
    rng = np.random.default_rng(seed)
    widths = []
    for count in (100, 10_000):
        noisy = np.clip(0.8 + 0.3 * rng.standard_normal(count), 0.0, None)
        low, high = read([{"gradient_noise": [v, 1.0]} for v in noisy.tolist()], 12.0, 12.0).interval
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
    expected = read(steps(run), 6.0, 6.0)
    assert f"{expected.share:.3f}" in told.output
    assert f"{expected.steps}" in told.output
