"""The laws of the batch rules: identity, composition, inverse, and each family's own formula."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import half_life, momentum, scale_clip_norm, scale_hyperparameters, scale_momentum

KAPPA = st.floats(0.01, 100.0)
RHO = st.floats(0.01, 1.0 - 1e-6)
LR = st.floats(1e-6, 10.0)

ADAM = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.01}
GROUPS = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True},
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.5, "weight_decay": 1e-4},
    "adam": ADAM,
    "adamw": ADAM,
}
FAMILIES = sorted(GROUPS)


def close(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-9, abs=1e-300)


def same(a, b):
    return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)


# The EMA Scaling Rule itself.


@given(RHO)
def test_momentum_is_the_identity_at_kappa_1(rho):
    assert scale_momentum(rho, 1.0) == rho


@given(RHO, KAPPA, KAPPA)
def test_momentum_composes(rho, k1, k2):
    assert scale_momentum(scale_momentum(rho, k1), k2) == pytest.approx(
        scale_momentum(rho, k1 * k2), rel=1e-9
    )


@given(st.floats(0.5, 1.0 - 1e-6), KAPPA)
def test_momentum_is_undone_by_one_over_kappa(rho, kappa):
    assert scale_momentum(scale_momentum(rho, kappa), 1.0 / kappa) == pytest.approx(rho, rel=1e-9)


@given(RHO, KAPPA, st.floats(1.01, 10.0))
def test_a_larger_batch_forgets_more_in_a_step(rho, kappa, factor):
    assert scale_momentum(rho, kappa * factor) < scale_momentum(rho, kappa)


def test_momentum_of_the_literature():
    assert scale_momentum(0.9999, 8) == pytest.approx(0.9992, abs=3e-7)
    assert scale_momentum(0.9999, 1024) == pytest.approx(0.90266, abs=5e-6)
    assert scale_momentum(0.0, 4) == 0.0
    assert scale_momentum(1.0, 4) == 1.0


@pytest.mark.parametrize("rho", [-0.1, 1.0001, math.nan])
def test_momentum_outside_its_range_is_an_error(rho):
    with pytest.raises(ValueError, match=r"lies outside \[0, 1\]"):
        scale_momentum(rho, 2.0)
    with pytest.raises(ValueError, match=r"lies outside \[0, 1\]"):
        half_life(rho, 2.0)


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_kappa_has_to_be_positive_and_finite(kappa):
    for scale in (
        lambda: scale_momentum(0.9, kappa),
        lambda: scale_clip_norm(1.0, kappa),
        lambda: scale_hyperparameters("adamw", ADAM, kappa),
    ):
        with pytest.raises(ValueError, match="kappa must be positive and finite"):
            scale()


# Half-life and momentum say the same thing.


@given(RHO, st.floats(1.0, 1e5))
def test_momentum_undoes_half_life(rho, audio):
    assert momentum(half_life(rho, audio), audio) == pytest.approx(rho, rel=1e-9)


@given(st.floats(1e-3, 1e6), st.floats(1e-4, 100.0))
def test_half_life_undoes_momentum(half_life_s, half_lives):
    # Where rho is neither all but 0 nor all but 1, and its rounding says little about the half-life.
    audio = half_lives * half_life_s
    assert half_life(momentum(half_life_s, audio), audio) == pytest.approx(half_life_s, rel=1e-9)


@given(st.floats(1e-3, 1e6), st.floats(1e-6, 5.0), KAPPA)
def test_momentum_of_kappa_times_the_audio_is_the_scaling_rule(half_life_s, half_lives, kappa):
    audio = half_lives * half_life_s
    ruled = scale_momentum(momentum(half_life_s, audio), kappa)
    assert momentum(half_life_s, kappa * audio) == pytest.approx(ruled, rel=1e-9)


@given(st.floats(1.0, 1e6), st.lists(st.floats(0.0, 1e5), min_size=1, max_size=20))
def test_retention_depends_on_the_sum_of_audio_only(half_life_s, steps):
    product = math.prod(momentum(half_life_s, audio) for audio in steps)
    assert product == pytest.approx(momentum(half_life_s, math.fsum(steps)), rel=1e-9, abs=1e-12)


def test_half_life_is_where_half_is_left():
    assert momentum(100.0, 100.0) == 0.5
    assert half_life(0.5, 7.0) == pytest.approx(7.0)
    assert half_life(0.9999, 1.0) == pytest.approx(6931, abs=0.5)


def test_the_ends_of_the_half_life():
    assert half_life(1.0, 60.0) == math.inf
    assert half_life(0.0, 60.0) == 0.0
    assert momentum(math.inf, 60.0) == 1.0
    assert momentum(60.0, 0.0) == 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_half_life_has_to_be_positive(value):
    with pytest.raises(ValueError, match="a half-life must be positive"):
        momentum(value, 1.0)


def test_a_step_cannot_give_audio_back():
    with pytest.raises(ValueError, match="cannot consume -1"):
        momentum(1.0, -1.0)


# Optimizers.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["power", "linear"])
def test_every_family_is_the_identity_at_kappa_1(family, form):
    scaled = scale_hyperparameters(family, GROUPS[family], 1.0, beta_form=form)
    assert same(scaled, GROUPS[family])


@pytest.mark.parametrize("form", ["power", "linear"])
def test_the_identity_holds_without_momentum_too(form):
    group = {"lr": 1e-3, "betas": (0.0, 0.98)}
    assert scale_hyperparameters("adam", group, 1.0, beta_form=form) == group


@pytest.mark.parametrize("family", FAMILIES)
@given(k1=KAPPA, k2=KAPPA, lr=LR)
def test_every_family_composes(family, k1, k2, lr):
    group = GROUPS[family] | {"lr": lr}
    twice = scale_hyperparameters(family, scale_hyperparameters(family, group, k1), k2)
    assert same(twice, scale_hyperparameters(family, group, k1 * k2))


@pytest.mark.parametrize("family", FAMILIES)
@given(kappa=KAPPA, lr=LR)
def test_every_family_is_undone_by_one_over_kappa(family, kappa, lr):
    group = GROUPS[family] | {"lr": lr}
    back = scale_hyperparameters(family, scale_hyperparameters(family, group, kappa), 1.0 / kappa)
    assert same(back, group)


@given(st.floats(0.2, 3.0), st.floats(0.2, 3.0))
def test_the_linear_form_composes_and_is_undone(k1, k2):
    def linear(group, kappa):
        return scale_hyperparameters("adamw", group, kappa, beta_form="linear")

    assert same(linear(linear(ADAM, k1), k2), linear(ADAM, k1 * k2))
    assert same(linear(linear(ADAM, k1), 1.0 / k1), ADAM)


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
    scaled = scale_hyperparameters("sgd", GROUPS["sgd"], kappa)
    assert scaled == GROUPS["sgd"] | {"lr": 0.1 * kappa}


def test_rmsprop_by_its_numbers():
    scaled = scale_hyperparameters("rmsprop", GROUPS["rmsprop"], 4.0)
    assert scaled["lr"] == pytest.approx(2e-2)
    assert scaled["alpha"] == pytest.approx(0.99**4)
    assert scaled["eps"] == pytest.approx(0.5e-8)
    assert scaled["momentum"] == 0.5
    assert scaled["weight_decay"] == 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_larger_batch_takes_larger_steps(family):
    rates = [scale_hyperparameters(family, GROUPS[family], kappa)["lr"] for kappa in (0.5, 1.0, 2.0, 8.0)]
    assert rates == sorted(set(rates))


@given(KAPPA, KAPPA, st.floats(0.01, 10.0))
def test_the_clipping_threshold_obeys_the_same_laws(k1, k2, norm):
    assert scale_clip_norm(norm, 1.0) == norm
    assert scale_clip_norm(norm, 4.0) == pytest.approx(norm / 2.0)
    assert scale_clip_norm(scale_clip_norm(norm, k1), k2) == pytest.approx(scale_clip_norm(norm, k1 * k2))


def test_no_clipping_stays_no_clipping():
    assert scale_clip_norm(0.0, 8.0) == 0.0


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


def test_an_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="'cubic' is neither 'power' nor 'linear'"):
        scale_hyperparameters("adam", ADAM, 2.0, beta_form="cubic")


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
    ],
)
def test_instance_class_and_name_agree(cls, name):
    optimizer = cls(parameters(), lr=0.1, weight_decay=0.1)
    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    results = [scale_hyperparameters(which, group, 4.0) for which in (optimizer, cls, name, name.lower())]
    assert all(result == results[0] for result in results)
    assert results[0]["lr"] > 0.1


def test_adam_with_decoupled_decay_is_adamw():
    optimizer = torch.optim.Adam(parameters(), weight_decay=0.01, decoupled_weight_decay=True)
    group = optimizer.param_groups[0]
    assert scale_hyperparameters(optimizer, group, 4.0)["weight_decay"] == pytest.approx(0.02)


def test_the_flag_in_the_group_says_decoupled_as_well():
    group = ADAM | {"decoupled_weight_decay": True}
    assert scale_hyperparameters(torch.optim.Adam, group, 4.0)["weight_decay"] == pytest.approx(0.02)


@pytest.mark.parametrize("unknown", ["adagrad", torch.optim.Adagrad, torch.optim.Adagrad(parameters())])
def test_an_unknown_optimizer_is_an_error_that_names_the_known_ones(unknown):
    with pytest.raises(ValueError, match=r"no scaling rule is known for optimizer 'adagrad'; known: .*adamw"):
        scale_hyperparameters(unknown, {"lr": 0.1}, 2.0)


def test_the_mapping_is_left_alone_and_other_keys_come_through():
    group = ADAM | {"betas": [0.9, 0.98], "amsgrad": False, "foreach": None}
    before = copy.deepcopy(group)
    scaled = scale_hyperparameters("adamw", group, 4.0)
    assert group == before
    assert scaled is not group
    assert scaled["amsgrad"] is False
    assert scaled["foreach"] is None


def test_a_group_without_the_optional_keys():
    assert scale_hyperparameters("adamw", {"lr": 1.0}, 4.0) == {"lr": 2.0}
    assert scale_hyperparameters("rmsprop", {"lr": 1.0}, 4.0) == {"lr": 2.0}


def test_the_rules_and_the_teacher_load_nothing_of_speech():
    code = (
        "import sys, json, asr_emapl.scaling, asr_emapl.ema;"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] in "
        "('torchaudio', 'omegaconf', 'soundfile', 'sentencepiece', 'jiwer', 'typer')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
