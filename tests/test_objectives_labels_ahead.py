"""Labels that are begun before their step: whose they are, when they are used, and what a checkpoint has."""

from __future__ import annotations

import torch
from support.train_steps import HALF_SECOND, Given, Parts, labelled, micro, unlabelled

from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.pseudo_labels.labels import Label, PendingLabels
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels

LENGTHS = {"a": HALF_SECOND, "b": HALF_SECOND // 2}
ROWS = {ord(name) for name in LENGTHS}


def objective(parts: Parts) -> CtcObjective:
    assert isinstance(parts.step.unlabelled, CtcObjective)
    return parts.step.unlabelled


def sharp(parts: Parts) -> Parts:
    """An untrained model emits one token everywhere; this one emits several."""
    for model in (parts.student, parts.teacher.module):
        with torch.no_grad():
            model.output.weight.mul_(20.0)
    return parts


def test_labels_begun_before_a_step_are_those_of_the_teacher_before_it():
    parts = sharp(Parts(FreshLabels, half_life=0.1))
    this, following = labelled(micro(LENGTHS, [[1, 2], [3]])), unlabelled(micro(LENGTHS, None))
    before = objective(parts).prepare(following.micro_batches, 1).labels
    parts.step.begin_labels(following)
    parts.step(this)
    after = objective(parts).prepare([micro(LENGTHS, None)], 1).labels
    assert parts.step(following).labels == before != after


def test_searches_begun_are_waited_for_in_their_step_only():
    found: list[str] = []

    class Slow(Given):
        def labels(self, batch):
            return PendingLabels(lambda: found.append("searched") or super(Slow, self).labels(batch))

    parts = Parts(Slow({"a": ([1, 2], 0.5), "b": ([3], 0.75)}))
    following = unlabelled(micro(LENGTHS, None))
    parts.step.begin_labels(following)
    parts.step(labelled(micro(LENGTHS, [[1, 2], [3]])))
    assert found == []
    result = parts.step(following)
    assert found == ["searched"]
    assert result.labels == {ord("a"): Label([1, 2], 0.5), ord("b"): Label([3], 0.75)}
    # The next time, they are not begun before.
    assert parts.step(unlabelled(micro(LENGTHS, None))).labels == result.labels
    assert found == ["searched", "searched"]


def test_a_checkpoint_has_the_labels_of_the_batch_that_follows():
    """The loss after a resume is the same, digit for digit, though the strategy would answer otherwise."""
    answers = {"a": ([1, 2], 0.5), "b": ([3], 0.75)}
    batch = unlabelled(micro(LENGTHS, None))
    parts, resumed = Parts(Given(answers)), Parts(Given(dict.fromkeys(LENGTHS, ([5], 0.1))))
    parts.step.begin_labels(batch)
    state = objective(parts).ahead.state_dict()
    assert state == [(ord("a"), [1, 2], 0.5, 1.0, None), (ord("b"), [3], 0.75, 1.0, None)]
    objective(resumed).ahead.load_state_dict(state)
    assert objective(resumed).ahead.state_dict() == state
    # Labels of the next batch but one are begun before: these are of the strategy.
    later = unlabelled(micro(LENGTHS, None))
    resumed.step.begin_labels(later)
    one, other = parts.step(batch), resumed.step(batch)
    assert one == other
    assert resumed.step(later).labels == {row: Label([5], 0.1) for row in ROWS}


def test_labels_of_a_checkpoint_are_not_used_for_another_batch():
    """As after a resume on another number of GPUs, with another batch."""
    parts = Parts(Given(dict.fromkeys("abc", ([5], 0.1))))
    ahead = objective(parts).ahead
    ahead.load_state_dict([(ord("a"), [1], 0.5, 1.0, None)])
    assert parts.step(unlabelled(micro(LENGTHS, None))).labels == {row: Label([5], 0.1) for row in ROWS}
    assert ahead.state_dict() == []
    assert parts.step(unlabelled(micro({"a": HALF_SECOND}, None))).labels == {ord("a"): Label([5], 0.1)}


def test_labels_begun_for_a_batch_that_does_not_come_are_not_used():
    parts = Parts(Given(dict.fromkeys(LENGTHS, ([5], 0.1))))
    parts.step.begin_labels(unlabelled(micro(LENGTHS, None)))
    assert parts.step(unlabelled(micro({"a": HALF_SECOND}, None))).labels == {ord("a"): Label([5], 0.1)}
