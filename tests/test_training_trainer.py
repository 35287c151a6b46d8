"""Whole runs: they learn, resume bit for bit, depend on no micro-batch or process, stop politely."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from support.runs import IN_FLOAT64, finish, launch, losses, read_log
from support.tiny import make_corpus, step_audio, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints import manager as checkpoint_manager
from asr_emapl.data.manifest import read_manifest
from asr_emapl.errors import UserError
from asr_emapl.report.usage import read_usage
from asr_emapl.runs.phases import PHASES
from asr_emapl.training.trainer import train

TESTS = Path(__file__).parent


EMA = ("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.01")


def test_a_run_learns_and_leaves_what_the_design_says(corpus, tmp_path):
    run = tmp_path / "run"
    last = train(tiny_config(corpus, f"run_dir={run}", "hours=0.05", "optimizer.lr=0.01", *EMA))
    lines = read_log(run)
    steps = [line for line in lines if line["event"] == "step"]
    assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
    assert steps[-1]["hours"] >= 0.05 > steps[-2]["hours"]
    kinds = [line["kind"] for line in steps]
    first = kinds.index("unlabelled")
    assert steps[first - 1]["hours"] >= 0.01
    assert kinds.count("unlabelled") == pytest.approx(kinds[first:].count("labelled"), abs=2)
    validations = [line for line in lines if line["event"] == "validation"]
    assert set(validations[-1]["wer"]) == {"student/dev", "teacher/dev"}
    assert last == max((run / "checkpoints").glob("step-*.pt"))
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    best = min(validations, key=lambda line: line["wer"]["teacher/dev"])
    assert (run / "checkpoints" / "best.pt").resolve().name == f"step-{best['step']:09d}.pt"
    newest = [f"step-{line['step']:09d}.pt" for line in steps][-1]
    assert newest in kept
    assert 3 <= len(kept) <= 4  # best.pt, which is one of the newest two or a third
    assert "run_dir" in (run / "config.yaml").read_text()
    assert list((run / "tensorboard").glob("events*"))


def test_a_finished_run_is_left_as_it_is(corpus, tmp_path, capsys):
    config = tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.005")
    first = train(config)
    before = (tmp_path / "log.jsonl").read_bytes()
    assert train(config) == first
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert "nothing to do" in capsys.readouterr().out


def test_kill_9_and_resume_equals_an_uninterrupted_run_digit_for_digit(corpus, tmp_path):
    overrides = ("hours=0.06", "model.options.dropout=0.2", "model.options.layerdrop=0.2", *EMA)
    whole = launch(corpus, tmp_path / "whole", *overrides)
    cut = launch(corpus, tmp_path / "cut", *overrides)
    checkpoints = tmp_path / "cut" / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(checkpoints.glob("step-*.pt"))) < 2 and cut.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    cut.kill()
    cut.communicate()
    assert cut.returncode == -signal.SIGKILL
    killed_at = len((tmp_path / "cut" / "log.jsonl").read_text().splitlines())
    output = finish(launch(corpus, tmp_path / "cut", *overrides))
    finish(whole)
    assert "from 0.000 h" not in output
    expected = (tmp_path / "whole" / "log.jsonl").read_text()
    assert killed_at < len(expected.splitlines())
    assert (tmp_path / "cut" / "log.jsonl").read_text() == expected
    name = max(path.name for path in checkpoints.glob("step-*.pt"))
    one = checkpoint.load(tmp_path / "whole" / "checkpoints" / name)
    other = checkpoint.load(checkpoints / name)
    for which in ("student", "teacher"):
        left = one[which] if which == "student" else one[which]["module"]
        right = other[which] if which == "student" else other[which]["module"]
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_twice_the_micro_batches_give_the_same_loss_trace(corpus, tmp_path):
    overrides = (
        "hours=0.1",
        "validation.every_hours=null",
        "model.options.layerdrop=0.2",
        "optimizer.lr=1e-3",
        *EMA,
    )
    finish(launch(corpus, tmp_path / "one", *overrides, program=IN_FLOAT64))
    finish(launch(corpus, tmp_path / "two", "device.max_seconds=3", *overrides, program=IN_FLOAT64))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 50
    assert two[:50] == pytest.approx(one[:50], rel=1e-9)
    assert two != one  # bitwise: else the second run had no second micro-batch


def test_two_processes_give_the_loss_trace_of_one(corpus, tmp_path):
    overrides = (
        "hours=0.04",
        "validation.every_hours=0.02",
        "model.options.layerdrop=0.2",
        "optimizer.lr=1e-3",
        *EMA,
    )
    several = launch(corpus, tmp_path / "two", *overrides, processes=2, program=IN_FLOAT64)
    finish(launch(corpus, tmp_path / "one", *overrides, program=IN_FLOAT64))
    finish(several)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 20
    assert two[:20] == pytest.approx(one[:20], rel=1e-9)
    last = [
        [line["wer"] for line in read_log(tmp_path / n) if line["event"] == "validation"]
        for n in ("one", "two")
    ]
    assert last[0][-1].keys() == last[1][-1].keys()
    timed = [json.loads(line) for line in (tmp_path / "two" / "speed.jsonl").read_text().splitlines()]
    ranks = [of for line in timed if "ranks" in line for of in line["ranks"]]
    assert sum(of["steps"] for of in ranks) == 2 * len(two)
    assert sum(of["audio"] for of in ranks) == pytest.approx(
        3600 * read_log(tmp_path / "two")[-1]["hours"], abs=0.1
    )
    assert all(of[phase] > 0.0 for of in ranks for phase in PHASES)
    usage = read_usage(tmp_path / "two")
    assert usage.processes == 2
    assert 0.0 < usage.padding < 0.5


def test_undecodable_audio_is_skipped_alike_by_one_process_and_by_two(tmp_path):
    make_corpus(tmp_path)
    gone = tmp_path / "labelled-03.flac"
    gone.unlink()
    overrides = (
        "hours=0.02",
        "validation.every_hours=null",
        "data.workers=1",
        "perturb.speed.factors=[0.9,1.1]",
    )
    several = launch(tmp_path, tmp_path / "two", *overrides, *EMA, processes=2)
    train(tiny_config(tmp_path, f"run_dir={tmp_path / 'one'}", *overrides, *EMA))
    finish(several)
    assert losses(tmp_path / "two")[:10] == pytest.approx(losses(tmp_path / "one")[:10], rel=1e-4)
    lists = [(tmp_path / run / "skipped.jsonl").read_text() for run in ("one", "two")]
    assert lists[0] == lists[1]
    (line,) = map(json.loads, lists[0].splitlines())
    assert (line["id"], line["audio"], line["epoch"]) == ("labelled-03", str(gone), 0)
    steps = [line for line in read_log(tmp_path / "one") if line["event"] == "step"]
    counts = [line["dropped"]["undecodable"] for line in steps if "undecodable" in line.get("dropped", {})]
    assert len(counts) >= 2
    # The clock is the plan's: a pass over the labelled audio is as long as it would be with the file.
    whole = sum(u.samples for u in read_manifest(tmp_path / "labelled.jsonl"))
    consumed = [line["hours"] * 3600 * 16_000 for line in steps]
    assert any(abs(samples - whole) < 1 for samples in consumed)


def test_too_much_undecodable_audio_ends_the_run_with_a_line(tmp_path):
    make_corpus(tmp_path)
    # All but one: a pass that teaches nothing at all ends a run before the share does.
    for path in sorted(tmp_path.glob("labelled-*.flac"))[1:]:
        path.write_bytes(b"fLaC and then nothing")
    run = launch(tmp_path, tmp_path / "run", "data.workers=1", processes=2)
    output, _ = run.communicate(timeout=240)
    assert run.returncode != 0
    assert "data.max_skipped_share=0.01" in output
    assert "Trainer" not in output  # no traceback but torchrun's own
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 15


def test_a_decoding_process_that_is_killed_ends_the_run_with_a_line(corpus, tmp_path):
    run = launch(corpus, tmp_path, "hours=100", "data.workers=2", "validation.every_hours=null")
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 2
    assert f"error: decoding process {children[-1]} was killed by SIGKILL" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_the_noise_of_a_step_is_the_same_on_any_number_of_processes(corpus, tmp_path, sharding):
    """And measuring it leaves the loss trace as it is."""
    overrides = ("hours=0.008", "validation.every_hours=null", "device.max_seconds=3")
    measured = "optimizer.noise_every_steps=3"
    run = launch(corpus, tmp_path / "two", *overrides, measured, f"device.sharding={sharding}", processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides, measured, "device.max_seconds=6"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'plain'}", *overrides))
    finish(run)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)
    one, two = (
        [line for line in read_log(tmp_path / name) if "gradient_noise" in line] for name in ("one", "two")
    )
    steps = [line for line in read_log(tmp_path / "two") if line["event"] == "step"]
    assert (
        [line["step"] for line in one]
        == [line["step"] for line in two]
        == [1 + n for n in range(0, len(steps), 3)]
    )
    for line, other in zip(one, two, strict=True):
        assert line["gradient_noise"] == pytest.approx(other["gradient_noise"], rel=2e-3)
        assert line["gradient_noise"][1] == pytest.approx(line["gradient_norm"] ** 2)


@pytest.mark.parametrize("measured", ["null", 1])
def test_more_processes_than_utterances_in_a_batch(corpus, tmp_path, measured):
    overrides = (
        f"optimizer.noise_every_steps={measured}",
        "hours=0.004",
        "batch.seconds=2",
        "batch.reference_seconds=2",
        "validation.every_hours=null",
    )
    several = launch(corpus, tmp_path / "three", *overrides, processes=3)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    finish(several)
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_saves_and_the_same_command_goes_on(corpus, tmp_path, workers):
    """To the whole process group, as schedulers send it: decoding processes get it too."""
    overrides = ("hours=0.2", "checkpoint.every_hours=null", f"data.workers={workers}", *EMA)
    process = launch(corpus, tmp_path / "run", *overrides, start_new_session=True)
    log = tmp_path / "run" / "tensorboard"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    output = finish(process)
    assert "stopped as requested" in output
    assert "Traceback" not in output
    assert finish(launch(corpus, tmp_path / "run", *overrides)).count("from 0.000 h") == 0
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    assert (tmp_path / "run" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_a_torn_checkpoint_is_passed_over_and_said_so(corpus, tmp_path, capsys):
    config = tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.02")
    train(config)
    complete = (tmp_path / "log.jsonl").read_text()
    newest = max((tmp_path / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    train(config)
    assert "using the previous checkpoint" in capsys.readouterr().out
    assert (tmp_path / "log.jsonl").read_text() == complete


def test_a_full_disk_is_a_warning_and_the_run_the_same(corpus, tmp_path, capsys, monkeypatch):
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", "hours=0.025"))
    calls, save = [], checkpoint_manager.save

    def sometimes(path, state):
        calls.append(path)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        save(path, state)

    monkeypatch.setattr(checkpoint_manager, "save", sometimes)
    capsys.readouterr()
    last = train(tiny_config(corpus, f"run_dir={tmp_path / 'full'}", "hours=0.025"))
    told = capsys.readouterr().out
    assert told.count("could not be written (No space left on device); the previous one is kept") == 2
    assert (tmp_path / "full" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    assert checkpoint.load(last)["step"] == len(losses(tmp_path / "full"))
    speed = [json.loads(line) for line in (tmp_path / "full" / "speed.jsonl").read_text().splitlines()]
    written = [line for line in speed if line.get("event") == "checkpoint"]
    assert len(written) == len(calls) - 2
    assert all(line["bytes"] > 100_000 and line["write_s"] > 0 <= line["copy_s"] for line in written)


def test_a_run_without_its_last_checkpoint_is_no_success(corpus, tmp_path, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_manager, "save", full)
    with pytest.raises(UserError, match=r"last checkpoint, of step .* \(No space left"):
        train(tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.004", "validation.every_hours=null"))
    assert list((tmp_path / "checkpoints").glob("*")) == []


def test_checkpoints_for_good_are_an_interval_of_audio_apart(corpus, tmp_path):
    overrides = ("hours=0.03", "checkpoint.keep=1", "checkpoint.best_by=null", "validation.every_hours=null")
    train(tiny_config(corpus, f"run_dir={tmp_path}", *overrides, "checkpoint.keep_every_hours=0.01"))
    kept = [checkpoint.load(path) for path in sorted((tmp_path / "checkpoints").glob("step-*.pt"))]
    hours = [state["clock"]["samples"] / 16_000 / 3600 for state in kept]
    assert hours == pytest.approx([0.01, 0.02, 0.03], abs=6 / 3600)


def test_oracle_uses_the_true_texts(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.02", "pseudo_labels.strategy=oracle"))
    unlabelled = [line for line in read_log(tmp_path) if line.get("kind") == "unlabelled"]
    assert unlabelled[0]["tokens"] > 3 * unlabelled[0]["utterances"]
    assert unlabelled[0]["confidence"] == 1.0


def test_dropout_switches_when_pseudo_labels_begin(corpus, tmp_path):
    """With dropout off from the start of pseudo-labels on, nothing is left of the config's."""
    seed = train(tiny_config(corpus, f"run_dir={tmp_path / 'seed'}", "hours=0.01"))
    common = ("hours=0.02", f"init.checkpoint={seed}", "pseudo_labels.strategy=oracle")
    switched = ("pseudo_labels.dropout=0", "pseudo_labels.layerdrop=0")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'plain'}", *common))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'drop'}", "model.options.dropout=0.5", *common))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'off'}", "model.options.dropout=0.5", *switched, *common))
    assert losses(tmp_path / "off") == losses(tmp_path / "plain")
    assert losses(tmp_path / "drop") != losses(tmp_path / "plain")


