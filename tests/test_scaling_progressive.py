"""Progressive scaling: when which batch is in force, and what an optimizer's state becomes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asr_emapl.scaling import ReferenceOptimizer, ScalingPlan, Schedule, StepAudio, scale_hyperparameters
from asr_emapl.scaling.progressive import BatchSchedule, double_with_decay, rescale_optimizer_state

STAGES = BatchSchedule(12.0, ((2.0, 48.0), (6.5, 96.0)))


@pytest.mark.parametrize(
    ("hours", "seconds", "until"),
    [
        (0.0, 12, 2.0),
        (1.999, 12, 2.0),
        (2.0, 48, 6.5),
        (6.4, 48, 6.5),
        (6.5, 96, math.inf),
        (1e6, 96, math.inf),
    ],
)
def test_the_batch_in_force(hours, seconds, until):
    assert STAGES.seconds(hours) == seconds
    assert STAGES.next_change(hours) == until


def test_without_changes():
    schedule = BatchSchedule(60.0)
    assert (schedule.seconds(5.0), schedule.next_change(5.0), schedule.smallest) == (60.0, math.inf, 60.0)


def test_the_smallest_batch_limits_utterances():
    assert BatchSchedule(48.0, ((1.0, 24.0), (2.0, 96.0))).smallest == 24.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (((0.0, 12.0),), "0 h does not come after 0 h"),
        (((2.0, 12.0), (2.0, 24.0)), "2 h does not come after 2 h"),
        (((math.nan, 12.0),), "nan h"),
        (((2.0, 0.0),), "batch of 0 s from 2 h"),
        (((2.0, math.inf),), "batch of inf s"),
    ],
)
def test_schedules_that_are_none(changes, said):
    with pytest.raises(ValueError, match=said):
        BatchSchedule(12.0, changes)


def test_the_stages_of_a_run_cover_its_audio():
    assert STAGES.stages(5.0) == [(0.0, 2.0, 12.0), (2.0, 5.0, 48.0)]
    assert STAGES.stages(10.0) == [(0.0, 2.0, 12.0), (2.0, 6.5, 48.0), (6.5, 10.0, 96.0)]
    assert BatchSchedule(7.0).stages(3.0) == [(0.0, 3.0, 7.0)]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("final", [0.0, 0.3])
def test_the_batch_doubles_where_the_learning_rate_has_halved(shape, final):
    schedule = Schedule(10.0, 1.0, 4.0, final, shape)
    batches = double_with_decay(BatchSchedule(60.0), schedule, 500.0)
    assert batches.all == ((60.0, 120.0, 240.0, 480.0) if final == 0.0 else (60.0, 120.0))
    for number, (hours, _) in enumerate(batches.changes, 1):
        assert schedule.factor(hours) == pytest.approx(0.5**number)


def test_each_halving_of_adam_is_a_root_of_two_and_that_of_sgd_nothing():
    """Seesaw: the learning rate at the batch in force, right after the first halvings."""
    schedule = Schedule(10.0, decay_from_hours=4.0, shape="linear")
    batches = double_with_decay(BatchSchedule(60.0), schedule, 240.0)
    steps = StepAudio.nominal(batches, 60.0)
    at = [hours for hours, _ in batches.changes]
    adam = ScalingPlan(steps, ReferenceOptimizer("adam", {"lr": 1.0, "betas": (0.9, 0.98)}), schedule, 3600.0)
    sgd = ScalingPlan(steps, ReferenceOptimizer("sgd", {"lr": 1.0}), schedule, 3600.0)
    assert [adam.at(h).lr for h in at] == pytest.approx([0.5**0.5, 0.5], rel=0.03)
    assert [sgd.at(h).lr for h in at] == pytest.approx([1.0, 1.0], rel=0.03)
    # The teacher keeps its half-life in audio through all of them.
    assert adam.at(at[0]).rho == pytest.approx(adam.at(0.0).rho ** 2)


def test_doublings_multiply_the_stages_of_a_schedule():
    schedule = Schedule(10.0, decay_from_hours=0.0, shape="linear")  # halved at 5, 7.5, 8.75 h
    batches = double_with_decay(BatchSchedule(10.0, ((2.0, 20.0), (6.0, 40.0))), schedule, 100.0)
    assert batches == BatchSchedule(10.0, ((2.0, 20.0), (5.0, 40.0), (6.0, 80.0)))


def test_without_a_decay_nothing_doubles_and_a_small_limit_is_refused():
    assert double_with_decay(STAGES, Schedule(10.0), 1e6) == STAGES
    with pytest.raises(ValueError, match="50 s is below the batch of 96 s"):
        double_with_decay(STAGES, Schedule(10.0), 50.0)


def moved(optimizer_class, steps, **options):
    """A parameter and its optimizer after some steps on random gradients."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(5))
    optimizer = optimizer_class([weight], **options)
    for _ in range(steps):
        weight.grad = torch.randn(5)
        optimizer.step()
    return weight, optimizer


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.5, 1.0, 2.0, 8.0])), min_size=1, max_size=4))
def test_bias_correction_stays_the_product_of_all_betas(stages):
    """With a constant gradient, Adam's corrected moments are that gradient, whatever the betas were."""
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    reference = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-12}
    optimizer = torch.optim.Adam([weight], **reference)
    kappa = 1.0
    gradient = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    for steps, after in stages:
        rescale_optimizer_state(optimizer, kappa, after)
        kappa = after
        optimizer.param_groups[0].update(scale_hyperparameters("adam", reference, kappa))
        for _ in range(steps):
            before = weight.detach().clone()
            weight.grad = gradient.clone()
            optimizer.step()
            # m / sqrt(v) = 1 only if both corrections are exact.
            expected = -optimizer.param_groups[0]["lr"] * gradient.sign()
            torch.testing.assert_close(weight.detach() - before, expected, rtol=1e-6, atol=0.0)


