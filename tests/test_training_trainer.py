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
from support.runs import finish, launch, losses, read_log
from support.tiny import make_corpus, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints import manager as checkpoint_manager
from asr_emapl.data.manifest import read_manifest
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.errors import UserError
from asr_emapl.report.usage import read_usage
from asr_emapl.training.phases import PHASES
from asr_emapl.training.selection import TrainingAudio
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
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", "device.max_seconds=3", *overrides))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 50
    assert two[:50] == pytest.approx(one[:50], rel=1e-5)
    assert two != one  # bitwise: else the second run had no second micro-batch


def test_two_processes_give_the_loss_trace_of_one(corpus, tmp_path):
    overrides = (
        "hours=0.04",
        "validation.every_hours=0.02",
        "model.options.layerdrop=0.2",
        "optimizer.lr=1e-3",
        *EMA,
    )
    several = launch(corpus, tmp_path / "two", *overrides, processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    finish(several)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) >= 20
    assert two[:20] == pytest.approx(one[:20], rel=1e-5)
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


def test_measured_noise_leaves_the_loss_trace_of_two_processes(corpus, tmp_path):
    overrides = ("hours=0.008", "validation.every_hours=null", "device.max_seconds=3")
    run = launch(corpus, tmp_path / "two", *overrides, "optimizer.noise_every_steps=3", processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    finish(run)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    steps = [line for line in read_log(tmp_path / "two") if line["event"] == "step"]
    told = [line for line in steps if "gradient_noise" in line]
    assert len(told) >= len(steps) // 3
    for line in told:
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
    overrides = ("hours=0.06", "checkpoint.every_hours=null", f"data.workers={workers}", *EMA)
    process = launch(corpus, tmp_path / "run", *overrides, start_new_session=True)
    log = tmp_path / "run" / "tensorboard"
    deadline = time.monotonic() + 120
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGTERM)
    output = finish(process)
    assert "stopped by SIGTERM" in output
    assert "Traceback" not in output
    assert finish(launch(corpus, tmp_path / "run", *overrides)).count("from 0.000 h") == 0
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    assert (tmp_path / "run" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def step_audio(config):
    """kappa as the run has it: by the mean unpadded audio of a step."""
    return TrainingAudio.measure(config, 1)


def test_what_is_nominal_and_what_goes_by_the_step(corpus, tmp_path):
    """By default rho knows each step's own audio and the learning rate only the batch; both can be turned."""
    mean = step_audio(tiny_config(corpus)).reference_seconds
    assert mean < 6.0
    rates, momenta = {}, {}
    overrides = ("hours=0.006", "validation.every_hours=null", "checkpoint.every_hours=null")
    for name, turned in (
        ("as_is", ()),
        ("turned", ("teacher.audio_per_step=nominal", "optimizer.audio_per_step=actual")),
    ):
        train(tiny_config(corpus, f"run_dir={tmp_path / name}", *overrides, *turned))
        steps = [line for line in read_log(tmp_path / name) if line["event"] == "step"]
        rates[name], momenta[name] = [s["lr"] for s in steps], [s["rho"] for s in steps]
        hours = [s["hours"] for s in steps]
    assert set(rates["as_is"]) == {5e-3}
    assert momenta["turned"] == pytest.approx([0.5 ** (mean / (0.005 * 3600))] * len(hours))
    for before, after, lr, rho in zip(
        hours, hours[1:], rates["turned"][1:], momenta["as_is"][1:], strict=False
    ):
        seconds = 3600 * (after - before)
        assert lr == pytest.approx(5e-3 * (seconds / mean) ** 0.5)
        assert rho == pytest.approx(0.5 ** (seconds / (0.005 * 3600)))


def a_step_after(checkpoint) -> str:
    """Hours that take one step more than a run has had."""
    return f"hours={checkpoint['clock']['samples'] / 16_000 / 3600 + 1e-7}"


@pytest.mark.parametrize("order", ["pre", "midpoint"])
def test_a_teacher_without_memory_is_the_student_that_its_order_looks_at(corpus, tmp_path, order):
    overrides = ("validation.every_hours=null", "checkpoint.every_hours=null", "teacher.half_life_hours=1e-9")

    def trained(name: str, hours: str):
        config = tiny_config(
            corpus, f"run_dir={tmp_path / name}", hours, f"teacher.order={order}", *overrides
        )
        return torch.load(train(config), weights_only=True)

    first = trained("first", "hours=0.0019")
    second = trained("second", a_step_after(first))
    assert second["step"] == first["step"] + 1
    before, after = first["student"], second["student"]
    for name, teacher in second["teacher"]["module"].items():
        seen = before[name] if order == "pre" else (before[name] + after[name]) / 2.0
        torch.testing.assert_close(teacher, seen, rtol=1e-5, atol=1e-6)


PROGRESSIVE = ("batch.seconds=3", "batch.reference_seconds=3", "batch.progressive=[[0.006,6],[0.012,12]]")


def test_a_progressive_batch_takes_its_hyper_parameters_from_the_reference(corpus, tmp_path, capsys):
    config = tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "device.max_seconds=3", *PROGRESSIVE)
    train(config)
    kappas = dict(zip((3, 6, 12), step_audio(config).kappas, strict=True))
    assert kappas == pytest.approx({3: 1.0, 6: 2.0, 12: 4.0}, rel=0.3)
    steps = [line for line in read_log(tmp_path / "run") if line["event"] == "step"]
    rates = {}
    for line, before in zip(steps[1:], steps, strict=False):
        hours = before["hours"]
        seconds = 3 if hours < 0.006 else 6 if hours < 0.012 else 12
        assert (line["hours"] - hours) * 3600 <= seconds
        rates.setdefault(seconds, set()).add(line["lr"])
        assert line["kappa"] == kappas[seconds]
    assert {s: len(found) for s, found in rates.items()} == {3: 1, 6: 1, 12: 1}
    base = rates[3].pop()
    assert rates[6].pop() == pytest.approx(base * kappas[6] ** 0.5)
    assert rates[12].pop() == pytest.approx(base * kappas[12] ** 0.5)
    assert f"kappa {kappas[12]:.4g}" in capsys.readouterr().out


