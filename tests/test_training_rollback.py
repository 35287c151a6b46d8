"""Labels that collapse in a run: each kind is caught; the run stops, goes back or warns, as configured."""

from __future__ import annotations

import json
import textwrap

import pytest
from support.runs import read_log
from support.tiny import tiny_config

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels import label_guard
from asr_emapl.training import trainer
from asr_emapl.training.trainer import train

STRATEGY = """
from asr_emapl.pseudo_labels.labels import Label, Labels, Strategy

WORDS = ["ADA", "BOB", "CLIO", "DAN"]

class Collapsing(Strategy):
    \"\"\"Varied labels, which collapse after some batches unless the teacher is slow.\"\"\"

    def __init__(self, parts, kind, after=8, slow_hours=1e9):
        self.tokenizer, self.kind, self.after = parts.tokenizer, kind, after
        self.can_collapse = parts.teacher.half_life < 3600 * slow_hours
        self.batches = 0

    def labels(self, batch):
        self.batches += 1
        collapsed = self.can_collapse and self.batches > self.after
        texts = [self.text(row, collapsed) for row in batch.rows]
        return Labels.of([Label(self.tokenizer.encode(text), 0.99) for text in texts])

    def text(self, row, collapsed):
        words = [WORDS[(row // 4**place) % 4] for place in range(4)]
        if not collapsed or self.kind == "none":
            return " ".join(words)
        loop = " ".join(words[:1] * 6)
        return {"blanks": "", "one label": "ADA", "loops": loop, "drift": words[0]}[self.kind]

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]
"""
COMMON = (
    "hours=0.08",
    "pseudo_labels.start_hours=0.01",
    "pseudo_labels.strategy=collapsing_strategy:Collapsing",
    "validation.every_hours=null",
    "checkpoint.best_by=null",
    "checkpoint.every_hours=0.005",
    "checkpoint.keep=20",
)


@pytest.fixture(scope="module", autouse=True)
def strategy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapsing")
    (folder / "collapsing_strategy.py").write_text(textwrap.dedent(STRATEGY))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        # A run of minutes is judged as one of hours.
        patch.setattr(label_guard, "LABELS", 8)
        patch.setattr(label_guard, "PERSISTENCE_HOURS", 0.004)
        patch.setattr(trainer, "TIMED_STEPS", 2)
        yield


def options(kind: str, **more: object) -> list[str]:
    return [f"pseudo_labels.options.{name}={value}" for name, value in {"kind": kind, **more}.items()]


@pytest.mark.parametrize("kind", ["blanks", "one label", "loops", "drift"])
def test_each_collapse_is_caught_and_named(corpus, tmp_path, kind):
    with pytest.raises(UserError, match=rf"collapsed \({kind}\)"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *COMMON, *options(kind)))
    assert read_log(tmp_path / "run")[-1]["hours"] < 0.08


def test_healthy_labels_raise_no_alarm(corpus, tmp_path):
    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *COMMON, *options("none")))


def test_a_warning_lets_the_run_go_on(corpus, tmp_path, capsys):
    warn = "pseudo_labels.on_collapse=warn"
    train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *COMMON, *options("loops"), warn))
    assert "warning: pseudo-labels have collapsed (loops)" in capsys.readouterr().out


def test_the_run_goes_back_and_goes_on_with_a_slower_teacher(corpus, tmp_path):
    run = tmp_path / "run"
    back = ("pseudo_labels.on_collapse=slower_teacher", "teacher.half_life_hours=0.01", f"run_dir={run}")
    # Twice doubled, the half-life is 0.04 h.
    config = tiny_config(corpus, *COMMON, *options("loops", slow_hours=0.03), *back)
    train(config)
    records = [json.loads(line) for line in (run / "rollbacks.jsonl").read_text().splitlines()]
    assert [record["half_life_factor"] for record in records] == [2.0, 4.0]
    assert all("loops" in record["reason"] for record in records)
    steps = [line for line in read_log(run) if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["half_life_hours"] == pytest.approx(0.04)
    assert steps[0]["half_life_hours"] == pytest.approx(0.01)
    assert list((run / "checkpoints/collapsed").glob("*.pt"))
    # Started again, it is complete, and the half-life stays.
    train(config)


def test_the_run_stops_when_going_back_does_not_help(corpus, tmp_path):
    back = ("pseudo_labels.on_collapse=slower_teacher", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match="gone back 3 times"):
        train(tiny_config(corpus, *COMMON, *options("loops"), *back))


def test_without_a_healthy_checkpoint_the_run_stops_and_nothing_is_lost(corpus, tmp_path):
    run = tmp_path / "run"
    back = ("pseudo_labels.on_collapse=slower_teacher", "checkpoint.keep=1", f"run_dir={run}")
    with pytest.raises(UserError, match=r"checkpoint\.keep_every_hours"):
        train(tiny_config(corpus, *COMMON, *options("loops"), *back, "checkpoint.every_hours=0.002"))
    assert list((run / "checkpoints").glob("*.pt"))
