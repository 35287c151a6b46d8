"""One step: which utterances count, what the loss is divided by, and what moves the teacher or nothing."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.train_steps import (
    FEATURES,
    FRAMES,
    HALF_SECOND,
    Given,
    Parts,
    labelled,
    loss_alone,
    micro,
    unlabelled,
)
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.ctc import alignable, frames_needed
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.pseudo_labels.labels import Label, Labels


class AmongOthers(ProcessGroup):
    """One of two processes: the sums over both add what the other one is said to have."""

    def __init__(self, utterances: int, tokens: int, loss: float) -> None:
        super().__init__(0, 2, torch.device("cpu"))
        counts = [utterances, tokens, 0.0, 0.0, *[0] * len(REASONS)]
        self.others = {len(counts): counts, 1: [loss]}

    def all_reduce_sum(self, values):
        return [a + b for a, b in zip(values, self.others[len(values)], strict=True)]


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def close(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def same(left: object, right: object) -> bool:
    """Bit for bit, through dicts, lists and tensors."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, Tensor) else left == right


# Which labels CTC can align.


@pytest.mark.parametrize(
    ("tokens", "needed"),
    [([], 0), ([3], 1), ([1, 2, 3], 3), ([1, 2, 1], 3), ([1, 1], 3), ([2, 2, 2], 5), ([1, 1, 2, 2], 6)],
)
def test_alignable_from_as_many_frames_as_tokens_and_repeats(tokens, needed):
    assert alignable(tokens, needed)
    assert alignable(tokens, needed + 1)
    assert not alignable(tokens, needed - 1)


@given(st.lists(st.lists(st.integers(1, 3), max_size=8), min_size=1, max_size=4), st.integers(0, 3))
def test_frames_needed_of_a_batch_are_those_of_each_alone(texts, padding):
    labels = Labels.of([Label(text) for text in texts])
    tokens_BS = F.pad(labels.tokens_BS, (0, padding))
    needed = frames_needed(tokens_BS, labels.lengths_B).tolist()
    for tokens, frames in zip(texts, needed, strict=True):
        assert alignable(tokens, frames)
        assert not alignable(tokens, frames - 1)


@given(st.lists(st.integers(1, 3), max_size=8), st.integers(0, 12))
def test_alignable_is_what_has_a_finite_ctc_loss(tokens, frames):
    loss = F.ctc_loss(
        torch.full((12, 1, 4), -math.log(4.0)),
        torch.tensor([tokens], dtype=torch.long),
        torch.tensor([frames]),
        torch.tensor([len(tokens)]),
        reduction="sum",
    )
    assert alignable(tokens, frames) == bool(torch.isfinite(loss))


# The loss and what it is divided by.


def test_the_loss_is_each_utterances_ctc_summed_over_the_global_count():
    """Two micro-batches of unlike length and count: a mean of means would differ."""
    one = micro({"a": 16000, "b": 12000, "c": 5000}, [[1, 2, 3, 4], [5], [2, 2]])
    two = micro({"d": 4000}, [[3, 1]])
    parts = Parts()
    losses = [loss_alone(parts.student, m, i, t) for m in (one, two) for i, t in enumerate(m.targets)]
    expected = sum(losses) / 4
    wanted = gradient(parts.student, expected)
    before = parts.weights()
    result = parts.step(labelled(one, two))
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (result.utterances, result.tokens, result.taken) == (4, 9, True)
    assert result.confidence is None
    assert result.nonempty is None
    assert result.dropped == Counter()
    close(parts.applied(before), wanted)
    assert result.gradient_norm == pytest.approx(norm(wanted), rel=1e-4)


def test_of_several_processes_each_divides_by_the_count_of_all():
    """DDP averages gradients over processes, so each contributes its sum times size over global count."""
    mine = micro({"a": 8000, "b": 6000}, [[1, 2], [3]])
    parts = Parts(world=AmongOthers(utterances=5, tokens=20, loss=100.0))
    total = sum(loss_alone(parts.student, mine, i, t) for i, t in enumerate(mine.targets))
    wanted = gradient(parts.student, total * 2 / 7)
    before = parts.weights()
    result = parts.step(labelled(mine))
    assert (result.utterances, result.tokens) == (7, 23)
    assert result.loss == pytest.approx((total.item() + 100.0) / 7, rel=1e-5)
    close(parts.applied(before), wanted)


@pytest.mark.parametrize("share", [[], [micro({"a": HALF_SECOND}, [[1, 2] * FRAMES])]])
def test_a_process_without_utterances_takes_part_with_a_gradient_of_zero(share):
    parts = Parts(world=AmongOthers(utterances=2, tokens=4, loss=6.0))
    result = parts.step(labelled(*share, samples=HALF_SECOND))
    assert result.taken
    assert result.loss == pytest.approx(3.0)
    assert all(p.grad is not None and not p.grad.any() for p in parts.student.parameters())
    assert parts.teacher.audio == 0.5


