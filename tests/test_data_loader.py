"""Each process's share of a global batch: the same utterances and masks however they are divided."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.loaded_batches import (
    BANDS,
    SECOND,
    dataset,
    frames,
    global_batches,
    make_utterances,
    plan,
    same_micro,
    same_step,
    taken,
)
from torch import Tensor

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import LogMel
from asr_emapl.audio.perturb import Noise, NoiseConfig, Perturbation, Speed, SpeedConfig
from asr_emapl.data.batch_plan import fill
from asr_emapl.data.loader import StepDataset, collate, steps
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.data.utterance import Utterance


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    return make_utterances(tmp_path_factory.mktemp("audio"))


def rows(batch: StepBatch) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor, list[int] | None]]:
    """Of each utterance: samples, kept bands, kept frames of both views, target; without padding."""
    found = {}
    for micro in batch.micro_batches:
        for i, name in enumerate(micro.ids):
            samples = int(micro.samples_B[i])
            assert micro.keep_BF is not None
            assert micro.keep_BT is not None
            assert micro.second_BT is not None
            assert name not in found
            found[name] = (
                micro.waveforms_BN[i, :samples],
                micro.keep_BF[i],
                micro.keep_BT[i, : frames(samples)],
                micro.second_BT[i, : frames(samples)],
                micro.targets and micro.targets[i],
            )
    return found


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
        for name, (wave, bands, times, second, target) in expected.items():
            assert torch.equal(together[name][0], wave)
            assert torch.equal(together[name][1], bands)
            assert torch.equal(together[name][2], times)
            assert torch.equal(together[name][3], second)
            assert together[name][4] == target
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
    assert len({tuple(times.tolist()) for _, _, times, *_ in first.values()}) > 1
    assert any(not torch.equal(times, second) for _, _, times, second, _ in first.values())
    masked = torch.cat([times for _, _, times, *_ in first.values()])
    assert {0.0, 1.0} == set(masked.tolist())


def test_masks_have_the_shape_of_the_features(utterances):
    features = LogMel()
    for micro in dataset(utterances)[global_batches(utterances, 1)[0]].micro_batches:
        features_BTF, lengths_B = features(micro.waveforms_BN, micro.samples_B)
        assert micro.keep_BT is not None
        assert micro.keep_BF is not None
        assert micro.keep_BT.shape == features_BTF.shape[:2]
        assert micro.keep_BF.shape == (len(micro.ids), BANDS)
        assert lengths_B.tolist() == [frames(n) for n in micro.samples_B.tolist()]


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
        assert len(tensors) == 8
        assert all(type(tensor) is Pinned for tensor in tensors)
        assert same_micro(micro, before)


@pytest.mark.gpu
def test_pinned_memory(utterances):
    step = dataset(utterances)[global_batches(utterances, 1)[0]].pin_memory()
    assert all(micro.waveforms_BN.is_pinned() for micro in step.micro_batches)


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
            found[name] = (waves[i, :samples], micro.keep_BT[i, : frames(samples)])
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
            assert micro.keep_BT.shape[1] == frames(student.shape[1])


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
