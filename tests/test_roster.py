"""A module's parameters and submodules by identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr_emapl.roster import Roster


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def test_what_changes_nothing():
    module = model()
    roster = Roster(module)
    module(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    module.load_state_dict(model().state_dict())
    module.double().requires_grad_(False)
    module[0].weight.data = torch.ones(3, 2)
    assert roster.changed() is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m.load_state_dict(model().state_dict(), assign=True), "0.weight"),
        (lambda m: m.__setitem__(0, nn.Linear(2, 3)), "0"),
        (lambda m: setattr(m[1][0], "bias", nn.Parameter(torch.ones(3))), "1.0.bias"),
        (lambda m: setattr(m[1][0], "bias", None), "1.0.bias"),
        (lambda m: m.append(nn.Linear(3, 3)), "2"),
        (lambda m: m[1].__delitem__(1), "1.1"),
    ],
    ids=["assign", "layer", "parameter", "none", "added", "removed"],
)
def test_what_was_changed_is_named(change, name):
    module = model()
    roster = Roster(module)
    change(module)
    assert roster.changed() == name


def test_a_second_name_of_tied_weights_counts():
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    module[1].weight = module[0].weight
    roster = Roster(module)
    assert roster.changed() is None
    module[1].weight = nn.Parameter(torch.ones(2, 2))
    assert roster.changed() == "1.weight"
