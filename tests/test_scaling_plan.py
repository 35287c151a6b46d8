"""One object turns kappa into hyper-parameters: the same over audio at every batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.ema import CosineHalfLife, EmaTeacher
from asr_emapl.scaling import (
    BatchGrowth,
    BatchSchedule,
    NoiseAverage,
    ReferenceOptimizer,
    ScalingPlan,
    Schedule,
    StepAudio,
)
from asr_emapl.scaling.gradient_noise import GradientNoise

ADAM = ReferenceOptimizer("adamw", {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}, 2.0)
CONSTANT = Schedule(100.0)
HALF_LIFE = 7200.0


def plan(seconds=60.0, *changes, schedule=CONSTANT, **others) -> ScalingPlan:
    """Reference batch of 60 s without padding."""
    steps = StepAudio.nominal(BatchSchedule(seconds, changes), 60.0)
    return ScalingPlan(steps, **({"optimizer": ADAM, "schedule": schedule, "half_life": HALF_LIFE} | others))


# Audio of steps.


def test_kappa_is_unpadded_audio_over_that_of_the_reference():
    steps = StepAudio(BatchSchedule(60.0, ((1.0, 120.0),)), 60.0, {60.0: 48.0, 120.0: 108.0})
    assert steps.kappa() == steps.kappa(0.5) == 1.0
    assert steps.kappa(1.0) == 108.0 / 48.0
    assert steps.kappas == [1.0, 2.25]
    assert steps.kappa_of(24.0) == 0.5
    assert (steps.seconds(), steps.seconds(2.0), steps.reference_seconds) == (48.0, 108.0, 48.0)


def test_without_corpora_kappa_is_nominal():
    steps = StepAudio.nominal(BatchSchedule(30.0), 120.0)
    assert (steps.kappa(), steps.measured) == (0.25, False)


@pytest.mark.parametrize("audio", [{60.0: 1.0}, {60.0: 0.0, 30.0: 1.0}, {60.0: 1.0, 30.0: 0.0}])
def test_unknown_or_missing_audio_is_refused(audio):
    with pytest.raises((ValueError, ZeroDivisionError)):
        StepAudio(BatchSchedule(30.0), 60.0, audio)


# Hyper-parameters of a step.


def test_adamw_at_four_times_the_batch():
    now = plan(240.0).at(0.0)
    assert (now.kappa, now.lr, now.clip_norm) == (4.0, pytest.approx(2e-3), pytest.approx(1.0))
    assert now.param_group["betas"] == pytest.approx((0.9**4, 0.98**4))
    assert now.param_group["eps"] == pytest.approx(5e-9)
    assert now.param_group["weight_decay"] == pytest.approx(0.2)
    assert now.rho == pytest.approx(0.5 ** (240.0 / HALF_LIFE))
    assert now.half_life_hours == 2.0


@given(st.floats(0.1, 16.0))
def test_the_reference_batch_gets_what_the_config_says_and_any_other_the_same_rho_over_audio(kappa):
    reference, scaled = plan().at(1.0), plan(60.0 * kappa).at(1.0)
    assert reference.param_group == ADAM.group
    assert reference.clip_norm == ADAM.clip_norm
    assert scaled.rho == pytest.approx(reference.rho**kappa)
    assert scaled.lr == pytest.approx(reference.lr * math.sqrt(kappa))


@given(st.floats(1.0, 600.0))
def test_what_a_step_counts_can_be_chosen_for_optimizer_and_teacher(audio):
    each = plan(optimizer=replace(ADAM, audio_per_step="actual"), teacher_audio_per_step="nominal")
    now = each.at(0.0, audio)
    assert now.kappa == audio / 60.0
    assert now.lr == pytest.approx(1e-3 * math.sqrt(now.kappa))
    assert now.teacher_audio == 60.0
    default = plan().at(0.0, audio)
    assert (default.kappa, default.lr, default.teacher_audio) == (1.0, 1e-3, audio)
    assert default.rho == pytest.approx(0.5 ** (audio / HALF_LIFE))


def test_stages_of_a_progressive_batch_follow_from_the_reference():
    stages = plan(30.0, (1.0, 60.0), (2.0, 240.0))
    assert [stages.at(hours).kappa for hours in (0.0, 1.0, 2.0)] == [0.5, 1.0, 4.0]
    assert stages.at(1.5).param_group == ADAM.group
    assert stages.at(2.0).lr == pytest.approx(2e-3)


def test_schedules_are_read_in_the_middle_of_the_step():
    warmup = Schedule(10.0, warmup_hours=1.0)
    now = plan(1800.0, schedule=warmup, optimizer=replace(ADAM, rule="none")).at(0.25)
    assert now.clock_seconds == 1800.0
    assert now.lr == pytest.approx(0.5 * 1e-3)
    growing = plan(half_life=lambda seconds: 3600.0 + seconds).at(1.0)
    assert growing.half_life_seconds == pytest.approx(7200.0 + 30.0)


@given(st.floats(1.0, 600.0), st.floats(0.0, 9.0), st.sampled_from(["actual", "nominal"]))
def test_the_teacher_moves_by_the_rho_of_the_plan(audio, hours, counted):
    """The log has the plan's rho; the teacher is given the plan's half-life and audio."""
    over_run = plan(120.0, half_life=CosineHalfLife(0.99, 60.0, 36_000.0), teacher_audio_per_step=counted)
    now = over_run.at(hours, audio)
    student = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(student.weight)
    teacher = EmaTeacher(student, over_run.half_life)
    torch.nn.init.ones_(student.weight)
    teacher.update(now.teacher_audio, now.clock_seconds)
    teacher.flush()
    assert teacher.module.weight.item() == pytest.approx(1.0 - now.rho, rel=1e-4, abs=1e-7)


def test_rule_none_scales_the_teacher_only():
    now = plan(600.0, optimizer=replace(ADAM, rule="none")).at(0.0)
    assert now.param_group == ADAM.group
    assert now.clip_norm == ADAM.clip_norm
    assert now.rho == pytest.approx(0.5 ** (600.0 / HALF_LIFE))


def test_no_clipping_stays_no_clipping():
    assert plan(600.0, optimizer=replace(ADAM, clip_norm=None)).at(0.0).clip_norm is None


def test_the_plan_is_pure():
    one = plan(240.0)
    one.at(3.0).param_group["lr"] = 7.0
    assert one.at(3.0) == plan(240.0).at(3.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"half_life": 0.0}, "half-life"),
        ({"half_life": -1.0}, "half-life"),
        ({"optimizer": replace(ADAM, beta_form="linear")}, "kappa must stay below 10"),
        ({"optimizer": replace(ADAM, beta_form="cubic")}, "cubic"),
        ({"optimizer": replace(ADAM, noise_share=2.0)}, "noise share 2.0"),
        ({"optimizer": replace(ADAM, name="lion")}, "lion"),
    ],
)
def test_what_has_no_answer_at_a_batch_is_refused_at_once(changes, named):
    with pytest.raises(ValueError, match=named):
        plan(1000.0, **changes)


@pytest.mark.parametrize("varying", [{"audio_per_step": "actual"}, {}])
def test_linear_betas_allow_no_change_of_batch(varying):
    changes = () if varying else ((1.0, 120.0),)
    with pytest.raises(ValueError, match="beta_form=linear"):
        plan(60.0, *changes, optimizer=replace(ADAM, beta_form="linear", **varying))


# Batches that grow by need.


def growing(most=480.0, threshold=0.9) -> ScalingPlan:
    """From 60 s; the noise is averaged over 600 s."""
    batches = BatchSchedule(60.0, growth=BatchGrowth(threshold, most))
    return ScalingPlan(StepAudio.nominal(batches, 60.0), ADAM, CONSTANT, HALF_LIFE, noise=NoiseAverage(600.0))


def trained(one: ScalingPlan, noise_scale: float, seconds: float) -> ScalingPlan:
    """The plan after a run in which each step is measured; noise and gradient are equal at `noise_scale`."""
    clock = 0.0
    while clock < seconds:
        batch = one.steps.seconds(clock / 3600.0)
        clock += batch
        noise = GradientNoise(noise_scale / batch, noise_scale / batch + 1.0)
        one = one.observe(noise, batch / 60.0, clock / 3600.0)
    return one


@pytest.mark.parametrize(
    ("noise_scale", "last"),
    [(9.0 * 60.0 * 0.99, 60.0), (9.0 * 60.0 * 1.01, 120.0), (9.0 * 120.0 * 1.01, 240.0), (1e9, 480.0)],
)
def test_the_batch_doubles_until_the_noise_no_longer_allows_it(noise_scale, last):
    grown = trained(growing(), noise_scale, 6000.0).steps.batches
    assert grown.seconds(10.0) == last
    hours = [start for start, _ in grown.changes]
    assert hours == sorted(hours)
    assert hours[:1] == ([600.0 / 3600.0] if hours else [])
    # One half-life between two doublings, to the step.
    gaps = [3600.0 * (b - a) for a, b in itertools.pairwise(hours)]
    assert all(600.0 <= gap < 600.0 + 480.0 for gap in gaps)


def test_the_hyper_parameters_follow_the_batch_and_the_past_stays():
    grown = trained(growing(), 1e9, 6000.0)
    start = grown.steps.batches.changes[0][0]
    assert grown.at(start - 1e-6).param_group == ADAM.group
    assert grown.at(start).lr == pytest.approx(1e-3 * 2.0**0.5)
    replayed = plan(60.0, *grown.steps.batches.changes)
    for hours in (0.0, start, 1.0, 2.0):
        assert replayed.at(hours) == grown.at(hours)


def test_a_few_steps_are_not_enough():
    one = growing()
    for number in range(4):
        one = one.observe(GradientNoise(1.0, 1.0), 1.0, 1.0 + number)
        assert not one.steps.batches.changes
    assert one.observe(GradientNoise(1.0, 1.0), 1.0, 6.0).steps.batches.changes == ((6.0, 120.0),)


def test_what_was_measured_survives_a_checkpoint():
    grown = trained(growing(), 9.0 * 120.0 * 1.01, 3000.0)
    assert growing().with_state(grown.state_dict()) == grown
    assert growing().with_state({}) == growing()
    assert plan().state_dict() == {}
    assert plan().with_state(grown.state_dict()) == plan()
    with pytest.raises(ValueError, match="240 s is not known"):
        growing(most=120.0).with_state(grown.state_dict())


def test_nothing_changes_if_nothing_is_measured():
    one = growing()
    assert one.observe(None, 1.0, 5.0) is one
    fixed = plan()
    assert fixed.observe(GradientNoise(1.0, 1.0), 1.0, 5.0) is fixed


def test_the_rule_must_hold_at_every_batch_that_may_come():
    with pytest.raises(ValueError, match="linear"):
        replace(growing(), optimizer=replace(ADAM, beta_form="linear"))


# AdaScale.


def adascale(optimizer: ReferenceOptimizer, seconds=240.0, **others) -> ScalingPlan:
    noise = NoiseAverage(600.0)
    return plan(seconds, optimizer=replace(optimizer, rule="adascale"), noise=noise, **others)


SGD = ReferenceOptimizer("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, 2.0)


@given(st.floats(0.0, 1.0), st.floats(1.0, 64.0))
def test_the_gain_is_the_ratio_of_mean_squares(share, kappa):
    """(variance + signal) / (variance / kappa + signal), from what was measured at kappa."""
    measured = GradientNoise(share / kappa, share / kappa + 1.0 - share)
    one = adascale(SGD, 60.0 * kappa).observe(measured, kappa, 1.0)
    now = one.at(1.0)
    assert now.gain == pytest.approx(1.0 / (share / kappa + 1.0 - share), rel=1e-6)
    assert 1.0 <= now.gain <= kappa * (1.0 + 1e-12)
    assert now.progress == pytest.approx(now.gain / kappa)
    assert now.lr == pytest.approx(0.1 * now.gain)
    assert now.param_group["momentum"] == 0.9
    assert now.clip_norm == pytest.approx(2.0 / math.sqrt(now.gain))


def test_adam_at_the_gain_is_the_rule_with_the_gain_for_kappa():
    one = adascale(ADAM).observe(GradientNoise(0.5, 1.0), 4.0, 1.0)
    now = one.at(1.0)
    assert now.gain == pytest.approx(2.5)
    fixed = plan(150.0).at(1.0)
    assert now.param_group == {key: pytest.approx(value) for key, value in fixed.param_group.items()}
    assert now.clip_norm == pytest.approx(fixed.clip_norm)
    assert now.clock_seconds == pytest.approx(3600.0 + 150.0 / 2.0)


def test_adascale_is_the_fixed_rule_where_noise_dominates_and_the_reference_where_it_does_not():
    noise = adascale(ADAM).observe(GradientNoise(1.0, 1.0), 4.0, 1.0).at(1.0)
    assert noise == replace(plan(240.0).at(1.0), gain=noise.gain, progress=noise.progress)
    none = adascale(ADAM).observe(GradientNoise(0.0, 1.0), 4.0, 1.0).at(1.0)
    assert (none.param_group, none.gain, none.progress) == (ADAM.group, 1.0, 0.25)
    assert adascale(ADAM).at(0.0).gain == 1.0  # nothing is measured yet


def test_the_teacher_follows_the_gain_on_demand():
    found = {}
    for counted in ("actual", "gained"):
        one = adascale(ADAM, teacher_audio_per_step=counted).observe(GradientNoise(0.5, 1.0), 4.0, 1.0)
        found[counted] = one.at(1.0).rho
    rho = plan().at(1.0).rho
    assert found == {"actual": pytest.approx(rho**4.0), "gained": pytest.approx(rho**2.5)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"noise": None}, "measured noise"),
        ({"optimizer": replace(ADAM, rule="adascale", name="radam")}, "one of sgd, adam, adamw"),
        ({"optimizer": replace(ADAM, rule="adascale", noise_share=0.5)}, "noise_share=1"),
        ({"optimizer": replace(ADAM, rule="adascale", audio_per_step="actual")}, "audio_per_step=nominal"),
        ({"steps": StepAudio.nominal(BatchSchedule(30.0), 60.0)}, "at least the reference batch"),
    ],
)
def test_where_adascale_has_no_rule(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(adascale(ADAM), **changes)