def test_bf16_autocast_trains(corpus, tmp_path):
    train(
        tiny_config(
            corpus, f"run_dir={tmp_path}", "hours=0.05", "device.precision=bf16", "optimizer.lr=0.01", *EMA
        )
    )
    trace = losses(tmp_path)
    assert trace[-1] < 0.7 * trace[0]


@pytest.mark.gpu
def test_cuda_trains_in_bf16(corpus, tmp_path):
    overrides = ("hours=0.05", "device.name=cuda", "device.precision=bf16", "optimizer.lr=0.01", *EMA)
    train(tiny_config(corpus, f"run_dir={tmp_path}", *overrides))
    trace = losses(tmp_path)
    assert trace[-1] < 0.7 * trace[0]


def test_auto_batch_is_what_the_devices_hold(corpus, tmp_path, capsys):
    train(
        tiny_config(
            corpus, f"run_dir={tmp_path}", "hours=0.003", "batch.seconds=auto", "device.max_seconds=12"
        )
    )
    told = capsys.readouterr().out
    kappa = step_audio(tiny_config(corpus, "batch.seconds=12")).kappa()
    assert kappa == pytest.approx(2.0, rel=0.2)
    assert re.search(rf"batch 12 s \([\d.]+ s of audio on average\), kappa {kappa:.4g}", told)
    assert "warning: kappa (1 - rho) is 0." in told
    train(tiny_config(corpus, f"run_dir={tmp_path / 'reference'}", "hours=0.003"))
    assert "warning" not in capsys.readouterr().out


