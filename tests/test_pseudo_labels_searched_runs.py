"""Whole runs whose labels are searched: the same with any number of processes, after a kill, on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.lexicon_search import write_search
from support.runs import read_log
from support.tiny import tiny_config

from asr_emapl.checkpoints import files as checkpoint
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


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_does_not_depend_on_the_number_of_search_workers(corpus, tmp_path, name):
    overrides = (*RUN, *STRATEGIES[name], write_search(tmp_path))
    for workers in (0, 1, 3):
        train(
            tiny_config(
                corpus, f"run_dir={tmp_path}/{workers}", *overrides, f"pseudo_labels.search_workers={workers}"
            )
        )
    for workers in (1, 3):
        require_same(tmp_path / "0", tmp_path / str(workers))
    labels = [line for line in read_log(tmp_path / "0") if line["event"] == "labels"]
    assert any(followed["text"] for line in labels for followed in line["followed"])


def require_same(one: Path, other: Path) -> None:
    """Require equal logs and equal weights."""
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
    last = max((one / "checkpoints").glob("step-*.pt"))
    weights, others = (checkpoint.load(run / "checkpoints" / last.name)["student"] for run in (one, other))
    assert all(torch.equal(weights[key], others[key]) for key in weights)
