"""Hyper-parameters that follow the audio, and runs that resume or branch."""

from __future__ import annotations

import re

import pytest
import torch
from support.runs import assert_resumes_anywhere, finish, launch, losses, read_log
from support.tiny import step_audio, tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.data.manifest import read_manifest
from asr_emapl.errors import UserError
from asr_emapl.planning import build_batches
from asr_emapl.training.trainer import train


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


DECAY = ("batch.seconds=3", "batch.reference_seconds=3", "schedule.decay_from_hours=0.004", "hours=0.02")
DOUBLED = ("batch.growth=decay", "batch.max_seconds=12", "validation.every_hours=null")
KEPT = ("checkpoint.every_hours=0.003", "checkpoint.keep=99", "checkpoint.best_by=null")


def test_a_batch_that_doubles_with_the_decay_is_a_progressive_batch(corpus, tmp_path):
    """At each halving; it resumes within and between stages, and the explicit schedule gives the same run."""
    config = tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *DECAY, *DOUBLED, *KEPT)
    train(config)
    batches = build_batches(config, 1)
    assert batches.all == (3.0, 6.0, 12.0)
    kappas = [line["kappa"] for line in read_log(tmp_path / "whole") if line["event"] == "step"]
    assert sorted(set(kappas)) == pytest.approx(step_audio(config).kappas)
    assert_resumes_anywhere(tmp_path / "whole", config)
    stages = f"batch.progressive={[list(change) for change in batches.changes]}"
    train(tiny_config(corpus, f"run_dir={tmp_path / 'told'}", *DECAY, DOUBLED[2], stages))
    assert losses(tmp_path / "told") == losses(tmp_path / "whole")


GROWN = (
    "batch.seconds=3",
    "batch.reference_seconds=3",
    "batch.growth=noise",
    "batch.growth_noise_share=0.1",
    "batch.max_seconds=12",
    "optimizer.noise_every_steps=1",
    "optimizer.noise_half_life_hours=0.003",
    "validation.every_hours=null",
)


def test_a_batch_that_grows_by_need_resumes_and_is_repeated_exactly(corpus, tmp_path, capsys):
    config = tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *GROWN, *KEPT)
    train(config)
    told = re.findall(r"batch\.growth=none (batch\.progressive=\S+)", capsys.readouterr().out)
    events = [line for line in read_log(tmp_path / "whole") if line["event"] == "batch"]
    assert [line["seconds"] for line in events] == [6.0, 12.0]
    assert all(line["noise_share"] >= 0.1 for line in events)
    assert_resumes_anywhere(tmp_path / "whole", config)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'told'}", *GROWN, "batch.growth=none", told[-1]))
    assert losses(tmp_path / "told") == losses(tmp_path / "whole")


def test_the_batch_grows_at_the_same_time_on_two_processes(corpus, tmp_path):
    several = launch(corpus, tmp_path / "two", *GROWN, "device.max_seconds=3", processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *GROWN))
    finish(several)
    one, two = (
        [line for line in read_log(tmp_path / name) if line["event"] == "batch"] for name in ("one", "two")
    )
    assert len(one) == len(two) == 2
    for line, other in zip(one, two, strict=True):
        assert line == other | {"noise_share": pytest.approx(other["noise_share"], rel=1e-2)}
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


ADASCALE = (
    "batch.seconds=12",
    "batch.reference_seconds=3",
    "optimizer.rule=adascale",
    "optimizer.noise_every_steps=2",
    "optimizer.noise_half_life_hours=0.004",
    "teacher.audio_per_step=gained",
    "validation.every_hours=null",
)


def test_adascale_counts_gained_audio_and_resumes_exactly(corpus, tmp_path):
    config = tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *ADASCALE, *KEPT)
    last = torch.load(train(config), weights_only=True)
    steps = [line for line in read_log(tmp_path / "whole") if line["event"] == "step"]
    assert steps[0]["gain"] == 1.0
    assert all(1.0 <= line["gain"] <= line["kappa"] for line in steps)
    assert len({line["gain"] for line in steps}) > 2
    gained = sum(line["gain"] for line in steps) * step_audio(config).reference_seconds / 3600
    assert steps[-1]["hours"] == pytest.approx(gained, rel=0.1)
    assert last["position"]["labelled"]["corpora"][0]["total"] > last["clock"]["samples"]
    assert_resumes_anywhere(tmp_path / "whole", config)


@pytest.mark.parametrize(
    ("turned", "said"),
    [
        ("optimizer.noise_every_steps=null", "requires optimizer.noise_every_steps"),
        ("batch.progressive=[[1,6]]", r"requires batch.progressive=\[\]"),
        ("batch.seconds=auto", "requires batch.seconds in seconds"),
        ("batch.max_seconds=2", "2 s is below the batch of 3 s"),
    ],
)
def test_what_a_batch_that_grows_by_need_requires(corpus, turned, said):
    with pytest.raises(UserError, match=said):
        build_batches(tiny_config(corpus, *GROWN, turned), 1)


@pytest.mark.parametrize(
    ("turned", "said"),
    [
        ("batch.max_seconds=null", "requires batch.max_seconds"),
        ("batch.max_seconds=2", "batch.max_seconds: 2 s is below the batch of 3 s"),
        ("schedule.decay_from_hours=null", "requires schedule.decay_from_hours"),
        ("optimizer.rule=none", "requires optimizer.rule=full"),
    ],
)
def test_what_a_growing_batch_requires(corpus, turned, said):
    with pytest.raises(UserError, match=said):
        build_batches(tiny_config(corpus, *DECAY, *DOUBLED, turned), 1)


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
    recognizer = load_recognizer(tmp_path / "window.pt", device="cpu")
    assert len(list(recognizer(read_manifest(corpus / "dev.jsonl")))) == 4


def test_the_bias_corrected_average_resumes_and_can_be_written(corpus, tmp_path):
    overrides = ("hours=0.012", "checkpoint.bias_corrected=true", "validation.every_hours=null", *KEPT)
    config = tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides)
    end = train(config)
    assert_resumes_anywhere(tmp_path / "run", config)
    expected = torch.load(end, weights_only=True)["bias_corrected"]
    for again in tmp_path.glob("run-from-*"):
        found = torch.load(again / "checkpoints" / end.name, weights_only=True)["bias_corrected"]
        for name, weight in expected["average"].items():
            assert torch.equal(found["average"][name], weight)
    hours = checkpoint.bias_corrected(end, tmp_path / "average.pt")
    assert hours == pytest.approx(expected["audio"] / 3600)
    teacher = torch.load(tmp_path / "average.pt", weights_only=True)["teacher"]["module"]
    assert all(torch.equal(teacher[name], weight) for name, weight in expected["average"].items())
    with pytest.raises(UserError, match=r"checkpoint\.running_mean=true"):
        checkpoint.average(None, end, tmp_path / "window.pt")


def test_no_average_without_a_running_mean(corpus, tmp_path):
    path = train(
        tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "hours=0.002", "validation.every_hours=null")
    )
    with pytest.raises(UserError, match=r"checkpoint\.running_mean=true"):
        checkpoint.average(None, path, tmp_path / "average.pt")
    with pytest.raises(UserError, match=r"checkpoint\.bias_corrected=true"):
        checkpoint.bias_corrected(path, tmp_path / "average.pt")


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