def test_a_schedule_goes_by_the_runs_own_clock(corpus, tmp_path):
    """Not by that of a checkpoint of which only the weights are taken, nor by padded seconds."""
    overrides = ("hours=0.01", "validation.every_hours=null", "teacher.schedule=cosine")
    seed = train(tiny_config(corpus, f"run_dir={tmp_path / 'seed'}", *overrides))
    fresh = (f"run_dir={tmp_path / 'fresh'}", f"init.checkpoint={seed}", "init.keep=weights")
    train(tiny_config(corpus, *fresh, *overrides, "teacher.audio_per_step=nominal"))
    half_lives = {}
    for name in ("seed", "fresh"):
        steps = [line for line in read_log(tmp_path / name) if line["event"] == "step"]
        # The last step may begin so near the end that rho is 1.
        half_lives[name] = [steps[0]["rho"], steps[-2]["rho"]]
    assert half_lives["fresh"][0] < 0.87 < half_lives["fresh"][1] < 1.0
    assert half_lives["seed"][1] < 1.0
    rising = [s["rho"] for s in read_log(tmp_path / "fresh") if s["event"] == "step"]
    assert rising == sorted(rising)
    # A nominal step has the mean audio of all: rho and the half-life say the same.
    mean = step_audio(tiny_config(corpus)).reference_seconds
    for line in read_log(tmp_path / "fresh"):
        if line["event"] == "step":
            # Infinite at the end, which JSON does not have.
            half_life = math.inf if line["half_life_hours"] is None else line["half_life_hours"]
            assert line["rho"] == pytest.approx(0.5 ** (mean / 3600.0 / half_life))


def test_a_run_that_ends_before_pseudo_labels_start_says_so(corpus, tmp_path, capsys):
    short = (f"run_dir={tmp_path / 'run'}", "hours=0.002", "pseudo_labels.start_hours=0.002")
    train(tiny_config(corpus, *short, "pseudo_labels.strategy=ema", "validation.every_hours=null"))
    assert "warning: the run ends before pseudo-labels start: hours=0.002" in capsys.readouterr().out
    train(tiny_config(corpus, *short, f"run_dir={tmp_path / 'supervised'}"))
    assert "before pseudo-labels" not in capsys.readouterr().out
