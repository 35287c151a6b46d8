"""The batch rules against simulation: torch's own optimizers on noisy quadratics, over samples consumed.

A batch of kappa samples has 1 / sqrt(kappa) of the noise, and its run 1 / kappa of the steps. Each run is
many independent problems in one tensor; what is compared is their mean and their variance.
"""

from __future__ import annotations

import functools

import pytest
import torch

from asr_emapl.scaling import scale_hyperparameters

PROBLEMS = 1000
SAMPLES = 2400
optim = torch.optim


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
    if name not in ("sgd", "rmsprop centered"):
        assert abs(drift(scale_hyperparameters(cls, group, 8), 8) / reference - 1.0) > 0.15
