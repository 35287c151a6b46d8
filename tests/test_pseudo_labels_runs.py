"""Whole runs of each strategy: they train, resume digit for digit, and are the same on two processes."""

from __future__ import annotations

import json
import re
import signal
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.runs import finish, launch, losses, read_log
from support.tiny import tiny_config

from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.mixture import CorpusCursor
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.training.trainer import Trainer, train

START = ("pseudo_labels.start_hours=0.01", "validation.every_hours=null", "checkpoint.best_by=null")
OWN = """
from asr_emapl.pseudo_labels.labels import Label, Labels, Strategy

class Last(Strategy):
    \"\"\"The label of the utterance's previous pass, if there is one.\"\"\"

    def __init__(self, parts, shortest=0):
        self.labeller, self.shortest = parts.labeller, shortest
        self.before = {}

    def labels(self, batch):
        labels = self.labeller(batch).to_list()
        old = [self.before.get(row, label) for row, label in zip(batch.rows, labels)]
        self.new = dict(zip(batch.rows, labels))
        return Labels.of([label if len(label.tokens) >= self.shortest else Label([]) for label in old])

    def previous(self, row):
        return self.before[row].tokens if row in self.before else None

    def keep(self, labels):
        self.before |= {row: self.new.get(row, label) for row, label in labels.items()}

    def state_dict(self):
        return {str(row): (label.tokens, label.confidence) for row, label in self.before.items()}

    def load_state_dict(self, state):
        self.before = {int(row): Label(*label) for row, label in state.items()}
"""
STRATEGIES = {
    "cache": (
        "pseudo_labels.strategy=cache",
        "pseudo_labels.cache.hours=0.006",
        "pseudo_labels.cache.replace=0.4",
    ),
    "student's cache": (
        "pseudo_labels.strategy=cache",
        "pseudo_labels.cache.hours=0.004",
        "pseudo_labels.labeller=student",
    ),
    "rounds": (
        "pseudo_labels.strategy=rounds",
        "pseudo_labels.rounds.hours=[0,0.03]",
        "pseudo_labels.rounds.share=0.5",
    ),
    "filtered rounds": (
        "pseudo_labels.strategy=rounds",
        "pseudo_labels.rounds.hours=[0,0.03]",
        "pseudo_labels.rounds.share=0.7",
        "pseudo_labels.keep_share=0.6",
        "pseudo_labels.temperature=1.0",
    ),
    "best average": (
        "pseudo_labels.strategy=rounds",
        "pseudo_labels.labeller=best_average",
        "pseudo_labels.best_count=2",
        "pseudo_labels.rounds.hours=[0,0.02,0.03,0.04]",
        "pseudo_labels.rounds.share=0.5",
        "validation.every_hours=0.005",
    ),
    "gated rounds": (
        "pseudo_labels.strategy=rounds",
        "pseudo_labels.rounds.hours=[0,0.02,0.03,0.04]",
        "pseudo_labels.rounds.gate=dev",
        "validation.every_hours=0.01",
    ),
    "from_the_start": (
        "pseudo_labels.strategy=from_the_start",
        "pseudo_labels.temperature=0.5",
        "pseudo_labels.max_change=0.9",
    ),
    "a share": ("pseudo_labels.strategy=ema", "pseudo_labels.keep_share=0.6"),
    "own": ("pseudo_labels.strategy=own_strategy:Last", "pseudo_labels.options.shortest=1"),
}


@pytest.fixture(scope="module", autouse=True)
def own_strategy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_strategy.py").write_text(textwrap.dedent(OWN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        patch.syspath_prepend(folder)
        yield


@pytest.mark.parametrize("name", STRATEGIES)
def test_kill_9_and_resume_equals_an_uninterrupted_run(corpus, tmp_path, name):
    overrides = ("hours=0.05", "optimizer.lr=0.01", *START, *STRATEGIES[name])
    whole = launch(corpus, tmp_path / "whole", *overrides)
    cut = launch(corpus, tmp_path / "cut", *overrides)
    checkpoints = tmp_path / "cut" / "checkpoints"
    deadline = time.monotonic() + 120
    while not _saved_after_labels(checkpoints) and cut.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    finish(whole)
    assert "from 0.000 h" not in finish(launch(corpus, tmp_path / "cut", *overrides))
    assert (tmp_path / "cut/log.jsonl").read_text() == (tmp_path / "whole/log.jsonl").read_text()
    last = max((tmp_path / "whole/checkpoints").glob("step-*.pt"))
    one, other = checkpoint.load(last), checkpoint.load(checkpoints / last.name)
    assert all(torch.equal(one["student"][key], other["student"][key]) for key in one["student"])
    assert one["position"] == other["position"]
    labels, others = one["pseudo_labels"]["strategy"], other["pseudo_labels"]["strategy"]
    assert labels.keys() == others.keys()
    assert bool(labels) == (name != "a share")
    assert one["pseudo_labels"]["filters"] == other["pseudo_labels"]["filters"]
    kinds = Counter(line["kind"] for line in read_log(tmp_path / "whole") if line["event"] == "step")
    assert kinds["unlabelled"] > 5


