"""Batch norm of a user's model: its running statistics have the same memory in audio at any batch."""

from __future__ import annotations

import pytest
import torch
from support.tiny import make_corpus, tiny_config
from torch import nn

from asr_emapl.scaling.batch_norm import BatchNormMomenta
from asr_emapl.training.trainer import train


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(4, momentum=0.1),
        nn.BatchNorm1d(4, momentum=None),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.LayerNorm(4),
    )


@pytest.mark.parametrize(("kappa", "passes"), [(1.0, 1), (4.0, 1), (4.0, 8), (0.5, 2), (1.0, 0)])
def test_what_a_step_keeps_is_the_reference_to_the_power_of_kappa(kappa, passes):
    model = layers()
    momenta = BatchNormMomenta(model)
    assert len(momenta) == 1
    momenta.scale(kappa, passes)
    assert (1.0 - model[0].momentum) ** max(1, passes) == pytest.approx(0.9**kappa)
    assert model[1].momentum is None
    # Always from the momentum as built, never from the one before.
    momenta.scale(1.0, 1)
    assert model[0].momentum == pytest.approx(0.1)


def test_statistics_depend_on_the_audio_alone():
    """The same input in 64 reference steps, or in 4 steps of kappa 16 with 4 passes each."""
    inputs = (
        torch.randn(64, 8, 4, generator=torch.Generator().manual_seed(0))
        + torch.linspace(0, 1, 64)[:, None, None]
    )
    small, large = nn.BatchNorm1d(4, momentum=0.01), nn.BatchNorm1d(4, momentum=0.01)
    for batch in inputs:
        small(batch)
    momenta = BatchNormMomenta(nn.Sequential(large))
    for step in inputs.reshape(4, 4, 32, 4):
        momenta.scale(16.0, 4)
        for batch in step:
            large(batch)
    torch.testing.assert_close(large.running_mean, small.running_mean, atol=0.01, rtol=0.0)


class Normed(nn.Module):
    """A model of a user's with a batch norm."""

    def __init__(self, vocabulary_size: int, input_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(input_size, momentum=0.1)
        self.out = nn.Linear(input_size, vocabulary_size)

    def output_lengths(self, lengths):
        return lengths

    def forward(self, features, lengths):
        hidden = self.norm(features.transpose(1, 2)).transpose(1, 2)
        return self.out(hidden).log_softmax(-1), lengths


def test_a_run_scales_it_and_says_so(tmp_path, capsys, monkeypatch):
    make_corpus(tmp_path)
    seen = []
    scale = BatchNormMomenta.scale

    def watched(self, kappa, passes):
        scale(self, kappa, passes)
        seen.append((kappa, passes, self._layers[0][0].momentum))

    monkeypatch.setattr(BatchNormMomenta, "scale", watched)
    overrides = (f"model.target={__name__}:Normed", "model.options={}", "hours=0.004", "batch.seconds=12")
    config = tiny_config(tmp_path, f"run_dir={tmp_path / 'run'}", *overrides)
    config.model.options.clear()
    train(config)
    assert "batch norm: the momentum of 1 layers" in capsys.readouterr().out
    for kappa, passes, momentum in seen:
        assert kappa == pytest.approx(2.0, rel=0.4)
        assert (1.0 - momentum) ** passes == pytest.approx(0.9**kappa)
    assert seen