def test_what_cannot_be_aligned_is_left_out_and_counted():
    """At the edge: as many tokens as frames stays, one more, or one repeat more, goes."""
    fits = [1, 2] * (FRAMES // 2)
    lengths = dict.fromkeys("abcd", HALF_SECOND)
    batch = micro(lengths, [fits, [*fits, 3], [1, *fits[:-1]], [4]])
    parts = Parts()
    frames_B = parts.student.output_lengths(FEATURES.frames(batch.samples_B))
    assert frames_B.tolist() == [FRAMES] * 4
    expected = (loss_alone(parts.student, batch, 0, fits) + loss_alone(parts.student, batch, 3, [4])) / 2
    wanted = gradient(parts.student, expected)
    before = parts.weights()
    result = parts.step(labelled(batch))
    assert result.dropped == Counter(unalignable=2)
    assert (result.utterances, result.tokens) == (2, FRAMES + 1)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    close(parts.applied(before), wanted)


def test_repeats_count_into_what_can_be_aligned():
    repeats = [1] * (FRAMES // 2)
    assert sum(a == b for a, b in pairwise(repeats)) == FRAMES // 2 - 1
    batch = micro({"a": HALF_SECOND, "b": HALF_SECOND}, [repeats, [1, *repeats]])
    result = Parts().step(labelled(batch))
    assert result.dropped == Counter(unalignable=1)
    assert math.isfinite(result.loss)
    assert result.loss > 0.0


def test_a_labelled_step_with_nothing_to_align_moves_nothing():
    parts = Parts(adam=True)
    before = parts.state()
    result = parts.step(labelled(micro({"a": HALF_SECOND}, [[1, 2] * FRAMES])))
    assert (result.taken, result.utterances) == (False, 0)
    assert result.dropped == Counter(unalignable=1)
    assert same(parts.state(), before)


# Steps that are not taken.


def test_all_pseudo_labels_empty_move_nothing():
    parts = Parts(Given({name: ([], 0.75) for name in "abc"}), adam=True)
    parts.step(labelled(micro({"z": HALF_SECOND}, [[1]])))  # the optimizer has its state
    before = parts.state()
    result = parts.step(unlabelled(micro({"a": 9000, "b": 6000}, None), micro({"c": 4000}, None)))
    assert (result.taken, result.utterances, result.tokens, result.loss) == (False, 0, 0, 0.0)
    assert result.dropped == Counter(empty=3)
    assert (result.confidence, result.nonempty) == (0.75, 0.0)
    assert same(parts.state(), before)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["gradient", "audio"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_moves_nothing(where, value, clip_norm):
    batch = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    broken = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    parts = Parts(adam=True, clip_norm=clip_norm)
    parts.step(batch)
    before = parts.state()
    if where == "gradient":
        handle = parts.student.output.bias.register_hook(lambda g: g * value)
    else:
        broken.micro_batches[0].waveforms_BN[1, 3000] = value
    result = parts.step(broken)
    assert (result.taken, result.utterances) == (False, 2)
    assert not math.isfinite(result.gradient_norm)
    assert same(parts.state(), before)
    # Nor does it leave a trace: the next step is the one that would have been.
    if where == "gradient":
        handle.remove()
    assert parts.step(batch).taken
    undisturbed = Parts(adam=True, clip_norm=clip_norm)
    undisturbed.step(batch)
    undisturbed.step(batch)
    assert same(parts.state(), undisturbed.state())


# The teacher's clock.


@pytest.mark.parametrize("samples", [HALF_SECOND, 160_000, 16_000_000])
def test_the_teacher_moves_by_rho_of_the_whole_steps_audio(samples):
    """The audio is that of all processes, which the batch states, not what this one has of it."""
    parts = Parts(half_life=10.0)
    with torch.no_grad():
        for p in parts.student.parameters():
            p.add_(0.3)  # so that a wrong rho shows
    before = [p.clone().double() for p in parts.teacher.module.parameters()]
    parts.step(labelled(micro({"a": HALF_SECOND}, [[1, 2]]), samples=samples))
    rho = 0.5 ** (samples / 16_000 / 10.0)
    for old, new, student in zip(
        before, parts.teacher.module.parameters(), parts.student.parameters(), strict=True
    ):
        expected = rho * old + (1.0 - rho) * student.detach().double()
        torch.testing.assert_close(new.double(), expected, rtol=1e-5, atol=1e-6)
    assert parts.teacher.audio == samples / 16_000


# Clipping.


def test_clipping_bounds_the_gradient_that_is_applied():
    batch = labelled(micro({"a": 8000, "b": 6000}, [[1, 2], [3]]))
    free = Parts()
    before = free.weights()
    raw = free.step(batch).gradient_norm
    gradient = free.applied(before)
    assert norm(gradient) == pytest.approx(raw, rel=1e-4)
    clipped = Parts(clip_norm=raw / 4)
    result = clipped.step(batch)
    assert result.taken
    assert result.gradient_norm == pytest.approx(raw)
    assert norm(clipped.applied(before)) == pytest.approx(raw / 4, rel=1e-4)
    close(clipped.applied(before), [g / 4 for g in gradient])


def test_a_gradient_below_the_threshold_is_left_as_it_is():
    batch = labelled(micro({"a": 8000}, [[1, 2]]))
    free, clipped = Parts(), Parts(clip_norm=1e6)
    free.step(batch)
    clipped.step(batch)
    assert same(clipped.state(), free.state())
