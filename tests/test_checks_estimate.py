"""Memory computed from shapes agrees with what is counted or measured; the estimate has all of a run."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from support.commands import fail, succeed
from support.tiny import make_corpus, tiny_config, write_tiny_config

from asr_emapl.checks.estimate import bytes_of, estimate, fitting_seconds
from asr_emapl.checks.memory import AllocationCount, bytes_on_gpu
from asr_emapl.checks.trial_step import StepElsewhere, StepHere, random_batch
from asr_emapl.errors import UserError
from asr_emapl.models.transformer import TransformerCtc

GIB = 2**30


@pytest.fixture
def config(tmp_path):
    make_corpus(tmp_path)
    options = "{dim: 64, heads: 4, layers: 3, norm: pre, dropout: 0.0, frontend_dropout: 0.0}"
    return tiny_config(tmp_path, f"model.options={options}", "device.max_seconds=24")


def counted_step(config) -> int:
    """Bytes that all tensors of a second train step take, with models and optimizer."""
    with AllocationCount() as count:
        here = StepHere(config)
        batch = random_batch(config.device.max_seconds, 1.5, True, 29, here.second)
        here.step(batch)
        here.step(batch)
        count.peak = 0
        here.step(batch)
    return count.peak


def test_allocations_are_counted_while_they_live():
    with AllocationCount() as count:
        kept = torch.zeros(1024)
        _ = torch.zeros(2048).sum()
        view = kept.view(2, 512)
    assert count.live == 4096 + 512
    assert count.peak == 4096 + 8192 + 512
    del kept
    assert count.live == 4096 + 512
    del view
    assert count.live == 512


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_memory_is_that_of_a_step(config, monkeypatch, elsewhere):
    monkeypatch.setattr("asr_emapl.checks.estimate._longest", lambda *_: 1.5)
    found = estimate(config, throughput=100.0, elsewhere=elsewhere).memory
    assert found.total == pytest.approx(counted_step(config), rel=0.15)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("views_and_layers", [(0.2, []), (0.0, [1, 2])])
def test_two_views_and_intermediate_layers_take_memory(config, monkeypatch, views_and_layers, elsewhere):
    monkeypatch.setattr("asr_emapl.checks.estimate._longest", lambda *_: 1.5)
    plain = estimate(config, throughput=100.0, elsewhere=elsewhere).memory
    config.loss.consistency, config.model.options["intermediate_layers"] = views_and_layers
    found = estimate(config, throughput=100.0, elsewhere=elsewhere).memory
    assert found.total > plain.total
    assert found.total == pytest.approx(counted_step(config), rel=0.15)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_batch_that_fits_takes_the_memory(config, monkeypatch, elsewhere):
    monkeypatch.setattr("asr_emapl.checks.estimate._longest", lambda *_: 1.5)
    limit = 150_000_000
    fits = estimate(config, limit=limit, throughput=100.0, elsewhere=elsewhere).memory.fitting_seconds
    assert fits > 2 * config.device.max_seconds
    config.device.max_seconds = fits
    assert counted_step(config) == pytest.approx(0.9 * limit, rel=0.15)


# Measured on an H100 (benchmarks/RESULTS.md), for 20 utterances of 14.5 s.
@pytest.mark.slow
@pytest.mark.parametrize(("bf16", "measured"), [(True, 15.1), (False, 21.7)])
def test_the_paper_model_takes_the_memory_of_a_gpu(bf16, measured):
    with torch.device("meta"):
        model = TransformerCtc(29, dim=768, layers=36, heads=4)
    kept = 16 * sum(p.numel() for p in model.parameters())  # student, teacher, moments
    passes = bytes_on_gpu(model, (20, 1450, 80), 203, 1, bf16=bf16)
    assert (kept + passes) / GIB == pytest.approx(measured, rel=0.15)


def test_gradients_are_accumulated_over_micro_batches():
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(1000, 1000))
    model.forward = lambda x, n: ((x @ model.weight).mean(-1, keepdim=True).expand(-1, -1, 29), n)
    once, twice = (bytes_on_gpu(model, (1, 20_000, 1000), 1, n, bf16=False) for n in (1, 2))
    assert twice - once == pytest.approx(4_000_000, rel=0.5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_no_layer_is_dropped_in_the_worst_case(config, elsewhere):
    model = (StepElsewhere if elsewhere else StepHere)(config)
    expected = model.passes(4, 1.5)
    model.student.set_dropout(layerdrop=1.0)
    assert model.passes(4, 1.5) == expected
    assert model.student.layerdrop == 1.0


def test_a_model_that_reads_values_is_named(config, monkeypatch):
    monkeypatch.setattr(TransformerCtc, "forward", lambda self, x, n: (x[: int(n.max())], n))
    with pytest.raises(UserError, match="TransformerCtc cannot be computed"):
        StepElsewhere(config).passes(1, 1.0)


def test_steps_follow_the_batch(config):
    config.hours, config.batch.seconds = 0.01, 6.0
    found = estimate(config, throughput=36.0)
    assert found.steps == pytest.approx(36.0 / found.step_seconds, abs=1)
    assert 4.0 < found.step_seconds <= 6.0
    assert found.hours == pytest.approx(0.01 / 36.0)
    config.batch.progressive = [[0.005, 12.0]]
    assert estimate(config, throughput=36.0).steps < found.steps


def test_other_programs_do_not_change_the_speed(config, monkeypatch):
    """On a loaded machine, a step waits for the core."""
    idle = StepHere(config).speeds(["labelled"])["labelled"]
    take = StepHere._take

    def slowly(self, batch):
        time.sleep(0.5)
        take(self, batch)

    monkeypatch.setattr(StepHere, "_take", slowly)
    assert StepHere(config).speeds(["labelled"])["labelled"] > 0.4 * idle


def test_the_estimate_says_what_it_assumes(config):
    assumed = "on an otherwise idle machine"
    measured, given = estimate(config), estimate(config, throughput=36.0)
    assert assumed in str(measured)
    assert assumed in " ".join(measured.rows()[-1])
    assert assumed not in str(given) + " ".join(given.rows()[-1])


def test_it_is_measured_with_the_threads_of_the_run(config, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    config.device.threads = 3
    StepHere(config)
    assert threads == [3]


def test_measuring_shows_its_progress(config, monkeypatch, capsys):
    monkeypatch.setattr("asr_emapl.progress.LINE_EVERY_S", 0.001)
    estimate(config)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("measuring steps: ") for line in lines)
    done, total = (float(number) for number in re.search(r"(\d+) of (\d+) s of audio", lines[-1]).groups())
    assert total - 25.0 < done < total + 5.0  # the last line may be from before the last step, of 24 s


def test_the_batch_is_lowered_until_it_fits(config):
    said: list[str] = []
    seconds = fitting_seconds(config, 12_000_000, said.append)
    assert seconds < 24.0
    assert len(said) > 1
    assert "does not fit" in said[0]
    assert "does not fit" not in said[-1]
    with pytest.raises(UserError, match=r"data\.max_seconds"):
        fitting_seconds(config, 1_000_000, said.append)
    with pytest.raises(UserError, match="--gpu-memory"):
        fitting_seconds(config, None, said.append)


@pytest.mark.parametrize(
    ("text", "found"), [("80GB", 80e9), ("79.5 GiB", 79.5 * GIB), ("24", 24e9), ("8g", 8e9)]
)
def test_memory_is_read(text, found):
    assert bytes_of(text) == found


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0GB", "80TB", "1e9"])
def test_other_memory_is_refused(text):
    with pytest.raises(UserError, match="--gpu-memory"):
        bytes_of(text)


def test_the_command(tmp_path: Path):
    make_corpus(tmp_path)
    config = write_tiny_config(tmp_path)
    said = succeed("plan", "--config", config, "--gpus", 8, "--gpu-memory", "80GB", "--throughput", 2000)
    for shown in ("parameters", "teacher", "optimizer", "MB more per second", "max_seconds that fits"):
        assert shown in said
    assert "2000 x real time" in said
    assert "real time labelled" in succeed("plan", "--config", config)
    assert "device.max_seconds=6:" in succeed("plan", "--config", config, "--find", "--gpu-memory", "8GB")
    assert "--gpu-memory" in fail("plan", "--config", config, "--gpu-memory", "big")
