"""The teacher's arithmetic in fp32 agrees with fp64, also for small updates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.students import Point, S, half_life_of, value

from asr_emapl.ema import ORDERS, CosineHalfLife, EmaTeacher

WEIGHTS = 500


def wander(teacher, student, steps, audio, *, rms=3e-6, seed=0):
    """Move the student, whose weights are near 1, as a random walk; the teacher in fp64 beside its own."""
    generator = torch.Generator().manual_seed(seed)
    exact, theta = teacher.module.theta.double(), student.theta.detach().double()
    share = 1.0 - teacher.rho(audio)
    for _ in range(steps):
        teacher.before_step(audio)
        seen = {"pre": student.theta.detach().double()}
        theta += rms * torch.randn(WEIGHTS, generator=generator, dtype=torch.float64)
        student.theta.data.copy_(theta)
        seen["post"] = student.theta.detach().double()
        seen["midpoint"] = (seen["pre"] + seen["post"]) / 2.0
        teacher.update(audio)
        exact.lerp_(seen[teacher.order], share)
    return exact


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kappa", [1.0, 0.125])
def test_an_average_of_small_steps_moves_as_in_float64(kappa, order):
    """Weights near 1, steps of 3e-6: rounded to fp32 at each step, most of the movement would be lost."""
    rho = 0.9999
    student = Point(1.0, size=WEIGHTS)
    teacher = EmaTeacher(student, half_life_of(rho), order=order)
    exact = wander(teacher, student, round(0.5 / (kappa * (1.0 - rho))), kappa * S)
    teacher.flush()
    error = (teacher.module.theta.double() - exact).square().mean().sqrt()
    assert error < 0.02 * (exact - 1.0).square().mean().sqrt()


def test_pending_audio_is_less_than_a_third_of_a_percent_of_the_half_life():
    half_life = 1e5 * S
    student = Point(0.0)
    teacher = EmaTeacher(student, half_life)
    student.set(1.0)
    for _ in range(2000):
        teacher.update(S)
        lag = half_life * (math.log2(1.0 - value(teacher)) + teacher.audio / half_life)
        assert -1.0 <= lag < 0.003 * half_life
    assert value(teacher) > 0.0


def test_a_step_that_is_large_enough_is_taken_in_at_once():
    student = Point(0.0)
    teacher = EmaTeacher(student, half_life_of(0.99))
    student.set(1.0)
    teacher.update(S)
    assert value(teacher) == pytest.approx(0.01, rel=1e-5)
    assert teacher.state_dict()["pending"] == 0.0


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=20)
@given(st.integers(0, 50))
def test_pending_audio_survives_a_restart(order, cut):
    def going(student, teacher, numbers):
        for n in numbers:
            teacher.before_step(S)
            student.set(math.sin(n))
            teacher.update(S)

    whole_student, first_student, second_student = Point(1.0), Point(1.0), Point(5.0)
    half_life = half_life_of(0.9999)
    whole = EmaTeacher(whole_student, half_life, order=order)
    going(whole_student, whole, range(50))
    first = EmaTeacher(first_student, half_life, order=order)
    going(first_student, first, range(cut))
    second = EmaTeacher(second_student, half_life, order=order)
    second.load_state_dict(first.state_dict())
    second_student.set(first_student.theta[0].item())
    going(second_student, second, range(cut, 50))
    assert value(second) == value(whole)
    assert second.state_dict()["pending"] == whole.state_dict()["pending"] > 0.0


def test_gathered_steps_follow_a_half_life_that_changes():
    schedule = CosineHalfLife(0.9999, S, 4000 * S)
    student, expected = Point(1.0), 1.0
    teacher = EmaTeacher(student, schedule)
    student.set(0.0)
    for _ in range(2000):
        expected *= teacher.rho(S)
        teacher.update(S)
    teacher.flush()
    assert value(teacher) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_in_float64_takes_in_every_step():
    student = Point(1.0, dtype=torch.float64)
    teacher = EmaTeacher(student, 1e6 * S)
    teacher.module.double()
    teacher.follow(student)
    teacher.reset()
    student.set(0.0)
    teacher.update(S)
    assert value(teacher) == pytest.approx(2.0**-1e-6, abs=1e-15)


def test_a_reset_forgets_what_is_pending():
    student = Point(1.0)
    teacher = EmaTeacher(student, 1e6 * S)
    teacher.update(S)
    student.set(3.0)
    teacher.reset()
    student.set(0.0)
    teacher.flush()
    assert value(teacher) == 3.0
