"""The laws of the batch rules: identity, composition, inverse, and each optimizer's own formula.

Whether the formulas keep the course of training is another question: `test_scaling_simulation.py`.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.param_groups import ADAM, FAMILIES, GROUPS, SGD, WITH_BETAS, WITH_HEAVY_BALL, WITH_NOISE_SHARE

from asr_emapl.scaling import scale_hyperparameters, scale_noise_share

KAPPA = st.floats(0.01, 100.0)
LR = st.floats(1e-6, 10.0)


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
