"""The laws of the batch rules: identity, composition, inverse, and each optimizer's own formula.

Whether the formulas keep the course of training is another question: `test_scaling_simulation.py`.
"""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.scaling import scale_hyperparameters, scale_noise_share

KAPPA = st.floats(0.01, 100.0)
LR = st.floats(1e-6, 10.0)

ADAM = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01}
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 1e-4, "nesterov": True}
GROUPS = {
    "sgd": SGD,
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.5, "weight_decay": 1e-4},
    "adam": ADAM,
    "adamw": ADAM,
    "nadam": ADAM | {"momentum_decay": 4e-3},
    # So long a memory that no kappa of these tests, nor a product of two, takes RAdam out of its range.
    "radam": ADAM | {"betas": (0.9, 0.99999)},
    "adagrad": {"lr": 0.1, "lr_decay": 1e-4, "eps": 1e-10, "initial_accumulator_value": 0.1},
    "lamb": ADAM,
    "lars": {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-6, "trust_coefficient": 1e-3},
}
FAMILIES = sorted(GROUPS)
WITH_BETAS = ["adam", "adamw", "lamb", "nadam", "radam", "rmsprop"]
WITH_HEAVY_BALL = ["rmsprop", "sgd"]
WITH_NOISE_SHARE = ["adagrad", "adam", "adamw", "lamb", "lars", "nadam", "radam", "rmsprop"]


def close(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-9, abs=1e-300)


def same(a, b):
    return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)


# The laws.


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_kappa_has_to_be_positive_and_finite(kappa):
    with pytest.raises(ValueError, match="kappa must be positive and finite"):
        scale_hyperparameters("adamw", ADAM, kappa)


def ways():
    """Every optimizer with every option that it has."""
    for family in FAMILIES:
        yield family, {}
        if family in WITH_BETAS:
            yield family, {"beta_form": "linear"}
        if family == "lamb":
            yield family, {"beta_form": "constant"}
            yield family, {"beta_form": "constant", "noise_share": 0.0}
        if family in WITH_HEAVY_BALL:
            yield family, {"momentum_form": "power"}
        if family in WITH_NOISE_SHARE:
            yield family, {"noise_share": 0.0}


WAYS = pytest.mark.parametrize(("family", "options"), list(ways()))


@WAYS
@settings(max_examples=25)
@given(lr=LR)
def test_every_rule_is_the_identity_at_kappa_1(family, options, lr):
    group = GROUPS[family] | {"lr": lr}
    assert scale_hyperparameters(family, group, 1.0, **options) == group


@pytest.mark.parametrize("form", ["power", "linear"])
def test_the_identity_holds_without_momentum_too(form):
    group = {"lr": 1e-3, "betas": (0.0, 0.98)}
    assert scale_hyperparameters("adam", group, 1.0, beta_form=form) == group


@WAYS
@settings(max_examples=25)
@given(k1=KAPPA, k2=KAPPA, lr=LR)
def test_every_rule_composes(family, options, k1, k2, lr):
    if "beta_form" in options:
        # A linear form's range is short.
        k1, k2 = k1**0.25, k2**0.25
        group = GROUPS[family] | {"lr": lr, "betas": (0.95, 0.99)}
    else:
        group = GROUPS[family] | {"lr": lr}
    once = scale_hyperparameters(family, group, k1, **options)
    assert same(
        scale_hyperparameters(family, once, k2, **options),
        scale_hyperparameters(family, group, k1 * k2, **options),
    )


@WAYS
@settings(max_examples=25)
@given(kappa=KAPPA, lr=LR)
def test_every_rule_is_undone_by_one_over_kappa(family, options, kappa, lr):
    kappa = kappa**0.25 if "beta_form" in options else kappa
    group = GROUPS[family] | {"lr": lr}
    there = scale_hyperparameters(family, group, kappa, **options)
    assert same(scale_hyperparameters(family, there, 1.0 / kappa, **options), group)


