"""Options of the rules, and the names and types of optimizers."""

from __future__ import annotations

import copy
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.param_groups import ADAM, FAMILIES, GROUPS, SGD, WITH_BETAS, WITH_HEAVY_BALL, WITH_NOISE_SHARE

from asr_emapl.scaling import scale_hyperparameters


@pytest.mark.parametrize(
    ("option", "value", "families"),
    [
        ("beta_form", "linear", WITH_BETAS),
        ("momentum_form", "power", WITH_HEAVY_BALL),
        # SGD's rule holds for every share: it has an answer, the same one.
        ("noise_share", 0.5, [*WITH_NOISE_SHARE, "sgd"]),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_option_that_would_be_ignored_is_an_error(option, value, families, family):
    if family in families:
        scale_hyperparameters(family, GROUPS[family], 2.0, **{option: value})
    else:
        with pytest.raises(ValueError, match=f"{option} .* does not apply to {family}; use "):
            scale_hyperparameters(family, GROUPS[family], 2.0, **{option: value})


def test_sgd_is_linear_whatever_the_share_of_noise():
    assert scale_hyperparameters("sgd", SGD, 4.0, noise_share=0.0) == scale_hyperparameters("sgd", SGD, 4.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_word_is_an_error_for_every_optimizer(family):
    with pytest.raises(ValueError, match=r"'cubic' is neither 'power'.* nor '"):
        scale_hyperparameters(family, GROUPS[family], 2.0, beta_form="cubic")
    with pytest.raises(ValueError, match="'kept' is neither 'constant' nor 'power'"):
        scale_hyperparameters(family, GROUPS[family], 2.0, momentum_form="kept")
    with pytest.raises(ValueError, match=r"noise share 2\.0 is outside"):
        scale_hyperparameters("adam", ADAM, 2.0, noise_share=2.0)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_a_beta_outside_its_range_is_an_error(beta):
    with pytest.raises(ValueError, match=r"beta .* is outside \[0, 1\]"):
        scale_hyperparameters("adam", ADAM | {"betas": (0.9, beta)}, 0.5)
    with pytest.raises(ValueError, match=r"beta .* is outside \[0, 1\]"):
        scale_hyperparameters("rmsprop", {"lr": 0.1, "alpha": beta}, 0.5)


@given(st.floats(1.0, 1.0 + 1e-3))
def test_linear_and_power_agree_to_first_order(kappa):
    linear = scale_hyperparameters("adam", ADAM, kappa, beta_form="linear")["betas"]
    power = scale_hyperparameters("adam", ADAM, kappa)["betas"]
    assert linear == pytest.approx(power, abs=2e-5)


@given(st.floats(0.5, 0.9999), st.floats(0.5, 0.9999), st.floats(1.0001, 10.0))
def test_the_linear_form_names_the_largest_kappa(beta1, beta2, beyond):
    group = ADAM | {"betas": (beta1, beta2)}
    kappa = beyond / (1.0 - min(beta1, beta2))
    with pytest.raises(ValueError, match="kappa must stay below") as caught:
        scale_hyperparameters("adamw", group, kappa, beta_form="linear")
    named = float(re.search(r"stay below ([\d.e+]+)", str(caught.value))[1])
    assert named == pytest.approx(1.0 / (1.0 - min(beta1, beta2)), rel=1e-5)
    inside = scale_hyperparameters("adamw", group, 0.9999 * named, beta_form="linear")["betas"]
    assert all(0.0 < beta < 1.0 for beta in inside)


@pytest.mark.parametrize(
    ("beta", "kappa"), [(0.5, 2), (0.9, 10), (0.95, 20), (0.98, 50), (0.99, 100), (0.999, 1000)]
)
def test_the_linear_form_ends_where_it_says_it_does(beta, kappa):
    # At the very kappa that it names, whatever way 1 - beta was rounded.
    with pytest.raises(ValueError, match=f"kappa must stay below {kappa},"):
        scale_hyperparameters("adam", {"lr": 1.0, "betas": (beta, beta)}, kappa, beta_form="linear")


@given(st.floats(1e-3, 1e4))
def test_the_power_form_has_no_end(kappa):
    assert all(0.0 <= b < 1.0 for b in scale_hyperparameters("adam", ADAM, kappa)["betas"])


def parameters():
    return [torch.nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (torch.optim.SGD, "SGD"),
        (torch.optim.RMSprop, "RMSprop"),
        (torch.optim.Adam, "Adam"),
        (torch.optim.AdamW, "AdamW"),
        (torch.optim.NAdam, "NAdam"),
        (torch.optim.RAdam, "RAdam"),
        (torch.optim.Adagrad, "Adagrad"),
    ],
)
def test_instance_class_and_name_agree(cls, name):
    optimizer = cls(parameters(), lr=0.1, weight_decay=0.1)
    (group,) = optimizer.param_groups
    results = [scale_hyperparameters(which, group, 4.0) for which in (optimizer, cls, name, name.lower())]
    assert all(result == results[0] for result in results)
    assert results[0] != group
    # What comes out is what went in, key by key, and torch takes it.
    assert results[0].keys() == group.keys()
    assert results[0]["params"] is group["params"]
    assert cls([results[0]]).param_groups[0] == results[0]


class LAMB(torch.optim.SGD):
    """Stands for the one that a user brings."""


class Lars(torch.optim.SGD):
    """As above."""


def test_optimizers_that_torch_does_not_have_are_known_by_their_name():
    assert scale_hyperparameters(LAMB, {"lr": 1.0}, 4.0) == {"lr": 4.0}
    assert scale_hyperparameters(Lars(parameters()), {"lr": 1.0}, 4.0) == {"lr": 2.0}


def test_adam_with_decoupled_decay_is_adamw():
    optimizer = torch.optim.Adam(parameters(), weight_decay=0.01, decoupled_weight_decay=True)
    group = optimizer.param_groups[0]
    assert scale_hyperparameters(optimizer, group, 4.0)["weight_decay"] == pytest.approx(0.02)


def test_the_flag_in_the_group_says_decoupled_as_well():
    group = ADAM | {"decoupled_weight_decay": True}
    assert scale_hyperparameters(torch.optim.Adam, group, 4.0)["weight_decay"] == pytest.approx(0.02)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam])
