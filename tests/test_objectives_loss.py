"""The loss of the student: views, consistency, intermediate layers, and what its sum is divided by."""

from __future__ import annotations

import math

import pytest
import torch
from support.runs import finish, launch, losses
from support.tiny import tiny_config
from support.train_steps import BANDS, FEATURES, HALF_SECOND, Parts, labelled, loss_alone, micro, unlabelled
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.errors import UserError
from asr_emapl.objectives.loss import LossConfig, consistency_loss, ctc_loss
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.training.trainer import train

ALL = ("loss.consistency=0.2", "loss.per=token", "model.options.intermediate_layers=[1]")


def log_probs(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 9, 5, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


def two_views(lengths: dict[str, int], targets: list[list[int]] | None) -> MicroBatch:
    """A micro-batch with different masks for each view."""
    batch = micro(lengths, targets)
    shape = len(lengths), int(FEATURES.frames(batch.samples_B).max())
    batch.keep_BF, batch.second_BF = torch.ones(len(lengths), BANDS), torch.ones(len(lengths), BANDS)
    batch.keep_BT, batch.second_BT = torch.ones(shape), torch.ones(shape)
    batch.keep_BF[0, 2:5], batch.second_BF[:, 6:8] = 0.0, 0.0
    batch.keep_BT[:, 5:15], batch.second_BT[0, 20:30] = 0.0, 0.0
    return batch


def first_view(batch: MicroBatch) -> MicroBatch:
    return MicroBatch(**(vars(batch) | {"second_BF": None, "second_BT": None}))


def second_view(batch: MicroBatch) -> MicroBatch:
    masks = {"keep_BF": batch.second_BF, "keep_BT": batch.second_BT}
    return MicroBatch(**(vars(first_view(batch)) | masks))


# Parts of the loss.


def test_ctc_is_the_mean_over_the_views():
    tokens, labels = torch.tensor([[1, 2], [3, 0]]), ((9, 6), (2, 1))
    both = ctc_loss(log_probs(4), tokens, *labels)
    views = [ctc_loss(view, tokens, *labels) for view in log_probs(4).chunk(2)]
    torch.testing.assert_close(both, (views[0] + views[1]) / 2)


def test_consistency_is_the_formula_of_the_paper():
    x_BTV, lengths = log_probs(4).double(), [9, 4]
    expected = 0.0
    for i, frames in enumerate(lengths):
        for t in range(frames):
            a, b = x_BTV[i, t], x_BTV[i + 2, t]
            expected += 0.5 * float((b.exp() * (b - a)).sum() + (a.exp() * (a - b)).sum())
    assert float(consistency_loss(x_BTV, torch.tensor(lengths))) == pytest.approx(expected, rel=1e-9)
    assert float(consistency_loss(x_BTV[:2].repeat(2, 1, 1), torch.tensor(lengths))) == pytest.approx(0.0)


def test_targets_of_the_consistency_get_no_gradient():
    """The gradient by the logits of one view is half of (its distribution - that of the other view)."""
    logits = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    consistency_loss(logits.log_softmax(-1), torch.tensor([7])).backward()
    a, b = logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad[0, :7], 0.5 * (a - b)[:7])
    torch.testing.assert_close(logits.grad[1, :7], 0.5 * (b - a)[:7])
    assert not logits.grad[:, 7:].any()


# Steps.


def test_a_step_on_two_views():
    batch = two_views({"a": 9000, "b": 6000}, [[1, 2], [3]])
    parts = Parts(loss=LossConfig(consistency=0.3))
    outputs = []
    for view in (first_view(batch), second_view(batch)):
        x_BTF, lengths_B = FEATURES(view.waveforms_BN, view.samples_B)
        x_BTF = x_BTF * view.keep_BF[:, None] * view.keep_BT[..., None]
        outputs.append(parts.student(x_BTF, lengths_B)[0])
    frames_B = parts.student.output_lengths(lengths_B)
    counts = torch.tensor([2, 1])
    tokens = torch.tensor([[1, 2], [3, 0]])
    ctc = [F.ctc_loss(x.transpose(0, 1), tokens, frames_B, counts, reduction="sum") for x in outputs]
    expected = (ctc[0] + ctc[1]) / 2 + 0.3 * consistency_loss(torch.cat(outputs), frames_B)
    gradients = torch.autograd.grad(expected / 2, list(parts.student.parameters()))
    before = parts.weights()
    result = parts.step(labelled(batch))
    assert result.loss == pytest.approx(expected.item() / 2, rel=1e-5)
    for applied, gradient in zip(parts.applied(before), gradients, strict=True):
        torch.testing.assert_close(applied, gradient, atol=1e-6, rtol=1e-4)


def test_two_views_without_weight_are_one():
    batch = two_views({"a": 9000, "b": 6000}, [[1, 2], [3]])
    assert Parts().step(labelled(batch)).loss == Parts().step(labelled(first_view(batch))).loss