@pytest.mark.parametrize("family", WITH_NOISE_SHARE)
@settings(max_examples=25)
@given(share=st.floats(0.0, 1.0), k1=KAPPA, k2=KAPPA)
def test_a_share_of_noise_composes_when_it_is_restated(family, share, k1, k2):
    once = scale_hyperparameters(family, GROUPS[family], k1, noise_share=share)
    there = min(1.0, scale_noise_share(share, k1))
    assert same(
        scale_hyperparameters(family, once, k2, noise_share=there),
        scale_hyperparameters(family, GROUPS[family], k1 * k2, noise_share=share),
    )


@WAYS
@settings(max_examples=25)
@given(kappa=st.floats(0.1, 4.0), factor=st.floats(1.01, 1.9))
def test_every_value_moves_one_way_with_kappa(family, options, kappa, factor):
    base = scale_hyperparameters(family, GROUPS[family], kappa, **options)
    more = scale_hyperparameters(family, GROUPS[family], kappa * factor, **options)
    rising = {"lr", "weight_decay", "momentum_decay", "lr_decay"}
    for key, value in base.items():
        if key in rising:
            assert more[key] >= value
        elif key == "betas":
            kept = options.get("beta_form") == "constant"
            assert value == more[key] if kept else all(a > b for a, b in zip(value, more[key], strict=True))
        else:
            assert more[key] <= value
    constant = family == "adagrad" and not options
    assert more["lr"] == base["lr"] if constant else more["lr"] > base["lr"]


# The formulas.


def test_adam_by_its_numbers():
    scaled = scale_hyperparameters("adam", ADAM, 4.0)
    assert scaled["lr"] == pytest.approx(2e-3)
    assert scaled["eps"] == pytest.approx(0.5e-8)
    assert scaled["betas"] == pytest.approx((0.9**4, 0.98**4))
    assert scaled["weight_decay"] == 0.01


@given(KAPPA, st.floats(1e-6, 1.0))
def test_adamw_decays_kappa_times_as_much_in_a_step(kappa, decay):
    scaled = scale_hyperparameters("adamw", ADAM | {"weight_decay": decay}, kappa)
    assert scaled["lr"] * scaled["weight_decay"] == pytest.approx(kappa * ADAM["lr"] * decay, rel=1e-9)


@given(KAPPA)
def test_sgd_moves_its_rate_alone(kappa):
    scaled = scale_hyperparameters("sgd", SGD, kappa)
    assert scaled == SGD | {"lr": 0.1 * kappa}


@given(KAPPA, st.floats(0.0, 0.999), st.floats(0.0, 0.999))
def test_sgd_in_power_form_keeps_the_effective_rate(kappa, mu, dampening):
    group = {"lr": 0.1, "momentum": mu, "dampening": dampening}
    scaled = scale_hyperparameters("sgd", group, kappa, momentum_form="power")
    assert scaled["momentum"] == pytest.approx(mu**kappa)
    assert scaled["dampening"] == pytest.approx(dampening**kappa)

    def effective(group):
        return group["lr"] * (1.0 - group["dampening"]) / (1.0 - group["momentum"])

    assert effective(scaled) == pytest.approx(kappa * effective(group), rel=1e-9)


def test_sgd_in_power_form_by_its_numbers():
    scaled = scale_hyperparameters("sgd", SGD, 2.0, momentum_form="power")
    assert scaled == SGD | {"lr": pytest.approx(0.1 * 2.0 * 0.19 / 0.1), "momentum": pytest.approx(0.81)}
    # A buffer that is an average needs no more than the linear rule.
    average = {"lr": 0.1, "momentum": 0.9, "dampening": 0.9}
    scaled = scale_hyperparameters("sgd", average, 2.0, momentum_form="power")
    assert scaled == pytest.approx({"lr": 0.2, "momentum": 0.81, "dampening": 0.81})
    # Without momentum there is nothing else to it.
    assert scale_hyperparameters("sgd", {"lr": 0.1}, 2.0, momentum_form="power") == {"lr": 0.2}


@pytest.mark.parametrize("values", [{"momentum": 1.0}, {"momentum": -0.1}, {"dampening": 1.0}])
def test_a_momentum_without_a_power_form_is_an_error(values):
    with pytest.raises(ValueError, match=r"is outside \[0, 1\)"):
        scale_hyperparameters("sgd", SGD | values, 2.0, momentum_form="power")


