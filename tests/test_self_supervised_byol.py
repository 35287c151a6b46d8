"""BYOL: views and loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.train_steps import ALONE, FEATURES, micro

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.self_supervised.byol import ByolObjective
from asr_emapl.self_supervised.config import ByolConfig
from asr_emapl.self_supervised.networks import ByolModel
from asr_emapl.self_supervised.spread import SpreadGuard
from asr_emapl.self_supervised.views import Views

SETTINGS = ByolConfig(crop_seconds=0.3, shift_seconds=0.1, hidden=16, size=4)
PLAIN = replace(SETTINGS, masks=None, gain_db=0.0, noise_db=None, mix_db=None)
SEEDS = [1, 2, 3]


def views(settings: ByolConfig) -> Views:
    return Views(settings, FEATURES, torch.device("cpu"), seed=5)


def windows(names: str = "abc") -> MicroBatch:
    return micro(dict.fromkeys(names, 6400), None)


def decibels(signal: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return 10.0 * torch.log10(signal.square().mean(-1) / other.square().mean(-1))


def test_a_view_is_a_part_of_its_window():
    batch = windows()
    found = views(PLAIN).waveforms(batch, SEEDS)
    assert found.shape == (3, 4800)
    starts = set()
    for view, window in zip(found, batch.waveforms_BN, strict=True):
        (start,) = [s for s in range(1601) if window[s : s + 4800].equal(view)]
        starts.add(start)
    assert len(starts) == 3


def test_levels_are_within_their_ranges():
    clean = views(PLAIN).waveforms(windows(), SEEDS)
    for name in ("noise_db", "mix_db"):
        found = views(replace(PLAIN, **{name: [10.0, 12.0]})).waveforms(windows(), SEEDS)
        ratio = decibels(clean, found - clean)
        assert bool(((ratio >= 10.0 - 1e-3) & (ratio <= 12.0 + 1e-3)).all()), name
    gain = decibels(views(replace(PLAIN, gain_db=3.0)).waveforms(windows(), SEEDS), clean)
    assert gain.abs().max() <= 3.0
    assert gain.abs().min() > 0.0


def test_a_crop_is_mixed_with_another_one():
    """Also in a pass of two crops; a single crop is not mixed."""
    only_mixed = views(replace(PLAIN, mix_db=[0.0, 0.0]))
    clean, found = (
        views(PLAIN).waveforms(windows("ab"), SEEDS[:2]),
        only_mixed.waveforms(windows("ab"), SEEDS[:2]),
    )
    added = torch.nn.functional.normalize(found - clean, dim=-1)
    assert added.allclose(torch.nn.functional.normalize(clean.flip(0), dim=-1), atol=1e-4)
    assert only_mixed.waveforms(windows("a"), SEEDS[:1]).equal(clean[:1])


def test_views_are_the_same_on_any_rank_and_differ_between_views_and_passes():
    made = views(replace(SETTINGS, mix_db=None))
    features, lengths = made(windows())
    alone, _ = made(windows("b"))
    first, second = features.unflatten(0, (2, 3)).unbind(0)
    assert first[1].allclose(alone[0], atol=1e-5)
    assert second[1].allclose(alone[1], atol=1e-5)
    assert not first.allclose(second, atol=0.1)
    later = windows()
    later.epoch = 1
    assert not made(later)[0].allclose(features, atol=0.1)
    assert lengths.tolist() == [int(FEATURES.frames(torch.tensor(4800)))] * 6


def test_a_window_that_is_shorter_than_its_manifest_says_is_padded():
    assert views(SETTINGS)(micro({"a": 3000, "b": 6400}, None))[0].shape[0] == 4


def objective() -> ByolObjective:
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "layers": 1, "dropout": 0.0, "frontend_dropout": 0.0}
    student = ByolModel(TransformerCtc(1, FEATURES.size, **sizes, max_shift_seconds=0.0), "model", SETTINGS)
    guard = SpreadGuard("stop", "the embeddings", "", is_first=True)
    return ByolObjective(
        ALONE, views(SETTINGS), student, EmaTeacher(student, 10.0), guard, lambda phase: None
    )


def test_the_loss_is_symmetric_by_hand():
    """4 - 2 cos - 2 cos for each crop: each view predicts the teacher's projection of the other."""
    made = objective()
    prepared = made.prepare([windows()], 1)
    (targets,) = prepared.targets
    assert prepared.utterances == 3
    _, predicted = made.student(targets.features_BTF, targets.lengths_B)
    projected, _ = made.teacher(targets.features_BTF, targets.lengths_B)
    cosine = torch.cosine_similarity(predicted, projected.flip(0), dim=-1)
    assert made.loss(targets).item() == pytest.approx(float((4.0 - 2.0 * cosine.sum(0)).sum()), rel=1e-5)
    assert made.loss(made.nothing()).item() == 0.0
    assert 0.0 < made.summed(prepared.counts)["target_variance"] <= 1.0
