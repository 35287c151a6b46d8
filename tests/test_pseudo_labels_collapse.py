"""A run that no longer learns is stopped, and told why; one that stumbles is not."""

from __future__ import annotations

from collections import Counter

import pytest
from support.runs import launch
from support.tiny import make_corpus, tiny_config

from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.objectives.step_result import StepResult
from asr_emapl.pseudo_labels.collapse import (
    BARREN_STEPS,
    BROKEN_STEPS,
    BROKEN_STEPS_OF_A_PASS,
    CollapseGuard,
)
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.training.trainer import train


def step(guard: CollapseGuard, number: int, labelled: bool, result: StepResult) -> None:
    guard.step(number, labelled, result, result.taken)


GOOD = StepResult(4, 20, loss=1.0, gradient_norm=1.0)
BROKEN = StepResult(4, 20, loss=1.0, gradient_norm=float("nan"), taken=False)
LONG = 1_000_000  # utterances of a pass that never ends


def barren(**dropped: int) -> StepResult:
    return StepResult(0, 0, Counter(dropped), taken=False)


EMPTY = barren(empty=4)


@pytest.mark.parametrize(
    ("labelled", "bad", "most", "message"),
    [(True, BROKEN, BROKEN_STEPS, "not been finite"), (False, EMPTY, BARREN_STEPS, "no pseudo-label")],
)
def test_so_many_bad_steps_in_a_row_and_not_one_fewer(labelled, bad, most, message):
    guard = CollapseGuard(LONG, LONG)
    for result in [bad] * (most - 1) + [GOOD] + [bad] * (most - 1):
        step(guard, 7, labelled, result)
    with pytest.raises(UserError, match=rf"{message}.*step 8"):
        step(guard, 8, labelled, bad)


@pytest.mark.parametrize("labelled", [True, False])
def test_steps_of_the_other_kind_between_barren_ones_make_nothing_good(labelled):
    guard = CollapseGuard(LONG, LONG)
    for _ in range(BARREN_STEPS - 1):
        step(guard, 1, labelled, EMPTY)
        step(guard, 2, not labelled, GOOD)
    with pytest.raises(UserError, match=r"no (pseudo-label|labelled utterance) could be used"):
        step(guard, 3, labelled, EMPTY)


def test_barren_steps_between_broken_ones_make_nothing_good():
    guard = CollapseGuard(LONG, LONG)
    for _ in range(BROKEN_STEPS - 1):
        step(guard, 1, True, BROKEN)
        step(guard, 2, False, EMPTY)
    with pytest.raises(UserError, match="not been finite"):
        step(guard, 3, True, BROKEN)


@pytest.mark.parametrize("reason", ["unalignable", "undecodable"])
@pytest.mark.parametrize("steps", [1, 5])
def test_a_pass_over_labelled_audio_that_taught_nothing_is_enough(reason, steps):
    guard = CollapseGuard(4 * steps, 0)
    for number in range(1, steps):
        step(guard, number, True, barren(**{reason: 4}))
    with pytest.raises(UserError) as caught:
        step(guard, steps, True, barren(**{reason: 4}))
    said = str(caught.value)
    assert f"{4 * steps} of {4 * steps} utterances" in said
    assert REASONS[reason].remedy in said
    assert "collapsed" not in said


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "empty"])
def test_labels_that_a_filter_dropped_are_no_collapse(reason):
    guard = CollapseGuard(LONG, 10)
    step(guard, 1, False, barren(**{reason: 3, "empty": 2}))
    with pytest.raises(UserError, match=r"no pseudo-label.*6 of 10 utterances") as caught:
        step(guard, 2, False, barren(**{reason: 3, "empty": 2}))
    assert REASONS[reason].remedy in str(caught.value)
    assert "collapsed" not in str(caught.value)