def test_without_it_the_correction_is_wrong():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    reference = {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-12}
    optimizer = torch.optim.Adam([weight], **reference)
    for kappa in (8.0, 1.0):
        optimizer.param_groups[0].update(scale_hyperparameters("adam", reference, kappa))
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert abs(weight.item() - before) != pytest.approx(optimizer.param_groups[0]["lr"], rel=0.1)


@pytest.mark.parametrize(
    ("optimizer_class", "options", "name", "power"),
    [
        (torch.optim.Adam, {}, "exp_avg_sq", 1),
        (torch.optim.AdamW, {"fused": True}, "exp_avg_sq", 1),
        (torch.optim.Adam, {"amsgrad": True}, "max_exp_avg_sq", 1),
        (torch.optim.RMSprop, {}, "square_avg", 1),
    ],
)
@pytest.mark.parametrize("second_moments", [False, True])
def test_second_moments_are_rescaled_on_demand(optimizer_class, options, name, power, second_moments):
    weight, optimizer = moved(optimizer_class, 3, **options)
    old = optimizer.state[weight][name].clone()
    rescale_optimizer_state(optimizer, 1.0, 4.0, second_moments=second_moments)
    factor = 0.25**power if second_moments else 1.0
    torch.testing.assert_close(optimizer.state[weight][name], old * factor)
    weight.grad = torch.ones(5)
    optimizer.step()  # the state is still one that torch takes


def test_what_adagrad_has_summed_is_rescaled_always():
    """It never forgets: left as it was, it would be too large for the rest of the run."""
    weight, optimizer = moved(torch.optim.Adagrad, 6)
    old = optimizer.state[weight]["sum"].clone()
    rescale_optimizer_state(optimizer, 1.0, 4.0)
    torch.testing.assert_close(optimizer.state[weight]["sum"], old / 16.0)
    assert optimizer.state[weight]["step"].item() == 1.5
    rescale_optimizer_state(optimizer, 4.0, 1.0, second_moments=True)
    torch.testing.assert_close(optimizer.state[weight]["sum"], old)
    assert optimizer.state[weight]["step"].item() == 6.0


def test_there_and_back_is_where_it_was():
    weight, optimizer = moved(torch.optim.AdamW, 7)
    old = {k: v.clone() for k, v in optimizer.state[weight].items()}
    rescale_optimizer_state(optimizer, 1.0, 8.0, second_moments=True)
    rescale_optimizer_state(optimizer, 8.0, 1.0, second_moments=True)
    for name, value in optimizer.state[weight].items():
        torch.testing.assert_close(value, old[name])


def test_the_same_kappa_touches_nothing():
    weight, optimizer = moved(torch.optim.AdamW, 3)
    place = optimizer.state[weight]["exp_avg_sq"].data_ptr()
    rescale_optimizer_state(optimizer, 2.0, 2.0, second_moments=True)
    assert optimizer.state[weight]["step"].item() == 3.0
    assert optimizer.state[weight]["exp_avg_sq"].data_ptr() == place
