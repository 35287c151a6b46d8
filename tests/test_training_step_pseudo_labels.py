"""Steps on pseudo-labels."""

from __future__ import annotations

import pytest
import torch
from support.train_steps import (
    BANDS,
    FEATURES,
    FRAMES,
    HALF_SECOND,
    VOCABULARY,
    Given,
    Parts,
    labelled,
    loss_alone,
    micro,
    unlabelled,
)
from torch import Tensor

from asr_emapl.data.step_batch import Skipped
from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.text import CharacterTokenizer


def test_the_student_learns_the_labels_that_the_strategy_gave():
    batch = micro({"a": 9000, "b": 7000}, [[5, 5, 5], [5]])  # the true targets, which are not to be used
    given = {"a": ([1, 2, 3], 0.9), "b": ([4, 4], 0.5)}
    strategy = Given(given)
    parts = Parts(strategy)
    losses = [loss_alone(parts.student, batch, i, given[n][0]) for i, n in enumerate("ab")]
    expected = sum(losses) / 2
    result = parts.step(unlabelled(batch))
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert (result.utterances, result.tokens) == (2, 5)
    assert result.confidence == pytest.approx(0.7)
    assert result.nonempty == 1.0
    assert strategy.seen[0].seconds == [9000 / 16_000, 7000 / 16_000]


def test_every_rejection_is_counted_with_its_reason():
    """Half a second each: 4 tokens are 8 a second."""
    answers = {
        "a": ([1, 2, 3, 4], 0.9),
        "b": ([], 1.0),
        "c": ([1, 2, 3, 4], 0.1),
        "d": ([1], 0.9),
        "e": ([1, 2] * 5, 0.9),
        "f": ([1] * 9, 0.9),  # 8 repeats: 17 frames, and there are 16
        "g": ([], 0.1),
    }
    strategy = Given(answers)
    parts = Parts(strategy, min_confidence=0.5, tokens_per_second=[4.0, 18.0])
    batch = micro(dict.fromkeys("abcd", HALF_SECOND), None)
    rest = micro(dict.fromkeys("efg", HALF_SECOND), None)
    expected = loss_alone(parts.student, batch, 0, [1, 2, 3, 4])
    step = unlabelled(batch, rest)
    step.skipped = [Skipped("x", "x.flac", "x.flac: not decodable", 0)]
    result = parts.step(step)
    reasons = {"unalignable": 1, "empty": 2, "low_confidence": 1, "too_few_tokens": 1, "too_many_tokens": 1}
    assert result.dropped == reasons | {"undecodable": 1}
    assert set(result.dropped) <= set(REASONS)
    assert result.utterances == 1
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    # Of all that the strategy labelled, not of what passed.
    assert result.confidence == pytest.approx(sum(sure for _, sure in answers.values()) / 7)
    assert result.nonempty == pytest.approx(5 / 7)


def test_a_label_of_spaces_alone_is_an_empty_label():
    answers = {"a": ([2, 1, 3], 0.9), "b": ([1], 0.9), "c": ([1, 1], 0.9)}
    parts = Parts(Given(answers))
    assert isinstance(parts.step.unlabelled, CtcObjective)
    assert parts.step.unlabelled.filters is not None
    parts.step.unlabelled.filters.tokenizer = CharacterTokenizer(" ABCD")
    result = parts.step(unlabelled(micro(dict.fromkeys("abc", HALF_SECOND), None)))
    assert result.dropped == {"empty": 2}
    assert result.nonempty == pytest.approx(1 / 3)
    # What monitor, guard and later passes see.
    assert [label.tokens for label in result.labels.values()] == [[2, 1, 3], [], []]


