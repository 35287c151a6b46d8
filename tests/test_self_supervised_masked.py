"""Masked prediction: masks, targets and loss."""

from __future__ import annotations

import pytest
import torch
from support.train_steps import ALONE, FEATURES, micro
from torch import Tensor, nn

from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.self_supervised.config import MaskedConfig
from asr_emapl.self_supervised.masked import MaskedObjective, span_mask
from asr_emapl.self_supervised.networks import MaskedModel
from asr_emapl.self_supervised.spread import SpreadGuard


def objective(**settings) -> MaskedObjective:
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "layers": 3, "dropout": 0.0, "frontend_dropout": 0.0}
    encoder = TransformerCtc(1, FEATURES.size, **sizes, max_shift_seconds=0.0)
    student = MaskedModel(encoder, "model")
    guard = SpreadGuard("stop", "the targets", "", is_first=True)
    models = (student, EmaTeacher(student, 10.0), MaskedConfig(**settings))
    return MaskedObjective(ALONE, FEATURES, *models, guard, lambda phase: None, seed=3)


@pytest.mark.parametrize(("share", "span"), [(0.5, 10), (0.2, 3), (0.9, 1)])
def test_the_share_of_masked_frames_is_as_configured(share, span):
    masks = torch.stack([span_mask(200, share, span, seed) for seed in range(300)]).float()
    assert masks.mean().item() == pytest.approx(share, abs=0.02)
    assert masks[:, 0].mean().item() == pytest.approx(share, abs=0.08), "also at the beginning"
    assert masks[:, -1].mean().item() == pytest.approx(share, abs=0.08), "and at the end"


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_every_utterance_has_a_masked_frame(frames):
    assert all(span_mask(frames, 0.01, 5, seed).any() for seed in range(50))


def test_targets_are_normalised_and_averaged_by_hand():
    made = objective(top_layers=2)
    batch = micro({"a": 16000, "b": 9000}, None)
    (targets,) = made.prepare([batch], 1).targets
    for i, samples in enumerate([16000, 9000]):
        wave = batch.waveforms_BN[i : i + 1, :samples]
        layers, _ = made.teacher.module.layers(*FEATURES(wave, torch.tensor([samples])))
        expected = sum(nn.functional.instance_norm(layer.transpose(1, 2)) for layer in layers[-2:]) / 2
        frames = layers[0].shape[1]
        assert targets.target_BTD[i, :frames].allclose(expected[0].T, atol=1e-4)
        assert not targets.target_BTD[i, frames:].any()
        assert not targets.mask_BT[i, frames:].any()


def test_masks_depend_only_on_the_utterance_and_the_pass():
    made = objective()
    together = made.prepare([micro({"a": 16000, "b": 9000}, None)], 1).targets[0]
    alone = made.prepare([micro({"b": 9000}, None)], 1).targets[0]
    frames = alone.mask_BT.shape[1]
    assert together.mask_BT[1, :frames].equal(alone.mask_BT[0])
    later = micro({"b": 9000}, None)
    later.epoch = 1
    assert not made.prepare([later], 1).targets[0].mask_BT.equal(alone.mask_BT)


def test_the_input_is_zero_in_masked_spans():
    made = objective(span_seconds=0.12)
    (targets,) = made.prepare([micro({"a": 16000}, None)], 1).targets
    zero_T = (targets.features_BTF[0] == 0.0).all(-1)
    frames, masked = len(zero_T), targets.mask_BT[0]
    assert zero_T.tolist() == [bool(masked[t * len(masked) // frames]) for t in range(frames)]


def test_the_loss_is_the_mean_error_at_masked_frames():
    made = objective()
    (targets,) = made.prepare([micro({"a": 16000, "b": 9000}, None)], 1).targets
    _, predicted = made.student(targets.features_BTF, targets.lengths_B)
    expected = 0.0
    for i in range(2):
        rows = targets.mask_BT[i].nonzero()[:, 0]
        expected += (predicted[i, rows] - targets.target_BTD[i, rows]).square().mean()
    assert made.loss(targets).item() == pytest.approx(float(expected), rel=1e-5)
    halves = (targets.half(0), targets.half(1))
    assert [half.utterances for half in halves] == [1, 1]
    assert sum(made.loss(half).item() for half in halves) == pytest.approx(float(expected), rel=1e-4)
    assert made.loss(made.nothing()).item() == 0.0
    assert targets.tokens == int(targets.mask_BT.sum())


def test_more_layers_than_the_model_has_are_an_error():
    with pytest.raises(UserError, match=r"top_layers=4: the model has outputs of 3 layers"):
        objective(top_layers=4).prepare([micro({"a": 16000}, None)], 1)


class _Constant(nn.Module):
    """A teacher whose outputs do not change over time."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        layer = torch.ones(len(features), features.shape[1], 8)
        return [layer], layer


def test_constant_outputs_have_no_variance():
    made = objective(top_layers=1)
    made.teacher = _Constant()
    prepared = made.prepare([micro({"a": 16000, "b": 9000}, None)], 1)
    assert made.summed(prepared.counts) == {"target_variance": 0.0, "effective_rank": 0.0}