def test_two_views_of_pseudo_labels_and_a_teacher_that_hears_clean_audio_once():
    batch = two_views({"a": 9000, "b": 6000}, None)
    parts = Parts(FreshLabels, loss=LossConfig(consistency=0.2))
    with torch.no_grad():
        parts.teacher.module.output.bias[3] += 5.0
    heard: list[Tensor] = []
    parts.teacher.module.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    assert parts.step(unlabelled(batch)).utterances == 2
    (features_BTF,) = heard
    assert torch.equal(features_BTF, FEATURES(batch.waveforms_BN, batch.samples_B)[0])


def test_the_views_of_dropped_utterances_go_with_them():
    pair = two_views({"a": HALF_SECOND, "b": HALF_SECOND}, [[1, 2] * 16, [3]])
    alone = two_views({"b": HALF_SECOND}, [[3]])
    for name in ("keep_BF", "keep_BT", "second_BF", "second_BT"):
        setattr(alone, name, getattr(pair, name)[1:])
    loss = LossConfig(consistency=0.5)
    found = [Parts(loss=loss).step(labelled(batch)).loss for batch in (pair, alone)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_intermediate_layers_have_their_share():
    batch = micro({"a": 9000, "b": 6000}, [[1, 2], [3]])
    found = {
        share: Parts(loss=LossConfig(intermediate=share), layers=3, intermediate_layers=[1, 2])
        for share in (0.0, 0.25, 1.0)
    }
    of = {share: parts.step(labelled(batch)).loss for share, parts in found.items()}
    assert of[0.25] == pytest.approx(0.75 * of[0.0] + 0.25 * of[1.0], rel=1e-5)
    plain = Parts(layers=3)
    expected = sum(loss_alone(plain.student, batch, i, t).item() for i, t in enumerate([[1, 2], [3]])) / 2
    assert of[0.0] == pytest.approx(expected, rel=1e-5)
    assert of[1.0] != pytest.approx(of[0.0], rel=1e-3)


def test_a_loss_per_token():
    micros = [micro({"a": 9000, "b": 6000}, [[1, 2], [3]]), micro({"c": 7000}, [[4, 1, 2]])]
    per_utterance, per_token = Parts(), Parts(loss=LossConfig(per="token"))
    before = per_token.weights()
    steps = [parts.step(labelled(*micros)) for parts in (per_utterance, per_token)]
    assert steps[1].loss == pytest.approx(steps[0].loss * 3 / 6, rel=1e-6)
    for a, b in zip(per_utterance.applied(before), per_token.applied(before), strict=True):
        torch.testing.assert_close(b, a * 3 / 6, atol=1e-7, rtol=1e-4)
    noise = Parts(loss=LossConfig(per="token")).step(labelled(*micros), measure_noise=True).noise
    assert noise is not None
    assert math.isfinite(noise.variance)


# Runs.


@pytest.mark.parametrize("strategy", ["none", "ema"])
def test_a_run_with_all_parts_resumes_exactly(corpus, tmp_path, strategy):
    start = ("hours=0.012", "pseudo_labels.start_hours=0.004", f"pseudo_labels.strategy={strategy}")
    overrides = (*ALL, *start, "validation.every_hours=null", "model.options.dropout=0.1")
    train(tiny_config(corpus, f"run_dir={tmp_path / 'whole'}", *overrides))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides, "hours=0.006"))
    train(tiny_config(corpus, f"run_dir={tmp_path / 'two'}", *overrides))
    assert losses(tmp_path / "two") == losses(tmp_path / "whole")
    assert all(map(math.isfinite, losses(tmp_path / "whole")))


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_make_the_run_of_one(corpus, tmp_path, sharding):
    start = ("hours=0.02", "pseudo_labels.start_hours=0.01", "pseudo_labels.strategy=ema")
    overrides = (*ALL, *start, "validation.every_hours=null", "batch.seconds=12", "optimizer.lr=1e-3")
    here = (f"device.sharding={sharding}", "device.max_seconds=4")
    several = launch(corpus, tmp_path / "two", *overrides, *here, processes=2)
    train(tiny_config(corpus, f"run_dir={tmp_path / 'one'}", *overrides, "device.max_seconds=12"))
    finish(several)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_two_views_of_waveforms(corpus, tmp_path):
    config = tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "loss.consistency=0.2", "hours=0.004")
    config.model.target, config.model.options = "support.broken_models:OnWaveforms", {}
    train(config)
    assert all(map(math.isfinite, losses(tmp_path / "run")))


def test_two_views_need_masks(corpus, tmp_path):
    with pytest.raises(UserError, match=r"loss\.consistency.*augment"):
        train(tiny_config(corpus, f"run_dir={tmp_path / 'run'}", "loss.consistency=0.2", "augment=null"))