@pytest.mark.parametrize("decoupled", [False, True])
def test_decay_goes_by_what_torch_does_with_it(cls, decoupled):
    optimizer = cls(parameters(), weight_decay=0.01, decoupled_weight_decay=decoupled)
    expected = pytest.approx(0.02 if decoupled else 0.01)
    assert scale_hyperparameters(optimizer, optimizer.param_groups[0], 4.0)["weight_decay"] == expected
    # A group that does not say so, of an optimizer that does.
    assert scale_hyperparameters(optimizer, {"weight_decay": 0.01}, 4.0)["weight_decay"] == expected
    # torch looks at the flag of the group, whatever the class.
    group = {"weight_decay": 0.01, "decoupled_weight_decay": decoupled}
    assert scale_hyperparameters(torch.optim.AdamW, group, 4.0)["weight_decay"] == expected


@pytest.mark.parametrize("unknown", ["adadelta", torch.optim.Adadelta, torch.optim.Adadelta(parameters())])
def test_an_unknown_optimizer_is_an_error_that_names_the_known_ones(unknown):
    with pytest.raises(ValueError, match=r"no scaling rule for optimizer 'adadelta'; use one of .*adamw"):
        scale_hyperparameters(unknown, {"lr": 0.1}, 2.0)


def test_the_mapping_is_left_alone_and_other_keys_come_through():
    group = ADAM | {"betas": [0.9, 0.98], "amsgrad": False, "foreach": None}
    before = copy.deepcopy(group)
    scaled = scale_hyperparameters("adamw", group, 4.0)
    assert group == before
    assert scaled is not group
    assert scaled["amsgrad"] is False
    assert scaled["foreach"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_absent_keys_stay_absent(family):
    assert scale_hyperparameters(family, {}, 4.0) == {}
    assert scale_hyperparameters(family, {"maximize": True, "foreach": None}, 4.0) == {
        "maximize": True,
        "foreach": None,
    }
    assert scale_hyperparameters(family, {"lr": 1.0}, 4.0).keys() == {"lr"}


def test_what_a_scheduler_left_in_the_group_scales_with_the_rate():
    optimizer = torch.optim.AdamW(parameters(), lr=1e-3)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=10, cycle_momentum=False)
    (group,) = optimizer.param_groups
    scaled = scale_hyperparameters(optimizer, group, 4.0)
    for key in ("lr", "initial_lr", "max_lr", "min_lr"):
        assert scaled[key] == pytest.approx(2.0 * group[key])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(kappa=st.floats(0.1, 4.0))
def test_floats_stay_floats_and_pairs_stay_what_they_are(family, kappa):
    for sequence in (tuple, list):
        group = dict(GROUPS[family])
        if "betas" in group:
            group["betas"] = sequence(group["betas"])
        scaled = scale_hyperparameters(family, group, kappa)
        assert {k: type(v) for k, v in scaled.items()} == {k: type(v) for k, v in group.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_stays_a_tensor_of_its_dtype_and_another_one(family, dtype):
    for kappa in (1.0, 4.0):
        lr = torch.tensor(0.1, dtype=dtype)
        scaled = scale_hyperparameters(family, GROUPS[family] | {"lr": lr}, kappa)["lr"]
        expected = scale_hyperparameters(family, GROUPS[family] | {"lr": 0.1}, kappa)["lr"]
        assert scaled.dtype == dtype
        assert scaled.item() == pytest.approx(expected, rel=1e-6)
        scaled.zero_()
        assert lr.item() == pytest.approx(0.1)


@pytest.mark.parametrize("form", ["power", "linear"])
def test_betas_can_be_tensors(form):
    betas = (torch.tensor(0.9), torch.tensor(0.98))
    scaled = scale_hyperparameters("adam", {"betas": betas}, 4.0, beta_form=form)["betas"]
    floats = scale_hyperparameters("adam", {"betas": (0.9, 0.98)}, 4.0, beta_form=form)["betas"]
    assert all(isinstance(beta, torch.Tensor) and beta.dtype == torch.float32 for beta in scaled)
    assert [beta.item() for beta in scaled] == pytest.approx(floats, rel=1e-6)


def test_scalars_of_numpy_stay_theirs_and_an_int_becomes_a_float():
    group = {"lr": np.float32(0.5), "eps": 0, "betas": [np.float64(0.5), 0]}
    scaled = scale_hyperparameters("adam", group, 4)
    assert scaled == {"lr": 1.0, "eps": 0.0, "betas": [0.5**4, 0.0]}
    assert type(scaled["lr"]) is np.float32
    assert [type(beta) for beta in scaled["betas"]] == [np.float64, float]