def test_masks_reach_the_student_and_nobody_else():
    batch = micro({"a": 9000, "b": 6000}, None)
    frames = FEATURES.frames(batch.samples_B)
    batch.keep_BF = torch.ones(2, BANDS)
    batch.keep_BF[0, 3:5] = 0.0
    batch.keep_BT = torch.ones(2, int(frames.max()))
    batch.keep_BT[1, 10:20] = 0.0
    clean_BTF, _ = FEATURES(batch.waveforms_BN, batch.samples_B)
    strategy = Given({"a": ([1], 1.0), "b": ([2], 1.0)})
    parts = Parts(strategy)
    heard: list[Tensor] = []
    parts.student.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].clone()))
    parts.step(unlabelled(batch))
    (shown,) = strategy.seen
    assert torch.equal(shown.features, clean_BTF)
    assert torch.equal(shown.lengths, frames)
    (masked_BTF,) = heard
    assert torch.equal(masked_BTF, clean_BTF * batch.keep_BF[:, None, :] * batch.keep_BT[:, :, None])
    assert not masked_BTF[0, :, 3:5].any()
    assert not masked_BTF[1, 10:20].any()
    assert clean_BTF[0, :, 3:5].all()
    assert clean_BTF[1, 10:20].all()


def test_the_teacher_hears_clean_audio_in_eval_mode():
    batch = micro({"a": 9000}, None)
    batch.keep_BF, batch.keep_BT = (
        torch.zeros(1, BANDS),
        torch.zeros(1, int(FEATURES.frames(batch.samples_B))),
    )
    parts = Parts(FreshLabels)
    parts.student.train()
    heard: list[tuple[Tensor, bool]] = []
    parts.teacher.module.register_forward_pre_hook(lambda m, inputs: heard.append((inputs[0], m.training)))
    result = parts.step(unlabelled(batch))
    ((features_BTF, training),) = heard
    assert torch.equal(features_BTF, FEATURES(batch.waveforms_BN, batch.samples_B)[0])
    assert not training
    assert result.confidence is not None
    assert 1 / VOCABULARY <= result.confidence <= 1.0


def test_masks_of_dropped_utterances_go_with_them():
    """What stays keeps its own mask when its neighbour is dropped."""
    pair = micro({"a": HALF_SECOND, "b": HALF_SECOND}, [[1, 2] * FRAMES, [3]])
    keep = torch.ones(2, BANDS)
    keep[0, :6] = 0.0
    keep[1, 6:] = 0.0
    pair.keep_BF, pair.keep_BT = keep, torch.ones(2, 48)
    alone = micro({"b": HALF_SECOND}, [[3]])
    alone.keep_BF, alone.keep_BT = keep[1:], torch.ones(1, 48)
    assert Parts().step(labelled(pair)).loss == pytest.approx(Parts().step(labelled(alone)).loss, rel=1e-5)


def test_perturbed_waveforms_reach_the_student_and_nobody_else():
    """Half as long: what was alignable to the teacher's frames is not to the student's."""
    batch = micro({"a": 9000, "b": 9000}, None)
    student = micro({"c": 4500, "d": 4400}, None)
    batch.student_BN, batch.student_samples_B = student.waveforms_BN, student.samples_B
    available = int(Parts().student.output_lengths(FEATURES.frames(student.samples_B))[1])
    strategy = Given({"a": ([1], 1.0), "b": ([1, 2] * available, 1.0)})
    parts = Parts(strategy)
    expected = loss_alone(parts.student, student, 0, [1])
    heard: list[tuple[Tensor, Tensor]] = []
    parts.student.register_forward_pre_hook(lambda module, inputs: heard.append(inputs))
    result = parts.step(unlabelled(batch))
    (shown,) = strategy.seen
    assert torch.equal(shown.features, FEATURES(batch.waveforms_BN, batch.samples_B)[0])
    assert shown.seconds == [9000 / 16_000] * 2
    ((features_BTF, lengths_B),) = heard
    student_BTF, frames = FEATURES(student.waveforms_BN, student.samples_B)
    assert torch.equal(features_BTF, student_BTF[:1])
    assert torch.equal(lengths_B, frames[:1])
    assert result.dropped == {"unalignable": 1}
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)


def test_a_step_of_which_nothing_could_be_decoded_moves_nothing():
    parts = Parts()
    before = parts.state()
    batch = labelled(samples=9000)
    batch.skipped = [Skipped("x", "x.flac", "x.flac: not decodable", 0)]
    result = parts.step(batch)
    assert not result.taken
    assert result.dropped == {"undecodable": 1}
    assert str(parts.state()) == str(before)
