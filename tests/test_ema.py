"""The teacher's memory depends on audio alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.students import Point, S, half_life_of, value

from asr_emapl.ema import ORDERS, CosineHalfLife, EmaTeacher
from asr_emapl.scaling import scale_momentum

# The memory is audio.


@settings(max_examples=50)
@given(st.lists(st.floats(0.0, 500.0), min_size=1, max_size=30), st.floats(50.0, 5000.0))
def test_a_constant_students_retention_depends_on_the_audio_alone(batches, half_life):
    student = Point(1.0)
    teacher = EmaTeacher(student, half_life)
    student.set(0.0)
    for audio in batches:
        teacher.update(audio)
    teacher.flush()
    assert value(teacher) == pytest.approx(2.0 ** (-sum(batches) / half_life), abs=1e-6)
    assert teacher.audio == pytest.approx(sum(batches))


def in_float64(student, half_life, **options):
    """A teacher that carries 53 bits, to see the law and not the rounding of fp32."""
    teacher = EmaTeacher(student, half_life, **options)
    teacher.module.double()
    teacher.follow(student)
    teacher.reset()
    return teacher


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.sampled_from([0.9, 0.99, 0.9999]))
def test_variable_batches_equal_fixed_ones_at_equal_audio(units, rho):
    """The student jumps between batches; whatever the cut, each value acts for its own stretch of audio."""
    students = [Point(1.0, dtype=torch.float64) for _ in range(2)]
    variable, fixed = (in_float64(student, half_life_of(rho)) for student in students)
    expected = 1.0
    for i, count in enumerate(units):
        target = math.sin(i + 1.0)
        for student in students:
            student.set(target)
        variable.update(count * S)
        for _ in range(count):
            fixed.update(S)
        expected = rho**count * expected + (1.0 - rho**count) * target
    assert value(variable) == pytest.approx(value(fixed), rel=1e-12, abs=1e-13)
    assert value(variable) == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert variable.audio == fixed.audio == sum(units) * S


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 500.0), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_how_the_same_audio_is_packed_does_not_matter(batches, chooser):
    other = [b / 2.0 for b in batches for _ in range(2)]
    chooser.shuffle(other)
    teachers = []
    for packing in (batches, other):
        student = Point(1.0, dtype=torch.float64)
        teachers.append(in_float64(student, 1000.0))
        student.set(-1.0)
        for audio in packing:
            teachers[-1].update(audio)
    assert value(teachers[0]) == pytest.approx(value(teachers[1]), rel=1e-10, abs=1e-13)


def test_a_step_of_kappa_references_is_the_scaling_rule():
    for kappa in (0.5, 1.0, 2.0, 8.0, 64.0):
        student = Point(0.0)
        teacher = EmaTeacher(student, half_life_of(0.9999))
        student.set(1.0)
        teacher.update(kappa * S)
        teacher.flush()
        expected = 1.0 - scale_momentum(0.9999, kappa)
        assert value(teacher) == pytest.approx(expected, rel=1e-6)
        assert teacher.rho(kappa * S) == pytest.approx(1.0 - expected, rel=1e-12)


def drift(order, rho, kappa):
    """Lag, in base steps, behind a student that moves by one a base step, once the start is forgotten."""
    student = Point(0.0)
    teacher = EmaTeacher(student, half_life_of(rho), order=order)
    updates = math.ceil(14.0 / (kappa * -math.log(rho)))  # until e^-14 is left of the start
    for t in range(1, updates + 1):
        teacher.before_step(kappa * S)
        student.set(t * kappa / 1000.0)
        teacher.update(kappa * S)
    return 1000.0 * (student.theta[0].item() - value(teacher))


@pytest.mark.parametrize("rho", [0.9, 0.99])
@pytest.mark.parametrize("kappa", [1, 2, 8, 32])
def test_lag_behind_a_steadily_drifting_student(rho, kappa):
    """Post: the student steps first, then the teacher looks. Pre: the other way round. Midpoint: between."""
    left = rho**kappa
    expected = {"post": kappa * left / (1.0 - left), "pre": kappa / (1.0 - left)}
    expected["midpoint"] = (expected["post"] + expected["pre"]) / 2.0
    for order, lag in expected.items():
        assert drift(order, rho, kappa) == pytest.approx(lag, rel=2e-3)


def test_midpoint_order_cancels_what_the_batch_shifts_to_first_order():
    """(kappa - 1) / 2 base steps in post and pre order; in midpoint a term of kappa (1 - rho) is left."""
    rho, kappa = 0.99, 8
    shift = {order: drift(order, rho, kappa) - drift(order, rho, 1) for order in ORDERS}
    assert shift["post"] == pytest.approx(-(kappa - 1) / 2.0, rel=0.05)
    assert shift["pre"] == pytest.approx((kappa - 1) / 2.0, rel=0.05)
    assert abs(shift["midpoint"]) < 0.02 * kappa


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0.0, 300.0), st.floats(-5.0, 5.0)), min_size=1, max_size=15),
    st.sampled_from(["post", "pre", "midpoint"]),
)
def test_orders_against_the_definition(steps, order):
    student = Point(1.0, dtype=torch.float64)
    teacher = in_float64(student, 200.0, order=order)
    z = theta = 1.0
    for audio, moved in steps:
        rho, before = 2.0 ** (-audio / 200.0), theta
        teacher.before_step(audio)
        theta = moved
        student.set(theta)
        teacher.update(audio)
        z = rho * z + (1.0 - rho) * {"post": theta, "pre": before, "midpoint": (theta + before) / 2.0}[order]
    assert value(teacher) == pytest.approx(z, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("order", ["pre", "midpoint"])
def test_a_forgotten_first_half_is_an_error(order):
    teacher = EmaTeacher(Point(), 60.0, order=order)
    with pytest.raises(RuntimeError, match=r"before_step\(60.0\)"):
        teacher.update(60.0)
    teacher.before_step(30.0)
    with pytest.raises(RuntimeError, match="before_step"):
        teacher.update(60.0)
    teacher.before_step(60.0)
    teacher.update(60.0)
    with pytest.raises(RuntimeError, match="before_step"):
        teacher.update(60.0)


def test_an_unknown_order_is_named():
    with pytest.raises(ValueError, match="'after' is invalid; use post, pre, midpoint"):
        EmaTeacher(Point(), 60.0, order="after")


# The memory may grow over a run.


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.999])
def test_the_cosine_schedule_is_byols(share):
    rho, total = 0.996, 1000 * S
    at = CosineHalfLife(rho, S, total)(share * total)
    byol = 1.0 - (1.0 - rho) * (math.cos(math.pi * share) + 1.0) / 2.0
    assert 2.0 ** (-S / at) == pytest.approx(byol, rel=1e-12)
    assert 1.0 - 2.0 ** (-S / at) == pytest.approx(1.0 - byol, rel=1e-6)


def test_at_the_end_of_the_schedule_the_teacher_stands_still():
    schedule = CosineHalfLife(0.99, S, 100 * S)
    assert schedule(100 * S) == schedule(1e9) == math.inf


def test_a_schedule_is_packed_like_any_half_life():
    """The same audio in steps of 1 and of 8: equal but for the curve of rho within a step."""
    rho, total = 0.999, 4000 * S
    left = {}
    for kappa in (1, 8):
        student = Point(1.0, dtype=torch.float64)
        teacher = in_float64(student, CosineHalfLife(rho, S, total))
        student.set(0.0)
        for _ in range(2000 // kappa):
            teacher.update(kappa * S)
        left[kappa] = value(teacher)
    assert 0.05 < left[1] < 0.5
    assert left[8] == pytest.approx(left[1], rel=1e-5)


def test_rho_of_a_step_is_what_the_step_will_use():
    student = Point(0.0)
    teacher = EmaTeacher(student, CosineHalfLife(0.9, S, 10 * S))
    for _ in range(5):
        student.set(1.0)
        before, rho = value(teacher), teacher.rho(S)
        teacher.update(S)
        assert 1.0 - value(teacher) == pytest.approx(rho * (1.0 - before), rel=1e-5)
    assert teacher.half_life > half_life_of(0.9)


def test_tiny_updates_are_not_lost_to_cancellation():
    """1 - rho is 1.2e-13 here: computed as 1 - 2 ** x, three digits of it would be left."""
    student = Point(0.0)
    teacher = EmaTeacher(student, half_life=60.0 * math.log(2.0) / 1.2e-13)
    student.set(1.0)
    teacher.update(60.0)
    teacher.flush()
    assert value(teacher) == pytest.approx(1.2e-13, rel=1e-6, abs=0.0)


def test_an_endless_half_life_never_moves_and_no_audio_neither():
    student = Point(1.0)
    frozen, still = EmaTeacher(student, math.inf), EmaTeacher(student, 60.0)
    student.set(2.0)
    frozen.update(1e9)
    still.update(0.0)
    assert value(frozen) == 1.0
    assert value(still) == 1.0


def test_a_step_cannot_give_audio_back():
    student = Point(1.0)
    teacher = EmaTeacher(student, 60.0)
    student.set(2.0)
    with pytest.raises(ValueError, match="-1"):
        teacher.update(-1.0)
    assert value(teacher) == 1.0
    assert teacher.audio == 0.0


@pytest.mark.parametrize("half_life", [0.0, -5.0, math.nan])
def test_a_half_life_has_to_be_positive(half_life):
    with pytest.raises(ValueError, match="half-life must be positive"):
        EmaTeacher(Point(), half_life)
