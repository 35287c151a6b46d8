"""The submodule at which padding enters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr_emapl.checks.padding_leak import Leak, leaking_module


class Stack(nn.Module):
    """Frames through layers of which one mixes in what lies beyond the end."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BTD):
        for layer in self.layers:
            is_conv = isinstance(layer, nn.Conv1d)
            x_BTD = layer(x_BTD.transpose(1, 2)).transpose(1, 2) if is_conv else layer(x_BTD)
        return x_BTD


def found_in(model: nn.Module) -> Leak | None:
    torch.manual_seed(0)
    batch_BTD = torch.randn(2, 20, 4)
    return leaking_module(
        model.eval(), lambda: model(batch_BTD[1:, :12]), lambda: model(batch_BTD), row=1, tolerance=1e-5
    )


def test_the_first_module_that_reaches_beyond_the_end_is_named():
    model = Stack(nn.Linear(4, 4), nn.Conv1d(4, 4, 5, padding=2), nn.Conv1d(4, 4, 3, padding=1))
    leak = found_in(model)
    assert str(leak) == "layers.1, from output frame 10 of 12 on"
    assert leak is not None
    assert leak.module is model.layers[1]


def test_recurrent_layers_are_looked_at_too():
    model = nn.LSTM(4, 4, batch_first=True, bidirectional=True)
    assert str(found_in(nn.Sequential(nn.Linear(4, 4), model))) == "1, from output frame 0 of 12 on"


@pytest.mark.parametrize("model", [Stack(nn.Linear(4, 4)), nn.Identity()])
def test_nothing_is_named_where_nothing_leaks(model):
    assert found_in(model) is None
    assert not any(module._forward_hooks for module in model.modules())