def test_rmsprop_by_its_numbers():
    scaled = scale_hyperparameters("rmsprop", GROUPS["rmsprop"], 4.0)
    assert scaled["lr"] == pytest.approx(2e-2)
    assert scaled["alpha"] == pytest.approx(0.99**4)
    assert scaled["eps"] == pytest.approx(0.5e-8)
    assert scaled["momentum"] == 0.5
    assert scaled["weight_decay"] == 1e-4
    scaled = scale_hyperparameters("rmsprop", GROUPS["rmsprop"], 4.0, momentum_form="power")
    assert scaled["momentum"] == 0.5**4
    assert scaled["lr"] == pytest.approx(2e-2 * (1.0 - 0.5**4) / 0.5)


def test_centered_rmsprop_divides_by_noise_whatever_its_share():
    group = GROUPS["rmsprop"] | {"centered": True}
    square_root = scale_hyperparameters("rmsprop", group, 4.0)
    assert square_root["lr"] == pytest.approx(2e-2)
    assert scale_hyperparameters("rmsprop", group, 4.0, noise_share=0.0) == square_root


def test_where_the_gradient_dominates_adaptive_rates_are_linear():
    scaled = scale_hyperparameters("adamw", ADAM, 4.0, noise_share=0.0)
    assert scaled == ADAM | {"lr": 4e-3, "betas": pytest.approx((0.9**4, 0.98**4))}
    # Half and half: a mean square of 1/2 + 1/8.
    scaled = scale_hyperparameters("adamw", ADAM, 4.0, noise_share=0.5)
    assert scaled["lr"] == pytest.approx(1e-3 * 4.0 * 0.625**0.5)
    assert scaled["eps"] == pytest.approx(1e-8 * 0.625**0.5)
    assert scaled["weight_decay"] == pytest.approx(0.01 / 0.625**0.5)


def test_nadam_by_its_numbers():
    group = GROUPS["nadam"]
    scaled = scale_hyperparameters("nadam", group, 4.0)
    assert scaled == scale_hyperparameters("adam", ADAM, 4.0) | {"momentum_decay": pytest.approx(0.016)}
    # Its ramp is at the same height after the same data.
    assert 0.96 ** (25 * scaled["momentum_decay"]) == pytest.approx(0.96 ** (100 * group["momentum_decay"]))


def test_radam_is_adam_as_long_as_it_adapts():
    group = ADAM | {"betas": (0.9, 0.999)}
    assert scale_hyperparameters("radam", group, 4.0) == scale_hyperparameters("adam", group, 4.0)


@pytest.mark.parametrize(("form", "largest"), [("power", 405.0), ("linear", 1.0 / 0.003)])
def test_radam_names_the_kappa_beyond_which_it_never_adapts(form, largest):
    group = {"lr": 1e-3, "betas": (0.999, 0.999)}
    with pytest.raises(ValueError, match="kappa must stay below") as caught:
        scale_hyperparameters("radam", group, 500.0, beta_form=form)
    named = float(re.search(r"stay below ([\d.e+]+)", str(caught.value))[1])
    assert named == pytest.approx(largest, rel=1e-3)
    inside = scale_hyperparameters("radam", group, 0.999 * named, beta_form=form)["betas"][1]
    assert inside > 2.0 / 3.0
    with pytest.raises(ValueError, match="kappa must stay below"):
        scale_hyperparameters("radam", group, 1.001 * named, beta_form=form)


@pytest.mark.parametrize(("beta2", "adapts"), [(0.66, False), (0.68, True)])
def test_torchs_radam_adapts_where_the_rule_says_so(beta2, adapts):
    # An adaptive step does not depend on the gradient's scale.
    moved = []
    for scale in (1.0, 1e3):
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.RAdam([p], lr=1e-3, betas=(0.9, beta2))
        for _ in range(60):
            before = p.item()
            p.grad = torch.full_like(p, scale)
            optimizer.step()
        moved.append(before - p.item())
    assert (moved[1] < 2.0 * moved[0]) == adapts


