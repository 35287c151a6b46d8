"""Self-supervised runs: exact resume, any number of processes, the scaling rule, and a CTC run after them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from support.runs import finish, launch, read_log
from support.self_supervised import (
    OBJECTIVES,
    WITHOUT_DROPOUT,
    self_supervised_config,
    write_self_supervised_config,
)
from support.tiny import tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.errors import UserError
from asr_emapl.self_supervised import spread
from asr_emapl.training.trainer import train


@pytest.fixture(scope="module", params=OBJECTIVES)
def trained(request, corpus):
    """The objective, and the directory of a run with it."""
    train(self_supervised_config(corpus, request.param, f"run_dir={corpus}/{request.param}"))
    return request.param, corpus / request.param


def test_a_run_learns_without_transcripts_and_tokenizer(trained):
    _, run = trained
    steps = [line for line in read_log(run) if line["event"] == "step"]
    assert len(steps) >= 25
    assert {step["kind"] for step in steps} == {"unlabelled"}
    assert all(step["target_variance"] > 0.1 and step["effective_rank"] > 1.5 for step in steps)
    loss = [step["loss"] for step in steps]
    assert np.mean(loss[-8:]) < np.mean(loss[:8])
    rho = [step["rho"] for step in steps]
    assert rho[0] < 0.96 < 0.99 < rho[-1], "BYOL's cosine schedule over audio"


def test_a_resumed_run_is_the_uninterrupted_one_digit_for_digit(trained, corpus, tmp_path):
    objective, run = trained
    again = tmp_path / "again"
    shutil.copytree(run, again)
    _, last = checkpoint.checkpoint_paths(again / "checkpoints")
    last.unlink()
    last = train(self_supervised_config(corpus, objective, f"run_dir={again}"))
    assert (again / "log.jsonl").read_text() == (run / "log.jsonl").read_text()
    one, other = checkpoint.load(last), checkpoint.load(run / "checkpoints" / last.name)
    for name, weight in one["student"].items():
        assert weight.equal(other["student"][name]), name
    for name, weight in one["teacher"]["module"].items():
        assert weight.equal(other["teacher"]["module"][name]), name


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_give_the_run_of_one(corpus, tmp_path, objective, sharding):
    """With several micro-batches on each, and in the last step fewer micro-batches than processes."""
    overrides = (
        *WITHOUT_DROPOUT,
        "hours=0.02",
        "optimizer.lr=5e-4",
        f"self_supervised.objective={objective}",
    )
    several = launch(
        corpus,
        tmp_path / "two",
        *overrides,
        f"device.sharding={sharding}",
        processes=2,
        config=write_self_supervised_config(corpus),
    )
    train(self_supervised_config(corpus, objective, *overrides, f"run_dir={tmp_path / 'one'}"))
    assert "2 x cpu" in finish(several)
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert len(one) == len(two) >= 10
    for name in ("loss", "target_variance", "effective_rank", "utterances"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-3), name


def test_a_ctc_run_starts_from_the_encoder_by_one_line(trained, corpus, tmp_path, caplog):
    _, run = trained
    sizes = ("model.options.layers=3", "optimizer.lr=0.0", "hours=0.001")
    with caplog.at_level("INFO"):
        last = train(tiny_config(corpus, f"init.weights={run}", *sizes, f"run_dir={tmp_path}/ctc"))
    assert "2 missing (output.weight, output.bias)" in caplog.text
    teacher = checkpoint.find(run)[1]["teacher"]["module"]
    student = checkpoint.load(last)["student"]
    assert "layers.2.qkv.weight" in student
    for name, weight in student.items():
        assert name.startswith("output.") or weight.equal(teacher[f"encoder.{name}"]), name


def test_what_a_self_supervised_checkpoint_is_not_for(trained, corpus, tmp_path):
    """Decoding, and resuming with another objective: each error names init.weights."""
    objective, run = trained
    with pytest.raises(UserError, match=r"no tokenizer and no output layer; train a model .*init\.weights="):
        load_recognizer(run, device="cpu")
    other = next(name for name in OBJECTIVES if name != objective)
    with pytest.raises(UserError, match=rf"objective={objective}, not {other}.*init\.weights="):
        train(self_supervised_config(corpus, other, f"run_dir={run}"))
    with pytest.raises(UserError, match=rf"objective={objective}, not none.*init\.weights="):
        train(tiny_config(corpus, f"init.checkpoint={run}", f"run_dir={tmp_path}/ctc"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("pseudo_labels.strategy=ema",), "set pseudo_labels.strategy=none"),
        (("data.labelled=[x.jsonl]",), "data.unlabelled; list the manifests of data.labelled there"),
        (("perturb.speed={}", "self_supervised.objective=masked"), "set perturb.speed=null"),
        (("perturb.speed={}",), "does not use perturb"),
        (("self_supervised.byol.statistics_crops=64",), r"64 windows .* 25\.6 s, device\.max_seconds is 6"),
        (("batch.seconds=1",), r"4 windows .* 1\.6 s, and a batch has 1 s"),
        (("data.unlabelled=[]",), "data.unlabelled is empty"),
        (("self_supervised.objective=masked", "self_supervised.masked.top_layers=4"), "outputs of 3 layers"),
    ],
)
def test_settings_that_do_not_go_with_self_supervision(corpus, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        train(self_supervised_config(corpus, "byol", f"run_dir={tmp_path}/run", *overrides))


def test_a_collapse_is_noticed_with_its_likely_cause(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "STEPS", 5)
    collapsing = ("self_supervised.byol.batch_norm=false", "optimizer.lr=0.02", "teacher.rho=0.5")
    config = self_supervised_config(corpus, "byol", *collapsing, f"run_dir={tmp_path}/run")
    with pytest.raises(UserError, match=r"embeddings have collapsed: variance .*batch_norm=true"):
        train(config)


def test_a_collapse_may_only_be_a_warning(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spread, "STEPS", 5)
    collapsing = ("self_supervised.byol.batch_norm=false", "optimizer.lr=0.02", "teacher.rho=0.5")
    warn = ("self_supervised.on_collapse=warn", f"run_dir={tmp_path}/run")
    train(self_supervised_config(corpus, "byol", *collapsing, *warn))
    assert capsys.readouterr().out.count("warning: the embeddings have collapsed") == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_validation_splits_are_not_decoded(corpus, tmp_path, objective, capsys):
    splits = f"data.validation={{dev: {corpus}/dev.jsonl}}"
    train(self_supervised_config(corpus, objective, splits, "hours=0.001", f"run_dir={tmp_path}/run"))
    assert "data.validation: not used" in capsys.readouterr().out


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_scaling_rule_gives_the_same_teacher_at_half_the_batch(corpus, tmp_path, objective):
    """kappa 1/2 with the rule and without it, against kappa 1: distance of the teachers' weights.

    By SGD with a small learning rate, where the rule is exact in the limit, and in the same order of audio.
    BYOL's forward passes have the same crops at both batches, as many as a group of 3 s.
    """
    common = ("batch.group_seconds=3", "hours=0.06", "checkpoint.every_hours=null", *WITHOUT_DROPOUT)
    common += ("model.options.layerdrop=0.0", "optimizer.clip_norm=null", "optimizer.name=sgd")
    common += ("optimizer.momentum=0.0", "optimizer.lr=0.005", "teacher.schedule=constant", "teacher.rho=0.9")
    common += ("self_supervised.byol.statistics_crops=7",)
    half = ("batch.seconds=3",)
    unscaled = ("optimizer.rule=none", "teacher.half_life_factor=0.5")
    runs = {"start": ("hours=0.0001", "optimizer.lr=0.0"), "reference": (), "rule": half}
    teachers = {}
    for name, overrides in (runs | {"none": (*half, *unscaled)}).items():
        config = self_supervised_config(corpus, objective, *common, *overrides, f"run_dir={tmp_path / name}")
        state = checkpoint.load(train(config))["teacher"]["module"]
        teachers[name] = torch.cat([weight.flatten() for weight in state.values()])
    moved = (teachers["reference"] - teachers["start"]).norm()
    distance = {n: float((teachers[n] - teachers["reference"]).norm() / moved) for n in ("rule", "none")}
    assert distance["rule"] < 0.5 * distance["none"], distance