def test_a_run_that_scales_by_the_step_resumes_digit_for_digit(corpus, tmp_path):
    overrides = ("hours=0.01", "validation.every_hours=null", "optimizer.audio_per_step=actual")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides, "hours=0.006"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides))
    assert losses(tmp_path / "two") == losses(tmp_path / "whole")


@pytest.mark.parametrize("hours", [0.005, 0.006, 0.009])
def test_a_progressive_run_resumes_within_and_between_stages(corpus, tmp_path, hours):
    overrides = ("hours=0.015", "validation.every_hours=null", "optimizer.rescale_moments=true", *PROGRESSIVE)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides, f"hours={hours}"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides))
    assert losses(tmp_path / "two") == losses(tmp_path / "whole")


def test_a_resume_at_another_batch_keeps_adams_bias_correction(corpus, tmp_path):
    run, audio = f"run_dir={tmp_path / 'run'}", "batch.reference_seconds=3"
    first = train(tiny_config(corpus, run, audio, "hours=0.005", "batch.seconds=3"))
    second = train(tiny_config(corpus, run, audio, "hours=0.007", "batch.seconds=6"))
    counts = [
        torch.load(p, weights_only=True)["optimizer"]["state"][0]["step"].item() for p in (first, second)
    ]
    steps = torch.load(second, weights_only=True)["step"] - torch.load(first, weights_only=True)["step"]
    kappa = step_audio(tiny_config(corpus, run, audio, "batch.seconds=6")).kappa()
    assert counts[1] == pytest.approx(counts[0] / kappa + steps)


def test_the_average_over_any_window_can_be_taken_afterwards(corpus, tmp_path):
    overrides = ("checkpoint.running_mean=true", "checkpoint.every_hours=null", "validation.every_hours=null")
    run = f"run_dir={tmp_path / 'run'}"
    start = train(tiny_config(corpus, run, "hours=0.0019", "checkpoint.keep=2", *overrides))
    first = torch.load(start, weights_only=True)
    end = train(tiny_config(corpus, run, a_step_after(first), "checkpoint.keep=2", *overrides))
    last = torch.load(end, weights_only=True)
    assert last["step"] == first["step"] + 1
    hours = checkpoint.average(start, end, tmp_path / "window.pt")
    assert hours == pytest.approx((last["clock"]["samples"] - first["clock"]["samples"]) / 16_000 / 3600)
    # The mean over one step is the student after that step.
    average = torch.load(tmp_path / "window.pt", weights_only=True)["teacher"]["module"]
    for name, weight in last["student"].items():
        torch.testing.assert_close(average[name], weight)
    whole = checkpoint.average(None, end, tmp_path / "whole.pt")
    assert whole == pytest.approx(last["clock"]["samples"] / 16_000 / 3600)
    with pytest.raises(UserError, match="window ends at"):
        checkpoint.average(end, start, tmp_path / "none.pt")
    assert not (tmp_path / "none.pt").exists()
    recognizer = Recognizer.load(tmp_path / "window.pt", device="cpu")
    assert len(list(recognizer(read_manifest(corpus / "dev.jsonl")))) == 4


def test_no_average_without_a_running_mean(corpus, tmp_path):
    path = train(
        tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "hours=0.002", "validation.every_hours=null")
    )
    with pytest.raises(UserError, match=r"checkpoint\.running_mean=true"):
        checkpoint.average(None, path, tmp_path / "average.pt")


def test_decoding_processes_change_nothing(corpus, tmp_path):
    overrides = ("hours=0.01", "validation.every_hours=null")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'none'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", "data.workers=2", *overrides))
    assert losses(tmp_path / "two") == losses(tmp_path / "none")


