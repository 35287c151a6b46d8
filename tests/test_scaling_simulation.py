"""The batch rules against simulation: torch's own optimizers on noisy quadratics, over samples consumed.

A batch of kappa samples has 1 / sqrt(kappa) of the noise, and its run 1 / kappa of the steps. Each run is
many independent problems in one tensor; what is compared is their mean and their variance.
"""

from __future__ import annotations

import functools

import pytest
import torch

from asr_emapl.scaling import scale_hyperparameters
from asr_emapl.scaling.progressive import rescale_optimizer_state

PROBLEMS = 1000
SAMPLES = 2400
optim = torch.optim


class LAMB(optim.Optimizer):
    """You et al. 2020, from memory: each layer's step as long as its weights, times lr."""

    def __init__(self, params, **group):
        super().__init__(params, {"eps": 1e-8, "weight_decay": 0.0} | group)

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        (p,) = group["params"]
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state |= {"step": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        state["step"] += 1
        state["m"].lerp_(p.grad, 1.0 - beta1)
        state["v"].lerp_(p.grad**2, 1.0 - beta2)
        root = (state["v"] / (1.0 - beta2 ** state["step"])).sqrt() + group["eps"]
        update = state["m"] / (1.0 - beta1 ** state["step"]) / root + group["weight_decay"] * p
        p.sub_(group["lr"] * p.norm() / update.norm() * update)


class LARS(optim.Optimizer):
    """You et al. 2017, from memory: each layer's gradient as long as its weights, then a heavy ball."""

    def __init__(self, params, **group):
        super().__init__(params, {"momentum": 0.9, "weight_decay": 0.0} | group)

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        (p,) = group["params"]
        gradient = p.grad + group["weight_decay"] * p
        buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
        buffer.mul_(group["momentum"]).add_(gradient * p.norm() / gradient.norm())
        p.sub_(group["lr"] * buffer)


def quadratic(p, noise):
    """Of curvature 1, from p = 1; a gradient that is all but noise."""
    return p + 10.0 * noise


def slope(noise_share):
    """A gradient of constant mean and mean square 1, of which the noise makes up a share."""
    return lambda p, noise: (1.0 - noise_share) ** 0.5 + noise_share**0.5 * noise


def course(cls, group, kappa, gradient=quadratic, samples=SAMPLES, every=240):
    """Mean and variance over the problems each so many samples; [times, 2]."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.ones(PROBLEMS))
    optimizer = cls([p], **group)
    seen = []
    for step in range(1, samples // kappa + 1):
        p.grad = gradient(p.detach(), torch.randn(PROBLEMS, generator=generator) / kappa**0.5)
        optimizer.step()
        if step * kappa % every == 0:
            seen.append(torch.stack([p.detach().mean(), p.detach().var()]))
    return torch.stack(seen)


def deviation(a, b):
    """Largest distance of the means at any time."""
    return (a - b)[:, 0].abs().max().item()


# eps is made large enough to matter where it is given.
COURSES = {
    "sgd": (optim.SGD, {"lr": 6e-4}),
    "heavy ball": (optim.SGD, {"lr": 6e-5, "momentum": 0.9}),
    "nesterov": (optim.SGD, {"lr": 6e-5, "momentum": 0.9, "nesterov": True}),
    "dampened": (optim.SGD, {"lr": 6e-4, "momentum": 0.9, "dampening": 0.9}),
    "rmsprop": (optim.RMSprop, {"lr": 1.2e-2, "alpha": 0.99, "eps": 10.0}),
    "rmsprop heavy ball": (optim.RMSprop, {"lr": 6e-4, "alpha": 0.99, "momentum": 0.9}),
    "adam": (optim.Adam, {"lr": 1.2e-2, "betas": (0.9, 0.99), "eps": 10.0}),
    "adam l2": (optim.Adam, {"lr": 6e-3, "betas": (0.9, 0.99), "weight_decay": 0.5}),
    "adamw": (optim.AdamW, {"lr": 6e-3, "betas": (0.9, 0.99), "weight_decay": 0.05}),
    "nadam": (optim.NAdam, {"lr": 6e-3, "betas": (0.9, 0.99)}),
    "radam": (optim.RAdam, {"lr": 6e-3, "betas": (0.9, 0.999)}),
    "adagrad": (
        optim.Adagrad,
        {"lr": 0.3, "lr_decay": 4e-4, "initial_accumulator_value": 5e3, "eps": 70.0},
    ),
    # One layer of as many weights as there are problems.
    "lamb": (LAMB, {"lr": 3e-3, "betas": (0.9, 0.99)}),
    "lamb decayed": (LAMB, {"lr": 3e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}),
    "lars": (LARS, {"lr": 1e-3}),
    "lars decayed": (LARS, {"lr": 1e-3, "weight_decay": 0.5}),
}


@functools.cache
def reference_course(name):
    return course(*COURSES[name], 1)


@pytest.mark.parametrize("name", COURSES)
def test_where_noise_dominates_the_course_is_the_same_with_the_rule_and_not_without(name):
    (cls, group), reference = COURSES[name], reference_course(name)
    ruled = course(cls, scale_hyperparameters(cls, group, 8), 8)
    assert deviation(ruled, reference) < 0.06
    assert ruled[-1, 1].item() == pytest.approx(reference[-1, 1].item(), rel=0.15)
    assert deviation(course(cls, group, 8), reference) > 0.2


@pytest.mark.parametrize("name", ["heavy ball", "nesterov", "dampened", "rmsprop heavy ball"])
def test_a_momentum_in_power_form_stays_closer_than_a_constant_one(name):
    cls, group = COURSES[name]

    def error(form):
        scaled = scale_hyperparameters(cls, group, 48, momentum_form=form)
        return deviation(course(cls, scaled, 48), reference_course(name))

    # Most of RMSprop's is its own, and in both.
    assert error("power") < (0.9 if cls is optim.RMSprop else 0.25) * error("constant")


def test_adagrad_keeps_its_rate_for_the_same_course_and_the_same_variance():
    group = {"lr": 0.4}
    reference = course(optim.Adagrad, group, 1)
    scaled = scale_hyperparameters("adagrad", group, 4)
    assert scaled == group
    ruled = course(optim.Adagrad, scaled, 4)
    square_root = course(optim.Adagrad, {"lr": 0.8}, 4)
    assert deviation(ruled, reference) < 0.03
    assert deviation(square_root, reference) > 0.15
    # By then the start is forgotten, and the variance is what noise and rate make it.
    assert reference[-1, 0] < 0.05
    assert (ruled[-1, 1] / reference[-1, 1]).item() == pytest.approx(1.0, abs=0.15)
    assert square_root[-1, 1] > 1.5 * reference[-1, 1]


# eps of the size of the root that it is added to: a wrong rule for it would show.
SLOPES = {
    "sgd": (optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
    "rmsprop": (optim.RMSprop, {"lr": 1e-3, "alpha": 0.99, "eps": 1.0}),
    "rmsprop centered": (optim.RMSprop, {"lr": 1e-3, "alpha": 0.99, "eps": 1.0, "centered": True}),
    "adam": (optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1.0}),
    "adamw": (optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1.0, "weight_decay": 0.1}),
    "nadam": (optim.NAdam, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1.0, "momentum_decay": 0.1}),
    "radam": (optim.RAdam, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1.0}),
    "adagrad": (optim.Adagrad, {"lr": 0.02, "eps": 30.0, "initial_accumulator_value": 500.0}),
    "lamb": (LAMB, {"lr": 2e-4, "betas": (0.9, 0.99), "eps": 1.0, "weight_decay": 0.1}),
    "lars": (LARS, {"lr": 2e-5}),
}


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", SLOPES)
def test_the_drift_is_the_same_at_any_share_of_noise(name, share):
    cls, group = SLOPES[name]

    def drift(group, kappa):
        # In the second half: averages that start from 0 without correction have filled by then.
        start, end = course(cls, group, kappa, slope(share), samples=1600, every=800)[:, 0].tolist()
        return start - end

    reference = drift(group, 1)
    assert drift(scale_hyperparameters(cls, group, 8, noise_share=share), 8) == pytest.approx(
        reference, rel=0.04
    )
    # LAMB's rate is the same at every share, and what eps does to all weights alike is normalised away.
    if name not in ("sgd", "rmsprop centered", "lamb"):
        assert abs(drift(scale_hyperparameters(cls, group, 8), 8) / reference - 1.0) > 0.15


def last_mean(cls, group, kappa, gradient):
    """The mean weight after 9,600 samples."""
    return course(cls, group, kappa, gradient, samples=9600, every=9600)[-1, 0].item()


def slowly(p, noise):
    """The quadratic's gradient with hardly any noise."""
    return p + 0.01 * noise


@pytest.mark.parametrize(
    ("cls", "group", "gradient", "options", "wrong_rate"),
    [
        (LAMB, {"lr": 1e-3, "betas": (0.9, 0.99)}, quadratic, {}, 16**-0.5),
        (LAMB, {"lr": 1e-4, "betas": (0.9, 0.99)}, slowly, {"noise_share": 0.0}, 16**-0.5),
        (LAMB, {"lr": 1e-3, "betas": (0.9, 0.99)}, quadratic, {"beta_form": "constant"}, 16**0.5),
        (LARS, {"lr": 2e-4}, quadratic, {}, 16**0.5),
        (LARS, {"lr": 1e-5}, slowly, {"noise_share": 0.0}, 16**-0.5),
    ],
    ids=["lamb noise", "lamb gradient", "lamb constant betas", "lars noise", "lars gradient"],
)
def test_lamb_and_lars_at_16_times_the_batch(cls, group, gradient, options, wrong_rate):
    """Square root or linear: with the other one the weights are elsewhere."""
    reference = last_mean(cls, group, 1, gradient)
    scaled = scale_hyperparameters(cls, group, 16, **options)
    assert 0.05 < reference < 0.6
    assert last_mean(cls, scaled, 16, gradient) == pytest.approx(reference, abs=0.06)
    scaled["lr"] *= wrong_rate
    assert abs(last_mean(cls, scaled, 16, gradient) - reference) > 0.1


@pytest.mark.parametrize("per_step", [False, True])
def test_adagrad_under_a_changing_batch_stays_on_its_course(per_step):
    """From kappa 1 to 8 half-way, or another kappa at each step: else the sum is 64 times too large."""
    group, samples = {"lr": 0.1}, 4800
    kappas = [1, 8] * (samples // 9) if per_step else [1] * (samples // 2) + [8] * (samples // 16)

    def last(carried):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.ones(PROBLEMS))
        optimizer, before = optim.Adagrad([p], **group), 1
        for kappa in kappas:
            if carried:
                rescale_optimizer_state(optimizer, before, kappa)
            before = kappa
            p.grad = quadratic(p.detach(), torch.randn(PROBLEMS, generator=generator) / kappa**0.5)
            optimizer.step()
        return p.detach().mean().item()

    reference = course(optim.Adagrad, group, 1, samples=samples, every=samples)[-1, 0].item()
    assert last(True) == pytest.approx(reference, abs=0.03)
    assert abs(last(False) - reference) > 0.08
