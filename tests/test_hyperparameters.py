"""The student's optimizer: stated at the reference batch, the same course over audio at every other one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import OptimizerConfig, TeacherConfig
from asr_emapl.hyperparameters import build_optimizer as build
from asr_emapl.planning import build_plan, nominal_step_audio
from asr_emapl.scaling import momentum, scale_hyperparameters


def build_optimizer(model, config, kappa):
    """As the trainer does it at `kappa`."""
    return build(model, config.name, config.reference().at(kappa)[0])


CLASSES = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
}
NAMES = list(CLASSES)
# Those that torch has in one pass over memory.
FUSED = {"adamw", "adam", "sgd", "adagrad"}
# RAdam with the default betas takes no more than 20.
KAPPA = st.floats(0.05, 19.0)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_reference_batch_nothing_changes(name):
    config = OptimizerConfig(name=name, weight_decay=0.01)
    assert config.reference().at(1.0) == (config.reference().group, config.clip_norm)


@pytest.mark.parametrize("name", NAMES)
@given(kappa=KAPPA)
def test_elsewhere_it_is_the_optimizers_own_rule(name, kappa):
    config = OptimizerConfig(name=name, weight_decay=0.01)
    group, _ = config.reference().at(kappa)
    assert group == scale_hyperparameters(name, config.reference().group, kappa)
    assert group["lr"] != config.lr or kappa == 1.0 or name == "adagrad"


def test_adamw_at_four_times_the_batch():
    group, clip_norm = OptimizerConfig(lr=1e-3, weight_decay=0.1, clip_norm=2.0).reference().at(4.0)
    assert group["lr"] == pytest.approx(2e-3)
    assert group["weight_decay"] == pytest.approx(0.2)
    assert group["betas"] == pytest.approx((0.9**4, 0.98**4))
    assert group["eps"] == pytest.approx(5e-9)
    assert clip_norm == pytest.approx(1.0)


def test_nadam_at_four_times_the_batch():
    group, _ = (
        OptimizerConfig(name="nadam", lr=1e-3, weight_decay=0.1, momentum_decay=0.01).reference().at(4.0)
    )
    assert group["lr"] == pytest.approx(2e-3)
    assert group["momentum_decay"] == pytest.approx(0.04)
    # L2, not decoupled: what torch's NAdam does unless told otherwise.
    assert group["weight_decay"] == 0.1


def test_adagrad_at_four_times_the_batch():
    config = OptimizerConfig(name="adagrad", lr=0.1, eps=1e-4, initial_accumulator_value=0.16)
    group, clip_norm = config.reference().at(4.0)
    assert group == pytest.approx(
        {"lr": 0.1, "weight_decay": 0.0, "eps": 0.25e-4, "initial_accumulator_value": 0.01}
    )
    assert clip_norm == pytest.approx(0.5)


def test_the_form_of_betas_is_nothing_to_those_without():
    for name in ("sgd", "adagrad"):
        linear = OptimizerConfig(name=name, beta_form="linear")
        assert linear.reference().at(64.0) == OptimizerConfig(name=name).reference().at(64.0)


def test_no_clipping_stays_no_clipping():
    assert OptimizerConfig(clip_norm=None).reference().at(9.0)[1] is None


@pytest.mark.parametrize("name", NAMES)
def test_rule_none_leaves_everything(name):
    config = OptimizerConfig(name=name, rule="none", beta_form="linear", weight_decay=0.1)
    assert config.reference().at(1000.0) == (config.reference().group, config.clip_norm)


def test_scaling_does_not_touch_the_config():
    config = OptimizerConfig()
    config.reference().at(8.0)
    assert config == OptimizerConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_form": "cubic"}, "'cubic'"),
        ({"beta_form": "linear"}, "kappa must stay below 10, or use the power form"),
        ({"name": "radam", "betas": [0.9, 0.97]}, "kappa must stay below 13.3"),
        ({"noise_share": 2.0}, "noise share 2.0"),
    ],
)
def test_a_plan_of_a_run_refuses_what_the_rule_has_no_answer_for(changes, message):
    config = RunConfig(optimizer=OptimizerConfig(**changes), teacher=TeacherConfig(rho=0.999))
    config.batch.seconds = 16.0 * config.batch.reference_seconds
    with pytest.raises(UserError, match="optimizer") as caught:
        build_plan(config, nominal_step_audio(config, 1))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(lr=-1.0),
        OptimizerConfig(eps=-1.0),
        OptimizerConfig(weight_decay=-0.1),
        OptimizerConfig(name="sgd", momentum=-0.9),
        OptimizerConfig(name="nadam", momentum_decay=-1.0),
        OptimizerConfig(name="radam", eps=-1.0),
        OptimizerConfig(name="adagrad", initial_accumulator_value=-1.0),
    ],
)
def test_values_that_torch_refuses_are_a_user_error(config):
    with pytest.raises(UserError, match="optimizer"):
        build_optimizer(nn.Linear(2, 2), config, 1.0)


# The torch optimizer.


@pytest.mark.parametrize(("name", "cls"), CLASSES.items())
def test_the_optimizer_carries_the_scaled_values_for_all_parameters(name, cls):
    model, config = nn.Linear(3, 2), OptimizerConfig(name=name, weight_decay=0.01)
    optimizer = build_optimizer(model, config, 4.0)
    assert type(optimizer) is cls
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    expected, _ = config.reference().at(4.0)
    assert {key: group[key] for key in expected} == expected
    assert group.get("fused", False) == (name in FUSED)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_the_weights(name):
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, OptimizerConfig(name=name, lr=0.1), 2.0)
    before = model.weight.detach().clone()
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    assert torch.all(model.weight < before)


def test_decay_alone_shrinks_a_weight_by_the_same_share_per_audio():
    left = []
    for kappa, steps in ((1.0, 400), (4.0, 100)):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        optimizer = build_optimizer(model, OptimizerConfig(lr=1e-2, weight_decay=0.1), kappa)
        for _ in range(steps):
            model.weight.grad = torch.zeros_like(model.weight)
            optimizer.step()
        left.append(model.weight.item())
    assert left[1] == pytest.approx(left[0], rel=1e-3)
    assert left[0] < 0.7


def course(config, kappa, samples=4800, every=480):
    """Mean of many noisy quadratics over samples consumed; a gradient's noise shrinks by sqrt(kappa)."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(1, 2000, bias=False)
    nn.init.ones_(model.weight)
    optimizer = build_optimizer(model, config, kappa)
    means = []
    for step in range(1, samples // kappa + 1):
        noise = torch.randn(model.weight.shape, generator=generator) * (10.0 / kappa**0.5)
        model.weight.grad = model.weight.detach() + noise
        optimizer.step()
        if step * kappa % every == 0:
            means.append(model.weight.mean().item())
    return torch.tensor(means)


@pytest.mark.parametrize(
    ("name", "lr"), [("adamw", 2e-3), ("sgd", 2e-5), ("nadam", 2e-3), ("radam", 2e-3), ("adagrad", 0.1)]
)
def test_the_course_over_samples_is_the_same_at_another_batch_with_the_rule_and_not_without(name, lr):
    config = OptimizerConfig(name=name, lr=lr, betas=[0.9, 0.98], initial_accumulator_value=1e4)
    unscaled = OptimizerConfig(**(vars(config) | {"rule": "none"}))
    reference = course(config, 1)
    assert reference[-1] < 0.7
    with_rule = (course(config, 8) - reference).abs().max()
    without = (course(unscaled, 8) - reference).abs().max()
    assert with_rule < 0.03
    assert without > 5 * with_rule


def test_the_noise_share_goes_into_lr_and_clip_norm():
    base, clip = OptimizerConfig(noise_share=1.0).reference().at(16.0)
    assert (base["lr"], clip) == pytest.approx((4e-3, 0.25))
    smooth, clip = OptimizerConfig(noise_share=0.0).reference().at(16.0)
    assert (smooth["lr"], clip) == pytest.approx((16e-3, 1.0))


# The teacher.


@given(st.floats(0.01, 1e5), st.floats(1.0, 1e5))
def test_the_half_life_in_hours_does_not_know_the_reference_batch(hours, reference):
    assert TeacherConfig(half_life_hours=hours).half_life_seconds(reference) == pytest.approx(3600.0 * hours)


@given(st.floats(0.01, 0.99999), st.floats(1.0, 1e5))
def test_rho_is_that_of_the_reference_batch(rho, reference):
    half_life = TeacherConfig(rho=rho).half_life_seconds(reference)
    assert momentum(half_life, reference) == pytest.approx(rho, rel=1e-9)


@given(st.floats(1e-5, 0.5), st.integers(1, 10_000), st.floats(1.0, 1e3))
def test_kaizens_discount(discount, steps, reference):
    """Updating every D steps with weight a keeps as much as updating each step with rho."""
    half_life = TeacherConfig(discount=discount, discount_steps=steps).half_life_seconds(reference)
    assert momentum(half_life, reference) ** steps == pytest.approx(1.0 - discount)


def test_momentum_pseudo_labelling_states_the_weight_per_epoch():
    """MPL: alpha = exp(ln w / K), with K batches in an epoch."""
    config = TeacherConfig(epoch_weight=0.5, epoch_hours=100.0)
    assert config.half_life_seconds(60.0) == pytest.approx(100.0 * 3600.0)
    batches = 100.0 * 3600.0 / 60.0
    alpha = momentum(TeacherConfig(epoch_weight=0.3, epoch_hours=100.0).half_life_seconds(60.0), 60.0)
    assert alpha == pytest.approx(math.exp(math.log(0.3) / batches))
    with pytest.raises(ValueError, match=r"teacher\.epoch_hours"):
        TeacherConfig(epoch_weight=0.5).half_life_seconds(60.0)


@pytest.mark.parametrize(
    "config",
    [TeacherConfig(), TeacherConfig(half_life_hours=1.0, rho=0.9), TeacherConfig(rho=0.9, discount=0.1)],
)
def test_the_memory_is_stated_one_way(config):
    with pytest.raises(ValueError, match=r"set one of teacher\.half_life_hours, teacher\.rho"):
        config.half_life_seconds(60.0)


def test_a_half_life_that_grows_with_the_audio():
    half_life = TeacherConfig(half_life_hours=1.0, schedule="growing", growing_share=0.2)
    schedule = half_life.half_life_over_audio(60.0, 6000.0)
    assert callable(schedule)
    assert [schedule(3600.0 * hours) / 3600.0 for hours in (0.0, 5.0, 50.0)] == pytest.approx(
        [1.0, 1.0, 10.0]
    )


def test_a_schedule_in_the_config():
    config = TeacherConfig(rho=0.99, schedule="cosine")
    schedule = config.half_life_over_audio(60.0, 6000.0)
    assert callable(schedule)
    assert schedule(0.0) == pytest.approx(config.half_life_seconds(60.0))
    assert TeacherConfig(rho=0.99).half_life_over_audio(60.0, 6000.0) == config.half_life_seconds(60.0)