def test_a_branch_goes_on_as_the_run_itself_would_have(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", "hours=0.03"))
    seed = train(tiny_config(corpus, f"run_dir={tmp_path / 'seed'}", "hours=0.015"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'branch'}", "hours=0.03", f"init.checkpoint={seed}"))
    branch = losses(tmp_path / "branch")
    assert branch == losses(tmp_path / "whole")[-len(branch) :]


def test_weights_alone_start_a_new_clock(corpus, tmp_path):
    seed = train(tiny_config(corpus, f"run_dir={tmp_path / 'seed'}", "hours=0.01"))
    overrides = ("hours=0.005", f"init.checkpoint={seed}", "init.keep=weights")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'new'}", *overrides))
    first = read_log(tmp_path / "new")[0]
    assert first["step"] == 1
    assert first["hours"] < 0.005
    assert first["loss"] < losses(tmp_path / "seed")[0]


def test_a_torn_checkpoint_is_passed_over_and_said_so(corpus, tmp_path, capsys):
    config = tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.02")
    train(config)
    complete = (tmp_path / "log.jsonl").read_text()
    newest = max((tmp_path / "checkpoints").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    train(config)
    assert "using the previous one" in capsys.readouterr().out
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenizer=null"], "asr-emapl tokenizer"),
        (["data.labelled=[]"], "data.labelled names no manifest"),
        (["data.min_seconds=50"], "no utterance is between"),
        (["teacher.rho=0.9"], "one of teacher.half_life_hours and teacher.rho"),
        (["teacher.audio_per_step=padded"], "teacher.audio_per_step: 'padded'"),
        (["optimizer.audio_per_step=padded"], "optimizer.audio_per_step: 'padded'"),
        (["teacher.order=after"], "teacher.order: 'after' is not one of post, pre, midpoint"),
        (["teacher.schedule=linear"], "teacher.schedule: 'linear'"),
        (["pseudo_labels.strategy=magic"], "magic"),
        (["batch.seconds=-1"], "batch.seconds"),
        (["batch.progressive=[[1]]"], r"batch.progressive\[0\]: \[1\] is not"),
        (["batch.progressive=[[2,12],[1,24]]"], "batch.progressive: 1 h does not come after 2 h"),
        (["device.name=tpu"], "tpu"),
        (["device.precision=fp8"], "fp8"),
        (["optimizer.name=lion"], "lion"),
        (["schedule.shape=square"], "square"),
        (["init.checkpoint=nowhere.pt"], "nowhere.pt"),
        (["checkpoint.best_by=test"], "checkpoint.best_by 'test' is none of null, mean, dev"),
        (["model.target=nowhere:Model"], "nowhere"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_nothing(corpus, tmp_path, overrides, message):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=message) as caught:
        train(tiny_config(corpus, f"run_dir={run}", *overrides))
    assert "\n" not in str(caught.value)
    assert not run.exists()


def test_a_checkpoint_of_another_optimizer_is_refused(corpus, tmp_path):
    run = f"run_dir={tmp_path / 'run'}"
    seed = train(tiny_config(corpus, run, "hours=0.002", "validation.every_hours=null"))
    for overrides in ((run,), (f"run_dir={tmp_path / 'new'}", f"init.checkpoint={seed}")):
        with pytest.raises(UserError, match=r"optimizer\.name=adamw, not adam"):
            train(tiny_config(corpus, *overrides, "hours=0.004", "optimizer.name=adam"))


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


def test_a_later_batch_without_an_answer_is_refused_at_once(corpus, tmp_path):
    overrides = ("optimizer.name=radam", "optimizer.betas=[0.9,0.98]", "batch.progressive=[[0.01,600]]")
    with pytest.raises(UserError, match=r"optimizer: .*kappa"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides))
    linear = ("optimizer.beta_form=linear", "optimizer.betas=[0.9,0.98]", "batch.progressive=[[0.01,12]]")
    with pytest.raises(UserError, match="beta_form=linear"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *linear))


def test_a_checkpoint_of_another_tokenizer_is_refused(corpus, tmp_path):
    from asr_emapl.text.tokenizer import CharacterTokenizer, save_tokenizer

    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "hours=0.003"))
    save_tokenizer(tmp_path / "other.json", CharacterTokenizer("ABCDILNO "))
    with pytest.raises(UserError, match="another tokenizer"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", f"tokenizer={tmp_path / 'other.json'}"))


def test_a_checkpoint_of_another_model_is_refused(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path}", "hours=0.003"))
    with pytest.raises(UserError, match="does not fit"):
        train(tiny_config(corpus, f"run_dir={tmp_path}", "model.options.dim=32"))


def test_letters_outside_the_alphabet_name_the_utterance(corpus, tmp_path):
    line = json.loads((corpus / "labelled.jsonl").read_text().splitlines()[0])
    (tmp_path / "bad.jsonl").write_text(json.dumps(line | {"id": "odd-one", "text": "CAF\u00c9"}) + "\n")
    with pytest.raises(UserError, match="odd-one"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", f"data.labelled=[{tmp_path / 'bad.jsonl'}]"))
