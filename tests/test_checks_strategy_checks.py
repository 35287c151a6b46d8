"""Built-in strategies pass check-strategy; each broken one fails the check that it breaks."""

from __future__ import annotations

import re

import pytest
import torch
from support.tiny import tiny_config, write_tiny_config
from typer.testing import CliRunner

from asr_emapl import cli
from asr_emapl.checks import strategy_checks
from asr_emapl.checks.check import CheckResult
from asr_emapl.checks.rehearsal import STEPS, UTTERANCES
from asr_emapl.checks.strategy_checks import CHECKS, Subject, check
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.best_average import BestAverage

NAMES = [each.name for each in CHECKS]


def checked(corpus, name: str, *overrides: str) -> list[CheckResult]:
    return check(tiny_config(corpus, f"pseudo_labels.strategy={name}", *overrides))


@pytest.fixture
def no_processes(monkeypatch):
    """Starting two processes takes seconds; most tests leave them out."""
    alone = tuple(one for one in CHECKS if one.name != "world size")
    monkeypatch.setattr(strategy_checks, "CHECKS", alone)
    return [one.name for one in alone]


def test_the_labels_of_the_rehearsal_are_worth_checking(corpus):
    traces = Subject(tiny_config(corpus, "pseudo_labels.strategy=ema")).traces
    assert len(traces) == STEPS
    labels = [(row, tuple(label.tokens)) for trace in traces for row, label in trace.labels.items()]
    assert len(labels) == 3 * UTTERANCES
    assert all(len(tokens) > 3 for _, tokens in labels)
    assert len(set(labels)) == len(labels), "labels change from pass to pass"
    assert all(trace.loss > 0.0 for trace in traces)