def _saved_after_labels(checkpoints: Path) -> bool:
    """A checkpoint from 0.015 h on, in which labels are kept, but not the last one."""
    return len(list(checkpoints.glob("step-*.pt"))) >= 2


@pytest.mark.parametrize("name", ["cache", "rounds", "filtered rounds", "from_the_start", "a share"])
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_make_the_run_of_one(corpus, tmp_path, name, sharding):
    overrides = (
        *("hours=0.05", "batch.seconds=12", "batch.reference_seconds=12", "device.max_seconds=12"),
        *("optimizer.lr=1e-3", "checkpoint.every_hours=null", *START, *STRATEGIES[name]),
    )
    here = ("device.max_seconds=5", f"device.sharding={sharding}")
    small = ("data.max_seconds=4",)
    several = launch(corpus, tmp_path / "two", *overrides, *small, *here, processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides, *small))
    finish(several)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_round_of_a_worse_labeller_keeps_the_labels(corpus, tmp_path, capsys):
    """At learning rate 0 the WER stays, so that no round after the first takes place."""
    overrides = (
        "hours=0.04",
        "optimizer.lr=0",
        *START,
        *STRATEGIES["gated rounds"],
        "checkpoint.every_hours=0.01",
    )
    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides))
    told = capsys.readouterr().out
    assert "round 1: labels are ready" in told
    assert told.count("labels are kept") == 2
    with pytest.raises(UserError, match=r"pseudo_labels\.rounds\.gate.*elsewhere"):
        train(
            tiny_config(
                corpus, f"run_dir={tmp_path / 'b'}", *overrides, "pseudo_labels.rounds.gate=elsewhere"
            )
        )


def test_labels_of_a_file_are_trained_on(corpus, tmp_path):
    """The transcripts in other spellings, as another recogniser writes them: the run is the oracle's."""
    with (tmp_path / "labels.jsonl").open("w") as file:
        for utterance in read_manifest(corpus / "unlabelled.jsonl"):
            text = f"{(utterance.text or '').capitalize()}."
            file.write(json.dumps({"id": utterance.id, "text": text}) + "\n")
    common = ("hours=0.03", "pseudo_labels.start_hours=0.01", "validation.every_hours=null")
    external = ("pseudo_labels.strategy=external", f"pseudo_labels.hypotheses={tmp_path}/labels.jsonl")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'external'}", *common, *external))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'oracle'}", *common, "pseudo_labels.strategy=oracle"))
    assert losses(tmp_path / "external") == losses(tmp_path / "oracle")


def unlabelled_steps(run: Path) -> list[dict[str, object]]:
    return [line for line in read_log(run) if line["event"] == "step" and line["kind"] == "unlabelled"]


def test_labels_of_a_file_are_filtered_before_batches_are_made(corpus, tmp_path, capsys):
    """A third of the labels is missing; batches are as full as in the run of all, and losses are counted."""
    utterances = read_manifest(corpus / "unlabelled.jsonl")
    with (tmp_path / "labels.jsonl").open("w") as file:
        for utterance in utterances[::3] + utterances[1::3]:
            file.write(json.dumps({"id": utterance.id, "text": utterance.text}) + "\n")
    common = ("hours=0.04", "validation.every_hours=null", "augment=null")
    external = ("pseudo_labels.strategy=external", f"pseudo_labels.hypotheses={tmp_path}/labels.jsonl")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'external'}", *common, *external))
    assert "8 of 24 utterances (0.00 h) are not trained on: 8 empty" in capsys.readouterr().out
    train(tiny_config(corpus, f"run_dir={tmp_path / 'oracle'}", *common, "pseudo_labels.strategy=oracle"))
    part, whole = (unlabelled_steps(tmp_path / name) for name in ("external", "oracle"))
    dropped = sum(sum(step.get("dropped", {}).values()) for step in part)
    trained = sum(step["utterances"] for step in part)
    assert dropped / (dropped + trained) == pytest.approx(1 / 3, abs=0.03)
    # Two thirds of it if the labels were dropped after the batches are made.
    assert trained / len(part) > 0.8 * sum(step["utterances"] for step in whole) / len(whole)