def test_radam_that_never_adapted_has_no_rule():
    group = {"lr": 1e-3, "betas": (0.5, 0.6)}
    with pytest.raises(ValueError, match=r"beta2 0\.6 never adapts"):
        scale_hyperparameters("radam", group, 0.5)
    assert scale_hyperparameters("radam", group, 1.0) == group
    assert scale_hyperparameters("radam", {"lr": 1e-3}, 4.0) == {"lr": 2e-3}


def test_adagrad_by_its_numbers():
    group = GROUPS["adagrad"] | {"weight_decay": 0.01}
    assert scale_hyperparameters("adagrad", group, 4.0) == pytest.approx(
        {"lr": 0.1, "lr_decay": 4e-4, "eps": 0.25e-10, "initial_accumulator_value": 0.1 / 16.0}
        | {"weight_decay": 0.01}
    )
    assert scale_hyperparameters("adagrad", group, 4.0, noise_share=0.0) == pytest.approx(
        {"lr": 0.2, "lr_decay": 4e-4, "eps": 0.5e-10, "initial_accumulator_value": 0.1 / 4.0}
        | {"weight_decay": 0.01}
    )


def test_lamb_and_lars_by_their_numbers():
    lamb = scale_hyperparameters("lamb", ADAM, 4.0)
    assert lamb == scale_hyperparameters("adam", ADAM, 4.0) | {"lr": 4e-3, "weight_decay": 0.02}
    kept = scale_hyperparameters("lamb", ADAM, 4.0, beta_form="constant")
    assert kept == {"lr": 2e-3, "betas": (0.9, 0.98), "eps": 0.5e-8, "weight_decay": 0.02}
    lars = scale_hyperparameters("lars", GROUPS["lars"], 4.0)
    assert lars == GROUPS["lars"] | {"lr": 0.4}
    byol = scale_hyperparameters("lars", GROUPS["lars"], 4.0, noise_share=0.0)
    assert byol == GROUPS["lars"] | {"lr": 0.8}


@settings(max_examples=25)
@given(share=st.floats(0.0, 1.0), k1=KAPPA, k2=KAPPA)
def test_lamb_with_constant_betas_composes_at_every_share(share, k1, k2):
    once = scale_hyperparameters("lamb", ADAM, k1, beta_form="constant", noise_share=share)
    there = min(1.0, scale_noise_share(share, k1))
    assert same(
        scale_hyperparameters("lamb", once, k2, beta_form="constant", noise_share=there),
        scale_hyperparameters("lamb", ADAM, k1 * k2, beta_form="constant", noise_share=share),
    )


# Options.


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
        with pytest.raises(ValueError, match=f"{option} .* has no meaning for {family}: leave it at"):
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


# The linear form of the betas and its range.


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


# How an optimizer can be named.


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
    with pytest.raises(
        ValueError, match=r"no scaling rule is known for optimizer 'adadelta'; known: .*adamw"
    ):
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


# Types.


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


# Alone with torch.


ALONE = """
import importlib.abc, sys, torch

# The standard library, torch and what it has loaded by now (numpy), and this package.
ALLOWED = {*sys.stdlib_module_names, *(name.partition(".")[0] for name in sys.modules), "asr_emapl"}

class NothingElse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is third-party")

sys.meta_path.insert(0, NothingElse())
for other in ("torchaudio", "pydantic", "hypothesis"):
    try:
        __import__(other)
    except ImportError:
        continue
    raise AssertionError(f"{other} was not kept out")

import asr_emapl.ema
from asr_emapl.scaling import scale_hyperparameters
model = torch.nn.Linear(2, 2)
scale_hyperparameters(torch.optim.AdamW, {"lr": 0.1}, 4.0)
asr_emapl.ema.EmaTeacher(model, half_life=60.0).update(1.0)
print(*sorted(name for name in sys.modules if name.startswith("asr_emapl.")))
"""


def test_the_rules_and_the_teacher_need_nothing_but_torch():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = done.stdout.split()
    assert "asr_emapl.ema" in ours
    teacher = ("asr_emapl.ema", "asr_emapl.roster", "asr_emapl.torch_private")
    assert all(name in teacher or name.startswith("asr_emapl.scaling") for name in ours)