@pytest.mark.parametrize(
    "overrides",
    [
        ("ema", "pseudo_labels.keep_share=0.5"),
        ("ema", "pseudo_labels.agreement=student", "pseudo_labels.confidence=tokens"),
        ("soft",),
        ("rounds", "pseudo_labels.labeller=best_average"),
        ("cache",),
        ("rounds", "pseudo_labels.labeller=student"),
        ("from_the_start", "pseudo_labels.temperature=0.5", "pseudo_labels.max_change=0.8"),
        ("oracle", "pseudo_labels.tokens_per_second=learned"),
        ("external",),
        ("support.broken_strategies:Sound",),
        ("support.broken_strategies:Fresh",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_sound_strategies_pass(corpus, no_processes, overrides):
    results = checked(corpus, *overrides)
    assert [result.name for result in results] == no_processes
    assert [result for result in results if not result.passed] == []
    details = {result.name: result.detail for result in results}
    keeps = overrides[0] not in ("ema", "soft", "oracle", "external", "support.broken_strategies:Fresh")
    assert details["memory"].startswith("0 bytes") != keeps
    waits = "pseudo_labels.agreement=student" in overrides or overrides[0].endswith("Sound")
    assert ("waits" in details["no waiting"]) == waits


@pytest.mark.parametrize(
    "overrides",
    [
        ("soft",),
        ("external",),
        ("rounds", "pseudo_labels.labeller=best_average", "pseudo_labels.rounds.share=0.5"),
        ("ema", "pseudo_labels.tokens_per_second=learned"),
    ],
    ids=lambda overrides: overrides[-1],
)
def test_sound_strategies_are_the_same_on_two_processes(corpus, monkeypatch, overrides):
    """Those of which nothing else starts two processes here; see also `test_pseudo_labels_runs`."""
    wanted = ("labels", "deterministic", "world size")
    monkeypatch.setattr(strategy_checks, "CHECKS", tuple(one for one in CHECKS if one.name in wanted))
    assert [(result.name, result.passed) for result in checked(corpus, *overrides)] == [
        (name, True) for name in wanted
    ]


def test_a_learned_range_drops_some_labels(corpus):
    for name in ("ema", "oracle"):
        config = tiny_config(
            corpus, f"pseudo_labels.strategy={name}", "pseudo_labels.tokens_per_second=learned"
        )
        traces = Subject(config).traces
        dropped = sum(count for trace in traces for count in trace.dropped.values())
        assert 0 < dropped < 3 * UTTERANCES, name


def test_an_average_that_a_resume_forgets_fails(corpus, no_processes, monkeypatch):
    monkeypatch.setattr(BestAverage, "state_dict", lambda self: {})
    results = checked(corpus, "rounds", "pseudo_labels.labeller=best_average")
    require_failure(results, "resume", r"after a resume, the label of utterance \d+ differs in step 7")


@pytest.mark.parametrize(
    ("name", "failed", "said"),
    [
        ("KeepsBlanks", "labels", "has the blank, 0; tokens are 1 to"),
        ("OutsideVocabulary", "labels", r"has token \d+; tokens are 1 to"),
        ("OneRowTooFew", "labels", r"tokens_BS is torch.int64 \[1, .* instead of long \[2, S\]"),
        ("TooConfident", "labels", "confidence of utterance"),
        ("DrawsUnseeded", "deterministic", "in a second run, the label of utterance"),
        ("Forgets", "resume", r"after a resume, the label of utterance \d+ differs in step"),
        ("KeepsObjects", "resume", "objects that a checkpoint cannot hold"),
        ("KeepsFeatures", "memory", r"the state has [\d,]+ bytes per utterance"),
    ],
)
def test_broken_strategies_fail_their_check_alone(corpus, no_processes, name, failed, said):
    require_failure(checked(corpus, f"support.broken_strategies:{name}"), failed, said)


@pytest.mark.parametrize("name", ["KeepsItsOwnAlone", "DrawsByProcess"])
def test_strategies_that_depend_on_the_number_of_processes_fail(corpus, name):
    said = r"on 2 processes, the label of utterance \d+ differs in step"
    require_failure(checked(corpus, f"support.broken_strategies:{name}"), "world size", said)


def require_failure(results: list[CheckResult], name: str, said: str) -> None:
    failed = [result for result in results if not result.passed]
    assert [result.name for result in failed] == [name]
    assert re.search(said, failed[0].detail)
    assert next(one.remedy for one in CHECKS if one.name == name) in failed[0].detail
    assert "\n" not in failed[0].detail


def test_an_error_of_one_process_is_reported(corpus, tmp_path, monkeypatch):
    (tmp_path / "fails_on_one.py").write_text(
        "import torch.distributed as dist\n"
        "from support.broken_strategies import Sound\n"
        "class Fails(Sound):\n"
        "    def labels(self, batch):\n"
        "        if dist.is_initialized() and dist.get_rank() == 1:\n"
        "            raise ValueError('no such label')\n"
        "        return super().labels(batch)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    said = r"process 1 of 2: ValueError: no such label \(.*fails_on_one.py:6"
    require_failure(checked(corpus, "fails_on_one:Fails"), "world size", said)


def test_random_state_is_left_alone(corpus, no_processes):
    before = torch.get_rng_state()
    checked(corpus, "ema")
    assert torch.equal(torch.get_rng_state(), before)


def run_cli(corpus, *overrides: str) -> tuple[int, list[str]]:
    config = write_tiny_config(corpus, *overrides)
    result = CliRunner().invoke(cli.app, ["check-strategy", "--config", str(config), *overrides])
    return result.exit_code, result.output.splitlines()


def test_command_with_a_strategy_that_passes_on_two_processes(corpus):
    code, lines = run_cli(corpus, "pseudo_labels.strategy=cache")
    assert code == 0
    assert [line.partition(":")[0] for line in lines] == [
        *(f"ok   {name}" for name in NAMES),
        "all checks passed",
    ]


def test_command_with_a_strategy_that_fails(corpus, no_processes):
    code, lines = run_cli(corpus, "pseudo_labels.strategy=support.broken_strategies:KeepsBlanks")
    assert code == 1
    assert [line.partition(":")[0] for line in lines] == ["FAIL labels", "1 check failed"]
    assert "tokens are 1 to" in lines[0]


def test_a_config_without_a_strategy_is_refused(corpus):
    with pytest.raises(UserError, match=r"pseudo_labels\.strategy is none"):
        checked(corpus, "none")