@pytest.mark.parametrize("change", ["max_repeats=9", "strategy=ema"])
def test_a_chunk_is_not_continued_with_another_choice_of_utterances(corpus, tmp_path, change):
    common = (f"run_dir={tmp_path}", "validation.every_hours=null", "pseudo_labels.strategy=oracle")

    def position(*overrides: str) -> CorpusCursor:
        config = tiny_config(corpus, *common, *overrides)
        world = ProcessGroup(0, 1, torch.device("cpu"))
        return Trainer(config, world, Heartbeat(world, 0.0)).position.unlabelled.corpora[0]

    train(tiny_config(corpus, *common, "hours=0.015"))
    same = position("hours=0.03")
    assert same.samples > 0
    changed = position("hours=0.03", f"pseudo_labels.{change}")
    assert (changed.samples, changed.chunk, changed.total) == (0, same.chunk + 1, same.total)


def test_rounds_filter_their_labels_before_batches_are_made(corpus, tmp_path, capsys):
    """Dropped labels are counted and seen by the monitor as those of a batch are."""
    rounds = (*START, *STRATEGIES["filtered rounds"], "hours=0.06", "optimizer.lr=0.01")
    train(tiny_config(corpus, f"run_dir={tmp_path}", *rounds))
    assert re.search(
        r"round 2: labels are ready; \d+ of 24 .* not trained on: .*confident", capsys.readouterr().out
    )
    steps = unlabelled_steps(tmp_path)
    full = [step for step in steps if step["utterances"]]
    dropped = sum(sum(step.get("dropped", {}).values()) for step in steps)
    trained = sum(step["utterances"] for step in full)
    assert dropped / (dropped + trained) > 0.3
    assert min(step["utterances"] for step in full) >= 2
    audio = Counter[str]()
    for line in read_log(tmp_path):
        audio.update(line["audio_hours"] if line["event"] == "labels" else {})
    assert audio["kept"] > 0.0
    assert audio["least_confident"] + audio["empty"] > 0.0


def test_the_range_of_tokens_per_second_is_learned_and_said(corpus, tmp_path, caplog):
    caplog.set_level("INFO")
    learned = ("pseudo_labels.strategy=ema", "pseudo_labels.tokens_per_second=learned", "hours=0.02")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "pseudo_labels.start_hours=0.01", *learned))
    (said,) = [text for text in caplog.messages if "tokens_per_second" in text]
    low, high = map(float, re.findall(r"[\d.]+(?= to|, learned)", said))
    rates = [len(u.text or "") / u.duration for u in read_manifest(corpus / "labelled.jsonl")]
    assert low < min(rates) < max(rates) < high < 2 * max(rates)
    assert "16 transcripts" in said


def test_labels_without_a_file_or_of_other_utterances_are_refused(corpus, tmp_path):
    external = ("pseudo_labels.strategy=external", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"pseudo_labels\.hypotheses"):
        train(tiny_config(corpus, *external))
    (tmp_path / "labels.jsonl").write_text('{"id": "elsewhere", "text": "RED"}\n')
    with pytest.raises(UserError, match=r"labels\.jsonl: .*ids"):
        train(tiny_config(corpus, *external, f"pseudo_labels.hypotheses={tmp_path}/labels.jsonl"))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["pseudo_labels.strategy=emma"], r"pseudo_labels\.strategy: 'emma' .* ema, cache"),
        (["pseudo_labels.strategy=own_strategy:OWN"], "has no OWN"),
        (["pseudo_labels.strategy=ema", "pseudo_labels.tokens_per_second=[9,2]"], r"per_second: \[9, 2\]"),
        (["pseudo_labels.strategy=ema", "pseudo_labels.tokens_per_second=[9]"], r"per_second: .*is not"),
        (
            ["pseudo_labels.strategy=ema", "pseudo_labels.tokens_per_second=learnt"],
            r"per_second: 'learnt' is not",
        ),
        (["pseudo_labels.strategy=no_such_module:Own"], "no_such_module"),
        (["pseudo_labels.strategy=torch.nn:Linear"], "not a strategy"),
        (["pseudo_labels.strategy=own_strategy:Last", "pseudo_labels.options.other=1"], "own_strategy:Last"),
        (
            ["pseudo_labels.strategy=rounds", "pseudo_labels.rounds.hours=[2,1]"],
            r"pseudo_labels\.rounds\.hours",
        ),
        (
            ["pseudo_labels.strategy=ema", "pseudo_labels.labeller=best_average"],
            r"best_average requires pseudo_labels\.strategy=rounds",
        ),
        (
            ["pseudo_labels.strategy=ema", "pseudo_labels.temperature=1", "pseudo_labels.lm_config=lm.json"],
            r"temperature and pseudo_labels\.lm_config",
        ),
    ],
)
def test_what_is_refused(corpus, tmp_path, overrides, named):
    with pytest.raises(UserError, match=named):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides))
