"""Parts of a trainer: the change of dropout, in any model."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.dropout import require_dropout_switch, switch_dropout


class Other(nn.Module):
    """A model with defaults of its own, and options by other names than the transformer's."""

    def __init__(self, drop_share: float = 0.3, skip_share: float = 0.2) -> None:
        super().__init__()
        self.rates = {"dropout": drop_share, "layerdrop": skip_share}

    def set_dropout(self, dropout: float | None = None, layerdrop: float | None = None) -> None:
        changed = {"dropout": dropout, "layerdrop": layerdrop}
        self.rates |= {name: rate for name, rate in changed.items() if rate is not None}


class DropoutAlone(nn.Module):
    def set_dropout(self, dropout: float) -> None:
        self.dropout = dropout


def config(**rates: Any) -> RunConfig:
    run = RunConfig()
    run.pseudo_labels.strategy = "ema"
    run.model.options = {"drop_share": 0.3}
    for name, rate in rates.items():
        setattr(run.pseudo_labels, name, rate)
    return run


@pytest.mark.parametrize(
    "rates", [{}, {"dropout": 0.0}, {"layerdrop": 0.05}, {"dropout": 0.7, "layerdrop": 0.0}], ids=str
)
def test_null_is_unchanged_for_any_model(rates):
    model = Other()
    require_dropout_switch(model, config(**rates).pseudo_labels, "my:Model")
    switch_dropout(model, config(**rates).pseudo_labels)
    assert model.rates == {"dropout": 0.3, "layerdrop": 0.2} | rates


def test_a_model_takes_the_rates_that_it_has():
    model = DropoutAlone()
    require_dropout_switch(model, config(dropout=0.4).pseudo_labels, "my:Model")
    switch_dropout(model, config(dropout=0.4).pseudo_labels)
    assert model.dropout == 0.4


@pytest.mark.parametrize(
    ("model", "rates", "said"),
    [
        (nn.Linear(1, 1), {"dropout": 0.1}, r"pseudo_labels.dropout: .* has no set_dropout"),
        (nn.Linear(1, 1), {"dropout": 0.1, "layerdrop": 0.1}, "dropout and pseudo_labels.layerdrop: "),
        (DropoutAlone(), {"layerdrop": 0.1}, "pseudo_labels.layerdrop: .*argument 'layerdrop'|missing"),
    ],
)
def test_what_a_model_cannot_change_is_refused_before_the_run(model, rates, said):
    with pytest.raises(UserError, match=said):
        require_dropout_switch(model, config(**rates).pseudo_labels, "my:Model")
    run = config(**rates)
    run.pseudo_labels.strategy = "none"
    require_dropout_switch(model, run.pseudo_labels, "my:Model")
