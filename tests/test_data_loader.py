"""Each process's share of a global batch: the same utterances and masks however they are divided."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from asr_emapl.audio.augment import AugmentConfig, SpecAugment
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FrameCount, LogMel
from asr_emapl.audio.noise import Noise, NoiseConfig
from asr_emapl.audio.perturb import Perturbation
from asr_emapl.audio.speed import Speed, SpeedConfig
from asr_emapl.data import decoders
from asr_emapl.data.batch_plan import BatchPlan, fill
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.loader import (
    STEPS_AHEAD,
    MicroBatch,
    StepBatch,
    StepDataset,
    collate,
    steps,
)
from asr_emapl.data.mixture import DataCursor, DataPlan, GlobalBatch, Mixture
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError

SECOND = 16_000
BANDS = 20
FRAMES = FrameCount(window=400, hop=160)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """30 of 0.3 to 1.2 s; no two are alike."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    made = []
    for i in range(30):
        samples = int(rng.integers(round(0.3 * SECOND), round(1.2 * SECOND)))
        path = folder / f"u{i:02d}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), SECOND)
        made.append(Utterance(f"u{i:02d}", str(path), samples / SECOND))
    return made


def corpus(utterances: list[Utterance], *, with_targets: bool = True) -> Corpus:
    """Each utterance's target is its own number, so that a mix-up shows."""
    return Corpus(utterances, [[int(u.id[1:]) + 1] for u in utterances] if with_targets else None)


