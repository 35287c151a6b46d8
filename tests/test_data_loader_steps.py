"""The steps of decoding processes: the same ones with any number of them, and what ends them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from support.loaded_batches import (
    SECOND,
    corpus,
    dataset,
    global_batches,
    make_utterances,
    plan,
    same_step,
    taken,
)
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from asr_emapl.audio.perturb import Perturbation
from asr_emapl.data import decoders
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.loader import STEPS_AHEAD, collate, steps
from asr_emapl.data.mixture import DataCursor, DataPlan, GlobalBatch, Mixture
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    return make_utterances(tmp_path_factory.mktemp("audio"))


def run(utterances: list[Utterance], start: DataCursor, workers: int = 0) -> Generator[StepBatch, None, None]:
    return steps(dataset(utterances), plan(utterances), start, workers=workers, pin_memory=False)


def test_decoding_processes_change_nothing(utterances):
    alone = taken(run(utterances, DataCursor()), 8)
    several = taken(run(utterances, DataCursor(), workers=2), 8)
    assert all(map(same_step, alone, several))
    assert {step.labelled for step in alone} == {True, False}


@pytest.mark.parametrize("done", [0, 1, 5, 13])
def test_going_on_from_a_position_gives_the_rest(utterances, done):
    """Over the end of a pass too: 13 steps are more than one of either kind."""
    whole = taken(run(utterances, DataCursor()), 20)
    assert whole[-1].after.labelled.corpora[0].epoch >= 1
    start = DataCursor() if done == 0 else whole[done - 1].after
    # As a checkpoint keeps it.
    start = DataCursor.from_state(start.state_dict())
    assert all(map(same_step, taken(run(utterances, start), 20 - done), whole[done:]))


def test_steps_follow_one_another_without_end(utterances):
    whole = taken(run(utterances, DataCursor()), 40)
    consumed = 0
    for step in whole:
        consumed += step.samples
        assert step.after.labelled.total + step.after.unlabelled.total == consumed


@pytest.fixture
def damaged(utterances, tmp_path: Path) -> list[Utterance]:
    """Two more, one of them broken and one absent; each is in the middle of the lengths."""
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF and then nothing")
    absent = Utterance("u98", str(tmp_path / "absent.wav"), 0.7)
    return [*utterances, absent, Utterance("u99", str(broken), 0.8)]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_decoded_is_left_out_and_told_and_counts_as_planned(damaged, utterances, workers):
    planned, at = plan(damaged), DataCursor()
    found = set()
    for step in taken(run(damaged, at, workers), 12):
        batch = planned.next(at)
        at = batch.after
        assert (step.samples, step.after) == (batch.samples, batch.after)
        names = [name for micro in step.micro_batches for name in micro.ids]
        gone = {one.id for one in step.skipped}
        assert gone == {damaged[i].id for i in batch.indices} & {"u98", "u99"}
        assert sorted([*names, *gone]) == sorted(damaged[i].id for i in batch.indices)
        for one in step.skipped:
            assert one.audio in one.why
            assert "\n" not in one.why
            assert one.epoch == batch.epoch
        found |= gone
    assert found == {"u98", "u99"}


def test_what_is_left_out_changes_nothing_for_the_others(damaged, utterances):
    """Neither their masks nor the others in their micro-batch."""
    for step in taken(run(damaged, DataCursor()), 8):
        groups = [micro.ids for micro in step.micro_batches]
        gone = [one.id for one in step.skipped]
        lengths = {u.id: u.samples for u in damaged}
        whole = sorted([name for group in groups for name in group] + gone, key=lambda n: -lengths[n])
        for group in groups:
            first, last = whole.index(group[0]), whole.index(group[-1])
            assert [name for name in whole[first : last + 1] if name not in gone] == group
        for micro in step.micro_batches:
            alone = collate([next(u for u in utterances if u.id == name) for name in micro.ids])
            assert torch.equal(micro.waveforms_BN, alone.waveforms_BN)


def test_a_share_of_which_nothing_can_be_decoded_has_no_micro_batches(tmp_path):
    gone = [Utterance(f"u{i:02d}", str(tmp_path / f"{i}.wav"), 1.0) for i in range(4)]
    step = next(run(gone, DataCursor()))
    assert step.micro_batches == []
    assert len(step.skipped) == 4
    assert step.samples == 4 * SECOND


class Counting(DataPlan):
    """Knows how many batches were asked of it."""

    asked = 0

    def next(self, at: DataCursor) -> GlobalBatch:
        self.asked += 1
        return super().next(at)


@pytest.mark.parametrize("workers", [1, 3])
def test_decoding_is_ahead_by_a_bounded_number_of_steps(utterances, workers):
    one = BatchPlan(corpus(utterances).samples, 6 * SECOND)
    counting = Counting(Mixture([one]))
    got = steps(dataset(utterances), counting, DataCursor(), workers=workers, pin_memory=False)
    for done in range(1, 8):
        next(got)
        assert counting.asked <= done + workers * STEPS_AHEAD
    assert counting.asked > 7


class Deadly(Perturbation):
    """Ends the process that perturbs a certain utterance."""

    def __call__(self, waveform: Tensor, *draw: int | str) -> Tensor:
        if draw[1] == "u07":
            os.kill(os.getpid(), signal.SIGKILL)
        return waveform


def test_a_decoding_process_that_dies_is_an_error_that_names_what_it_decoded(utterances):
    """And nothing is raised elsewhere than where the next step is asked for."""
    deadly = dataset(utterances)
    deadly.perturb = Deadly()
    got = steps(deadly, plan(utterances), DataCursor(), workers=2, pin_memory=False)
    handler = signal.getsignal(signal.SIGCHLD)
    said = ""
    try:
        for step in itertools.islice(got, 60):
            assert not any("u07" in micro.ids for micro in step.micro_batches)
            assert signal.getsignal(signal.SIGCHLD) == handler
            time.sleep(0.05)
    except UserError as error:
        said = str(error)
    assert utterances[7].id in said
    assert utterances[7].audio in said
    assert "SIGKILL" in said
    assert "data.workers" in said
    assert "\n" not in said


def test_a_decoding_process_killed_from_outside_is_an_error(utterances):
    others = set(multiprocessing.active_children())
    got = run(utterances, DataCursor(), workers=2)
    next(got)
    victim = next(p for p in multiprocessing.active_children() if p not in others)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=f"decoding process {victim.pid} was killed by SIGKILL"):
        taken(got, 40)


class Faulty(Perturbation):
    """Has a programming error."""

    def __call__(self, waveform: Tensor, *draw: int | str) -> Tensor:
        raise RuntimeError("a shape is wrong")


def test_processes_end_with_the_steps(utterances):
    """Also where an error keeps the steps from being collected; its traceback holds them."""
    others = set(multiprocessing.active_children())
    got = run(utterances, DataCursor(), workers=2)
    next(got)
    assert len(set(multiprocessing.active_children()) - others) == 2
    got.close()
    assert not set(multiprocessing.active_children()) - others
    wrong = dataset(utterances)
    wrong.perturb = Faulty()
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        next(steps(wrong, plan(utterances), DataCursor(), workers=1, pin_memory=False))
    assert not set(multiprocessing.active_children()) - others


class Stuck(Perturbation):
    """Reads from a disk that stops answering after so many files."""

    def __init__(self, files: int) -> None:
        super().__init__()
        self.files = files

    def __call__(self, waveform: Tensor, *draw: int | str) -> Tensor:
        self.files -= 1
        if self.files < 0:
            time.sleep(600)
        return waveform


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_decoding_process_that_hangs_is_killed(utterances, monkeypatch, interrupted):
    """They ignore SIGTERM; interrupted: Ctrl-C comes while they are waited for."""
    monkeypatch.setattr(decoders, "PATIENCE_S", 0.2)
    others = set(multiprocessing.active_children())
    hanging = dataset(utterances)
    hanging.perturb = Stuck(len(next(iter(global_batches(utterances, 1))).indices))
    got = steps(hanging, plan(utterances), DataCursor(), workers=2, pin_memory=False)
    next(got)
    time.sleep(0.5)  # until they hang
    if interrupted:

        def interrupt(items: object) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            got.close()
    else:
        got.close()
    assert not set(multiprocessing.active_children()) - others


def test_other_errors_in_a_decoding_process_stay_what_they_are(utterances):
    wrong = dataset(utterances)
    wrong.perturb = Faulty()
    got = steps(wrong, plan(utterances), DataCursor(), workers=1, pin_memory=False)
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        next(got)