def test_a_teacher_that_is_not_ready_in_a_short_pass_has_a_hundred_steps():
    guard = CollapseGuard(4, 4)
    for number in range(BARREN_STEPS - 1):
        step(guard, number, False, EMPTY)
    with pytest.raises(UserError, match="collapsed to blanks"):
        step(guard, BARREN_STEPS, False, EMPTY)


def test_a_short_pass_without_a_finite_gradient_is_noticed_but_one_stumble_is_not():
    guard = CollapseGuard(4, 0)
    for number in range(1, BROKEN_STEPS_OF_A_PASS):
        step(guard, number, True, BROKEN)
    step(guard, 10, True, GOOD)
    for number in range(1, BROKEN_STEPS_OF_A_PASS):
        step(guard, number, True, BROKEN)
    with pytest.raises(UserError, match="not been finite"):
        step(guard, 20, True, BROKEN)


# Whole runs.


def long_texts(root, folder):
    """The labelled manifest with texts that no frames are enough for."""
    path = folder / "long.jsonl"
    read = read_manifest(root / "labelled.jsonl")
    write_manifest(path, [Utterance(u.id, u.audio, u.duration, "ADA " * 200) for u in read])
    return path


@pytest.mark.parametrize("batch", ["6", "100"])  # several batches a pass, and one
def test_texts_too_long_for_their_audio_end_the_run_within_a_pass(corpus, tmp_path, batch):
    config = tiny_config(
        corpus,
        f"run_dir={tmp_path / 'run'}",
        f"data.labelled=[{long_texts(corpus, tmp_path)}]",
        f"batch.seconds={batch}",
    )
    with pytest.raises(UserError, match=r"no labelled utterance.*16 of 16 utterances.*tokenizer with longer"):
        train(config)


def test_labelled_audio_that_is_all_missing_ends_a_run_that_admits_missing_audio(tmp_path):
    make_corpus(tmp_path)
    for path in tmp_path.glob("labelled-*.flac"):
        path.unlink()
    run = launch(
        tmp_path, tmp_path / "run", "data.max_skipped_share=1", "validation.every_hours=null", processes=2
    )
    output, _ = run.communicate(timeout=240)
    assert run.returncode != 0
    assert "no labelled utterance could be used" in output
    assert "16 of 16 utterances have audio that cannot be decoded" in output
    assert "Trainer" not in output  # no traceback but torchrun's own


def test_labelled_steps_that_teach_nothing_end_a_run_whose_unlabelled_ones_go_on(corpus, tmp_path):
    overrides = ("hours=1", "pseudo_labels.strategy=oracle", "validation.every_hours=null")
    config = tiny_config(
        corpus,
        f"run_dir={tmp_path / 'run'}",
        f"data.labelled=[{long_texts(corpus, tmp_path)}]",
        *overrides,
    )
    with pytest.raises(UserError, match="no labelled utterance"):
        train(config)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("pseudo_labels.tokens_per_second=[90,100]", "tokens_per_second"),
        ("pseudo_labels.tokens_per_second=[0,0.01]", "tokens_per_second"),
    ],
)
def test_a_filter_that_drops_all_pseudo_labels_is_named(corpus, tmp_path, override, named):
    overrides = ("hours=1", "pseudo_labels.strategy=oracle", "validation.every_hours=null")
    config = tiny_config(corpus, f"run_dir={tmp_path / 'run'}", *overrides, override)
    with pytest.raises(UserError, match=rf"no pseudo-label.*24 of 24 utterances.*{named}"):
        train(config)


def test_each_skipped_step_is_counted_and_the_first_is_told(corpus, tmp_path, capsys):
    config = tiny_config(
        corpus, f"run_dir={tmp_path / 'run'}", f"data.labelled=[{long_texts(corpus, tmp_path)}]"
    )
    with pytest.raises(UserError):
        train(config)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "warning: step 1 was skipped: all" in told[0]
    assert "unalignable" in told[0]
    assert "steps were skipped" in told[-1]