def dataset(
    utterances: list[Utterance],
    *,
    rank: int = 0,
    world_size: int = 1,
    max_seconds: float = 2.5,
    seed: int = 5,
    augmented: bool = True,
) -> StepDataset:
    config = AugmentConfig(frequency_masks=2, frequency_width=8, time_masks=2, time_width=20, time_share=0.5)
    return StepDataset(
        corpus(utterances),
        corpus(utterances, with_targets=False),
        frames=FRAMES,
        augment=SpecAugment(config, BANDS) if augmented else None,
        max_samples=round(max_seconds * SECOND),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def plan(utterances: list[Utterance], seconds: float = 6.0) -> DataPlan:
    one = BatchPlan(corpus(utterances).samples, round(seconds * SECOND), seed=1)
    return DataPlan(Mixture([one]), Mixture([BatchPlan(one.samples, one.batch_samples, seed=2)]))


def global_batches(utterances: list[Utterance], count: int) -> list[GlobalBatch]:
    mix, at, made = plan(utterances), DataCursor(), []
    for _ in range(count):
        made.append(mix.next(at))
        at = made[-1].after
    return made


def rows(batch: StepBatch) -> dict[str, tuple[Tensor, Tensor, Tensor, list[int] | None]]:
    """Of each utterance: samples, kept bands, kept frames, target; without padding."""
    found = {}
    for micro in batch.micro_batches:
        for i, name in enumerate(micro.ids):
            samples = int(micro.samples_B[i])
            assert micro.keep_BF is not None
            assert micro.keep_BT is not None
            assert name not in found
            found[name] = (
                micro.waveforms_BN[i, :samples],
                micro.keep_BF[i],
                micro.keep_BT[i, : FRAMES(samples)],
                micro.targets and micro.targets[i],
            )
    return found


def same_micro(left: MicroBatch, right: MicroBatch) -> bool:
    pairs = [
        (left.waveforms_BN, right.waveforms_BN),
        (left.samples_B, right.samples_B),
        (left.keep_BF, right.keep_BF),
        (left.keep_BT, right.keep_BT),
        (left.student_BN, right.student_BN),
        (left.student_samples_B, right.student_samples_B),
    ]
    return (
        left.ids == right.ids
        and left.targets == right.targets
        and all(a is b is None or torch.equal(a, b) for a, b in pairs)
    )


def same_step(left: StepBatch, right: StepBatch) -> bool:
    return (
        (left.labelled, left.samples, left.after) == (right.labelled, right.samples, right.after)
        and len(left.micro_batches) == len(right.micro_batches)
        and all(map(same_micro, left.micro_batches, right.micro_batches))
    )


# Shares.


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_however_many_processes_they_see_the_same_utterances_and_masks(utterances, world_size):
    whole = dataset(utterances)
    parts = [dataset(utterances, rank=rank, world_size=world_size) for rank in range(world_size)]
    for batch in global_batches(utterances, 6):
        alone = whole[batch]
        expected = rows(alone)
        shares = [part[batch] for part in parts]
        together: dict[str, tuple] = {}
        for share in shares:
            mine = rows(share)
            assert not mine.keys() & together.keys()
            together |= mine
            # What the clock counts is the audio of all, on every process.
            assert (share.samples, share.after) == (alone.samples, alone.after)
        assert together.keys() == expected.keys()
        for name, (wave, bands, times, target) in expected.items():
            assert torch.equal(together[name][0], wave)
            assert torch.equal(together[name][1], bands)
            assert torch.equal(together[name][2], times)
            assert together[name][3] == target
        assert alone.samples == sum(len(wave) for wave, *_ in expected.values())


def test_shares_are_alike_and_sorted_long_to_short(utterances):
    """Otherwise the micro-batches would be mostly padding, and one process would wait for another."""
    for batch in global_batches(utterances, 6):
        padded = []
        for rank in range(3):
            step = dataset(utterances, rank=rank, world_size=3)[batch]
            for micro in step.micro_batches:
                assert micro.samples_B.tolist() == sorted(micro.samples_B.tolist(), reverse=True)
            padded.append(sum(micro.waveforms_BN.numel() for micro in step.micro_batches))
        longest = max(utterances[i].samples for i in batch.indices)
        assert max(padded) - min(padded) <= longest


def test_a_share_can_be_empty(utterances):
    batch = global_batches(utterances, 1)[0]
    last = dataset(utterances, rank=49, world_size=50)[batch]
    assert last.micro_batches == []
    assert last.samples == batch.samples


def test_targets_go_with_their_utterances_and_only_where_they_are_known(utterances):
    kinds = set()
    for batch in global_batches(utterances, 6):
        step = dataset(utterances)[batch]
        kinds.add(step.labelled)
        for micro in step.micro_batches:
            expected = [[int(name[1:]) + 1] for name in micro.ids]
            assert micro.targets == (expected if batch.labelled else None)
    assert kinds == {True, False}


# Masks.


def test_masks_change_with_the_pass_and_the_seed_and_fit_their_audio(utterances):
    batch = global_batches(utterances, 1)[0]
    again = replace(batch, epoch=batch.epoch + 1)
    first, second = rows(dataset(utterances)[batch]), rows(dataset(utterances)[again])
    other = rows(dataset(utterances, seed=6)[batch])
    assert first.keys() == second.keys() == other.keys()
    for changed in (second, other):
        assert any(not torch.equal(first[n][2], changed[n][2]) for n in first)
        assert all(torch.equal(first[n][0], changed[n][0]) for n in first)
    assert len({tuple(times.tolist()) for _, _, times, _ in first.values()}) > 1
    masked = torch.cat([times for _, _, times, _ in first.values()])
    assert {0.0, 1.0} == set(masked.tolist())


def test_masks_have_the_shape_of_the_features(utterances):
    features = LogMel()
    for micro in dataset(utterances)[global_batches(utterances, 1)[0]].micro_batches:
        features_BTF, lengths_B = features(micro.waveforms_BN, micro.samples_B)
        assert micro.keep_BT is not None
        assert micro.keep_BF is not None
        assert micro.keep_BT.shape == features_BTF.shape[:2]
        assert micro.keep_BF.shape == (len(micro.ids), BANDS)
        assert lengths_B.tolist() == [FRAMES(n) for n in micro.samples_B.tolist()]


def test_without_augmentation_there_are_no_masks(utterances):
    for micro in dataset(utterances, augmented=False)[global_batches(utterances, 1)[0]].micro_batches:
        assert micro.keep_BF is None
        assert micro.keep_BT is None


# Micro-batches.


@pytest.mark.parametrize("max_seconds", [1.2, 2.0, 3.7, 100.0])
def test_micro_batches_fit_the_device_padding_included(utterances, max_seconds):
    limit = round(max_seconds * SECOND)
    counts = []
    for batch in global_batches(utterances, 6):
        parts = dataset(utterances, max_seconds=max_seconds)[batch].micro_batches
        assert all(micro.waveforms_BN.numel() <= limit for micro in parts)
        # No more of them than if each was filled before the next one.
        ordered = sorted((utterances[i].samples for i in batch.indices), reverse=True)
        assert len(parts) <= len(fill(ordered, limit))
        assert sum(len(micro.ids) for micro in parts) == len(batch.indices)
        counts.append(len(parts))
    assert all(count == 1 for count in counts) == (max_seconds == 100.0)


def test_an_utterance_too_long_for_the_device_is_no_silent_loss(utterances):
    batch = global_batches(utterances, 1)[0]
    with pytest.raises(ValueError, match=r"device\.max_seconds"):
        dataset(utterances, max_seconds=0.25)[batch]


# Collating.


def test_collate_pads_with_zeros_and_keeps_true_lengths(utterances):
    chosen = [utterances[i] for i in (3, 0, 7)]
    micro = collate(chosen)
    assert micro.ids == [u.id for u in chosen]
    assert micro.samples_B.tolist() == [u.samples for u in chosen]
    assert micro.waveforms_BN.shape == (3, max(u.samples for u in chosen))
    for wave, samples, u in zip(micro.waveforms_BN, micro.samples_B.tolist(), chosen, strict=True):
        assert torch.equal(wave[:samples], read_audio(u.audio))
        assert not wave[samples:].any()
    assert micro.targets is None


def test_the_audios_own_length_counts_where_the_manifest_is_a_little_off(utterances):
    u = utterances[0]
    longer = Utterance("longer", u.audio, u.duration + 0.04)
    part = Utterance("part", u.audio, 0.1, offset=0.05)
    micro = collate([longer, part])
    assert micro.samples_B.tolist() == [u.samples, 1600]
    assert torch.equal(micro.waveforms_BN[1, :1600], read_audio(u.audio)[800:2400])


def test_moving_to_a_device_keeps_everything(utterances):
    batches = global_batches(utterances, 2)
    for made in (dataset(utterances), dataset(utterances, augmented=False), perturbed(utterances)):
        micro = made[next(b for b in batches if not b.labelled)].micro_batches[0]
        assert same_micro(micro.to(torch.device("cpu")), micro)


class Pinned(torch.Tensor):
    """Marks what `Tensor.pin_memory` returned, without a GPU."""


def test_a_step_hands_out_the_pinned_copies_of_all_its_tensors(utterances, monkeypatch):
    made = perturbed(utterances)[next(b for b in global_batches(utterances, 2) if not b.labelled)]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone().as_subclass(Pinned))
    pinned = made.pin_memory()
    assert (pinned.samples, pinned.after, pinned.skipped) == (made.samples, made.after, made.skipped)
    for micro, before in zip(pinned.micro_batches, made.micro_batches, strict=True):
        tensors = [value for value in vars(micro).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 6
        assert all(type(tensor) is Pinned for tensor in tensors)
        assert same_micro(micro, before)


@pytest.mark.gpu
def test_pinned_memory(utterances):
    step = dataset(utterances)[global_batches(utterances, 1)[0]].pin_memory()
    assert all(micro.waveforms_BN.is_pinned() for micro in step.micro_batches)


# Steps.


def taken(iterator: Iterator[StepBatch], count: int) -> list[StepBatch]:
    return list(itertools.islice(iterator, count))


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


# What the student hears.


def perturbed(utterances: list[Utterance], rank: int = 0, world_size: int = 1) -> StepDataset:
    """Faster, slower and noisy."""
    made = dataset(utterances, rank=rank, world_size=world_size)
    noise = Noise(NoiseConfig(p=0.7), utterances)
    made.perturb = Perturbation(speed=Speed(SpeedConfig([0.8, 1.0, 1.25])), noise=noise)
    return made


def heard(step: StepBatch) -> dict[str, tuple[Tensor, Tensor]]:
    """By utterance: what the student hears, and which of its frames are kept; without padding."""
    found = {}
    for micro in step.micro_batches:
        waves, samples_B = micro.waveforms_BN, micro.samples_B
        if micro.student_BN is not None:
            assert micro.student_samples_B is not None
            waves, samples_B = micro.student_BN, micro.student_samples_B
        assert micro.keep_BT is not None
        for i, (name, samples) in enumerate(zip(micro.ids, samples_B.tolist(), strict=True)):
            found[name] = (waves[i, :samples], micro.keep_BT[i, : FRAMES(samples)])
    return found


def test_the_teacher_hears_clean_audio_and_the_student_its_perturbation(utterances):
    kinds, lengths = set(), set()
    for batch in global_batches(utterances, 8):
        step = perturbed(utterances)[batch]
        assert (step.samples, step.after) == (batch.samples, batch.after)
        kinds.add(batch.labelled)
        student = heard(step)
        for micro in step.micro_batches:
            clean = [next(u for u in utterances if u.id == name) for name in micro.ids]
            for u in clean:
                expected = perturbed(utterances).perturb(read_audio(u.audio), 5, u.id, batch.epoch)
                assert torch.equal(student[u.id][0], expected)
                lengths.add(len(expected) / u.samples)
            if batch.labelled:
                assert micro.student_BN is None
            else:
                assert torch.equal(micro.waveforms_BN, collate(clean).waveforms_BN)
    assert kinds == {True, False}
    assert {round(r, 2) for r in lengths} == {0.8, 1.0, 1.25}


def test_perturbed_micro_batches_fit_the_device(utterances):
    limit = round(2.5 * SECOND)
    for batch in global_batches(utterances, 8):
        for micro in perturbed(utterances)[batch].micro_batches:
            assert micro.waveforms_BN.numel() <= limit
            assert micro.student_BN is None or micro.student_BN.numel() <= limit
            assert micro.keep_BT is not None
            student = micro.waveforms_BN if micro.student_BN is None else micro.student_BN
            assert micro.keep_BT.shape[1] == FRAMES(student.shape[1])


@pytest.mark.parametrize("world_size", [2, 50])
def test_however_many_processes_the_student_hears_the_same(utterances, world_size):
    for batch in global_batches(utterances, 4):
        expected = heard(perturbed(utterances)[batch])
        together: dict[str, tuple[Tensor, Tensor]] = {}
        for rank in range(world_size):
            together |= heard(perturbed(utterances, rank, world_size)[batch])
        assert together.keys() == expected.keys()
        assert all(torch.equal(a, b) for n in expected for a, b in zip(together[n], expected[n], strict=True))


def test_decoding_processes_change_nothing_of_what_the_student_hears(utterances):
    alone, several = (
        taken(steps(perturbed(utterances), plan(utterances), DataCursor(), workers=w, pin_memory=False), 8)
        for w in (0, 2)
    )
    assert all(map(same_step, alone, several))


def test_an_utterance_is_read_from_its_manifest_once_per_batch(utterances):
    """Its id decides the speed of the student's audio, which has to be known before the batch is divided."""

    reads: list[int] = []

    class Counted(list):
        def __getitem__(self, row):
            reads.append(row)
            return super().__getitem__(row)

    made = perturbed(utterances)
    for batch in global_batches(utterances, 4):
        made.corpora[batch.labelled].utterances = Counted(utterances)
        reads.clear()
        assert made[batch].micro_batches
        assert sorted(reads) == sorted(batch.indices.tolist())
