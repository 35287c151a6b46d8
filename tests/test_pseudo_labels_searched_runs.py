"""Whole runs whose labels are searched: the same with any number of processes, after a kill, on two ranks."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from support.lexicon_search import write_search
from support.runs import finish, launch, losses, read_log
from support.tiny import tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import train

RUN = (
    *("hours=0.03", "optimizer.lr=0.01", "pseudo_labels.start_hours=0.01"),
    *("validation.every_hours=null", "checkpoint.best_by=null", "checkpoint.every_hours=0.004"),
)
STRATEGIES = {
    "ema": ("pseudo_labels.strategy=ema", "pseudo_labels.agreement=greedy"),
    "cache": (
        "pseudo_labels.strategy=cache",
        "pseudo_labels.cache.hours=0.006",
        "pseudo_labels.cache.replace=0.4",
        "pseudo_labels.confidence=tokens",
    ),
    "rounds": (
        "pseudo_labels.strategy=rounds",
        "pseudo_labels.rounds.hours=[0,0.02]",
        "pseudo_labels.rounds.share=0.5",
        "pseudo_labels.agreement=student",
    ),
}


AHEAD = {f"{name} ahead": (*STRATEGIES[name], "pseudo_labels.label_ahead=true") for name in ("ema", "cache")}


@pytest.mark.parametrize("name", [*STRATEGIES, *AHEAD])
def test_a_run_does_not_depend_on_the_number_of_search_workers(corpus, tmp_path, name):
    overrides = (*RUN, *(STRATEGIES | AHEAD)[name], write_search(tmp_path))
    for workers in (0, 2):
        train(
            tiny_config(
                corpus, f"run_dir={tmp_path}/{workers}", *overrides, f"pseudo_labels.search_workers={workers}"
            )
        )
    require_same(tmp_path / "0", tmp_path / "2")
    labels = [line for line in read_log(tmp_path / "0") if line["event"] == "labels"]
    assert any(followed["text"] for line in labels for followed in line["followed"])


@pytest.mark.parametrize("name", ["rounds", *AHEAD])
def test_kill_9_and_resume_with_other_workers_equals_an_uninterrupted_run(corpus, tmp_path, name):
    """Stages of the batch too: at their borders, labels are not begun ahead."""
    overrides = (*RUN, *(STRATEGIES | AHEAD)[name], write_search(tmp_path), "hours=0.045")
    overrides += ("batch.progressive=[[0.022,12]]", "device.max_seconds=12", "data.workers=1")
    train(tiny_config(corpus, f"run_dir={tmp_path}/whole", *overrides, "pseudo_labels.search_workers=1"))
    cut, checkpoints = tmp_path / "cut", tmp_path / "cut" / "checkpoints"
    for saved, workers in ((8, 2), (16, 0), (22, 1)):
        run = launch(corpus, cut, *overrides, f"pseudo_labels.search_workers={workers}")
        deadline = time.monotonic() + 120
        while newest(checkpoints) < saved and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    finish(launch(corpus, cut, *overrides, "pseudo_labels.search_workers=2"))
    require_same(tmp_path / "whole", cut)
    hours = [json.loads(line)["hours"] for line in (cut / "starts.jsonl").read_text().splitlines()]
    assert len(hours) == 4
    assert 0.0 == hours[0] < hours[1] < hours[2] < hours[3]


def newest(checkpoints: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.stem.partition("-")[2]) for path in checkpoints.glob("step-*.pt")), default=0)


def test_every_checkpoint_has_the_labels_that_are_pending(corpus, tmp_path):
    """A checkpoint contains labels of the next step if it is unlabelled; a resumed run is the longer run."""
    overrides = (*RUN, *AHEAD["ema ahead"], write_search(tmp_path), "checkpoint.keep=100")
    overrides += ("checkpoint.every_hours=0.001",)
    train(tiny_config(corpus, f"run_dir={tmp_path}/longer", *overrides, "hours=0.036"))
    kinds = [line["kind"] for line in read_log(tmp_path / "longer") if line["event"] == "step"]
    pending = {}
    for path in (tmp_path / "longer" / "checkpoints").glob("step-*.pt"):
        state = checkpoint.load(path)
        pending[state["step"]] = bool(state["pseudo_labels"]["ahead"])
    del pending[len(kinds)]
    assert pending == {step: kinds[step] == "unlabelled" for step in pending}
    assert sum(pending.values()) > 5
    for hours in (0.03, 0.036):
        train(tiny_config(corpus, f"run_dir={tmp_path}/twice", *overrides, f"hours={hours}"))
    assert losses(tmp_path / "twice") == losses(tmp_path / "longer")


@pytest.mark.parametrize("name", AHEAD)
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_ranks_make_the_run_of_one(corpus, tmp_path, name, sharding):
    overrides = (
        *("batch.seconds=12", "batch.reference_seconds=12", "device.max_seconds=12", "data.max_seconds=4"),
        *(*RUN, *AHEAD[name], write_search(tmp_path), "optimizer.lr=1e-3", "checkpoint.every_hours=0.02"),
        "pseudo_labels.search_workers=1",
    )
    here = ("device.max_seconds=5", f"device.sharding={sharding}")
    several = launch(corpus, tmp_path / "two", *overrides, *here, processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides))
    finish(several)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    # The last checkpoint of two ranks has the pending labels of both; one process resumes from it.
    for name in ("one", "two"):
        train(tiny_config(corpus, f"run_dir={tmp_path / name}", *overrides, "hours=0.04"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("pseudo_labels.strategy=ema",), "label_ahead requires pseudo_labels.lm_config"),
        (STRATEGIES["rounds"], "label_ahead requires strategy ema or cache, not rounds"),
        (("pseudo_labels.strategy=oracle",), "label_ahead requires strategy ema or cache, not oracle"),
    ],
)
def test_labels_ahead_without_a_use_are_refused(corpus, tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        train(tiny_config(corpus, f"run_dir={tmp_path}", *overrides, "pseudo_labels.label_ahead=true"))


def require_same(one: Path, other: Path) -> None:
    """Require equal logs and equal weights."""
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
    last = max((one / "checkpoints").glob("step-*.pt"))
    weights, others = (checkpoint.load(run / "checkpoints" / last.name)["student"] for run in (one, other))
    assert all(torch.equal(weights[key], others[key]) for key in weights)
