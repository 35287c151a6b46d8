"""The teacher's module: fp32 weights of its own, wrappers of the student, state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from support.students import Point, S, half_life_of, net, step, value
from torch import nn

from asr_emapl.ema import EmaTeacher

# Precision.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_teacher_of_a_half_precision_student_moves_where_its_own_precision_would_stall(dtype):
    rho, steps = 0.9999, 200
    student = Point(1.0, dtype=dtype)
    teacher = EmaTeacher(student, half_life_of(rho))
    stalled = torch.full((3,), 1.0, dtype=dtype)
    student.set(0.5)
    for _ in range(steps):
        teacher.update(S)
        stalled.lerp_(student.theta.detach(), 1.0 - rho)
    assert stalled[0].item() == 1.0
    assert teacher.module.theta.dtype == torch.float32
    assert value(teacher) == pytest.approx(0.5 + 0.5 * rho**steps, abs=1e-5)
    assert student.theta.dtype == dtype


def test_a_float64_student_is_followed_in_fp32():
    student = Point(1.0, dtype=torch.float64)
    teacher = EmaTeacher(student, half_life_of(0.9))
    student.set(0.0)
    teacher.update(S)
    assert teacher.module.theta.dtype == torch.float32
    assert value(teacher) == pytest.approx(0.9, rel=1e-6)


def test_a_student_of_mixed_precision():
    student = nn.ModuleList([Point(1.0), Point(1.0, dtype=torch.bfloat16)])
    teacher = EmaTeacher(student, half_life_of(0.9))
    for part in student:
        part.set(0.0)
    teacher.update(S)
    assert [p.theta[0].item() for p in teacher.module] == pytest.approx([0.9, 0.9], rel=1e-6)


# Buffers.


def test_buffers_are_copied_integer_ones_too():
    student = net()
    teacher = EmaTeacher(student, 1e6)
    for seed in range(3):
        step(student, seed)
        teacher.update(S)
    norm, followed = student[1], teacher.module[1]
    assert norm.num_batches_tracked.item() == 3
    assert followed.num_batches_tracked.item() == 3
    assert followed.num_batches_tracked.dtype == torch.int64
    assert torch.equal(followed.running_mean, norm.running_mean)
    assert torch.equal(followed.running_var, norm.running_var)
    assert not torch.equal(teacher.module[0].weight, student[0].weight)


def test_buffers_that_are_not_saved_are_copied_as_well():
    student = Point(1.0)
    student.register_buffer("table", torch.zeros(2), persistent=False)
    teacher = EmaTeacher(student, 60.0)
    student.table.fill_(3.0)
    teacher.update(S)
    assert torch.equal(teacher.module.table, torch.full((2,), 3.0))


def test_a_buffer_that_the_student_replaces_is_followed():
    student = Point(1.0)
    student.register_buffer("count", torch.zeros(2))
    teacher = EmaTeacher(student, 60.0)
    student.count = student.count + 1.0
    teacher.update(S)
    assert torch.equal(teacher.module.count, torch.ones(2))


# Whose weights: matched by name, never shared.


def test_teacher_and_student_share_nothing():
    student = net()
    teacher = EmaTeacher(student, 60.0)
    theirs = {t.data_ptr() for t in [*student.parameters(), *student.buffers()]}
    mine = {t.data_ptr() for t in [*teacher.module.parameters(), *teacher.module.buffers()]}
    assert not theirs & mine
    before = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        for p in teacher.module.parameters():
            p.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), student.state_dict().values(), strict=True))
    assert all(p.requires_grad for p in student.parameters())
    assert student.training


def test_a_deep_copy_of_the_teachers_module_is_independent():
    student = Point(1.0)
    teacher = EmaTeacher(student, 60.0)
    kept = copy.deepcopy(teacher.module)
    student.set(5.0)
    teacher.update(60.0)
    assert value(teacher) == pytest.approx(3.0)
    assert torch.equal(kept.theta, torch.ones(3))


def test_a_student_whose_storage_is_replaced_is_followed():
    """What `student.to(...)` does: the parameter stays, the memory behind it does not."""
    student = Point(1.0)
    teacher = EmaTeacher(student, 60.0)
    student.theta.data = torch.full((3,), 5.0)
    teacher.update(60.0)
    assert value(teacher) == pytest.approx(3.0)


@pytest.mark.parametrize("order", ["post", "pre", "midpoint"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_replaced_parameters_are_an_error_until_they_are_followed(whose, order):
    student = net()
    teacher = EmaTeacher(student, 60.0, order=order)
    changed = student if whose == "student" else teacher.module
    changed.load_state_dict(net(seed=1).state_dict(), assign=True)

    def one_step():
        teacher.before_step(60.0)
        teacher.update(60.0)

    with pytest.raises(RuntimeError, match=rf"0\.weight of the {whose}.* call follow"):
        one_step()
    with pytest.raises(RuntimeError, match="call follow"):
        teacher.reset()
    teacher.follow(student)
    teacher.reset()
    assert torch.equal(teacher.module[0].weight, student[0].weight)


def test_a_replaced_head_is_an_error_until_it_is_followed():
    student = net()
    teacher = EmaTeacher(student, 60.0)
    student[3] = nn.Linear(8, 3)
    with pytest.raises(RuntimeError, match=r"^3 of the student .* call follow"):
        teacher.update(60.0)
    old = teacher.module[3].weight.clone()
    teacher.follow(student)
    teacher.update(60.0)
    assert torch.allclose(teacher.module[3].weight, (old + student[3].weight) / 2.0)


def test_follow_takes_up_with_another_student():
    teacher, other = EmaTeacher(Point(1.0), 60.0), Point(5.0)
    teacher.follow(other)
    teacher.update(60.0)
    assert value(teacher) == pytest.approx(3.0)


def test_reset_makes_the_teacher_the_student_of_now():
    student = net()
    teacher = EmaTeacher(student, 1e9)
    step(student, 1)
    assert not torch.equal(teacher.module[0].weight, student[0].weight)
    teacher.reset()
    pairs = zip(student.state_dict().values(), teacher.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            r"differ in names: 1\.bias, 1\.weight",
        ),
        (nn.Sequential(nn.Linear(2, 2, bias=False)), r"differ in names: 0\.bias"),
        (
            nn.Sequential(nn.Linear(2, 3)),
            r"0\.weight has shape \(2, 2\) in the student and \(3, 2\)",
        ),
    ],
)
def test_modules_that_do_not_match_are_an_error(other, message):
    student = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=message):
        EmaTeacher(student, 60.0, module=other)
    with pytest.raises(ValueError, match=r"differ in names|has shape"):
        EmaTeacher(student, 60.0).follow(other)


def test_buffers_that_do_not_match_are_an_error():
    student, other = Point(), Point()
    student.register_buffer("table", torch.zeros(2))
    with pytest.raises(ValueError, match="differ in names: table"):
        EmaTeacher(student, 60.0, module=other)


def test_tied_weights_stay_tied_and_move_once():
    student = nn.ModuleList([Point(1.0), Point(1.0)])
    student[1].theta = student[0].theta
    teacher = EmaTeacher(student, 60.0)
    student[0].set(0.0)
    teacher.update(60.0)
    assert teacher.module[0].theta is teacher.module[1].theta
    assert teacher.module[0].theta[0].item() == pytest.approx(0.5)


# Cost.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_allocates_nothing(dtype):
    student = net().to(dtype)
    teacher = EmaTeacher(student, 60.0)
    places = [t.data_ptr() for t in [*teacher.module.parameters(), *teacher.module.buffers()]]
    teacher.update(S)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        teacher.update(S)
    assert [t.data_ptr() for t in [*teacher.module.parameters(), *teacher.module.buffers()]] == places
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages()) == 0


# State.


def roundtrip(state):
    """Through a file, read the way a checkpoint is read."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def equal(a, b):
    pairs = zip(a.module.state_dict().items(), b.module.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs) and a.audio == b.audio


def test_a_state_comes_back_bit_for_bit():
    student = net()
    teacher = EmaTeacher(student, 100.0)
    for seed in range(3):
        step(student, seed)
        teacher.update(37.1)
    restored = EmaTeacher(net(seed=9), 100.0)
    assert not equal(restored, teacher)
    restored.load_state_dict(roundtrip(teacher.state_dict()))
    assert equal(restored, teacher)
    assert restored.audio == pytest.approx(3 * 37.1)


@pytest.mark.parametrize("k", [0, 1, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_n_updates_equal_k_a_restart_and_the_rest(k, dtype):
    batches = [12.0, 3.5, 60.0, 0.1, 7.7, 33.3, 5.0]

    def go_on(student, teacher, numbers):
        for n in numbers:
            step_in(student, n)
            teacher.update(batches[n])

    def step_in(student, n):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(n)
            for p in student.parameters():
                p.add_(torch.randn(p.shape, generator=generator).to(dtype))

    whole_student = nn.Linear(4, 3, dtype=dtype)
    start = copy.deepcopy(whole_student.state_dict())
    whole = EmaTeacher(whole_student, 40.0)
    go_on(whole_student, whole, range(7))

    first_student = nn.Linear(4, 3, dtype=dtype)
    first_student.load_state_dict(start)
    first = EmaTeacher(first_student, 40.0)
    go_on(first_student, first, range(k))
    saved = roundtrip({"student": first_student.state_dict(), "teacher": first.state_dict()})

    second_student = nn.Linear(4, 3, dtype=dtype)
    second = EmaTeacher(second_student, 40.0)
    second_student.load_state_dict(saved["student"])
    second.load_state_dict(saved["teacher"])
    go_on(second_student, second, range(k, 7))
    assert equal(second, whole)


def test_a_loaded_state_keeps_the_half_life_of_the_config():
    teacher = EmaTeacher(Point(1.0), 100.0)
    longer = EmaTeacher(Point(2.0), 500.0)
    longer.load_state_dict(teacher.state_dict())
    assert longer.half_life == 500.0
    assert value(longer) == 1.0
    assert teacher.state_dict()["half_life"] == 100.0


def test_a_state_of_another_shape_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        EmaTeacher(Point(size=4), 1.0).load_state_dict(EmaTeacher(Point(size=3), 1.0).state_dict())


# The teacher's output.


def test_the_teacher_is_in_eval_mode_and_has_no_graph():
    student = net()
    student.train()
    teacher = EmaTeacher(student, 60.0)
    student.train()
    assert not any(m.training for m in teacher.module.modules())
    assert not any(p.requires_grad for p in teacher.module.parameters())
    x = torch.randn(6, 4, requires_grad=True)
    out = teacher(x)
    assert out.grad_fn is None
    assert not out.requires_grad
    assert torch.equal(out, teacher(x))


def test_the_teacher_hears_what_the_student_would_say_without_dropout():
    student = net()
    teacher = EmaTeacher(student, 60.0)
    x = torch.randn(6, 4)
    student.eval()
    assert torch.equal(teacher(x), student(x))


def test_a_loss_against_the_teachers_output_can_be_differentiated():
    """Distillation, as in BYOL: the output is a constant of the loss, and autograd saves it."""
    student = Point(1.0)
    teacher = EmaTeacher(student, 60.0)
    student.set(2.0)
    x = torch.ones(3)
    nn.functional.mse_loss(student(x), teacher(x)).backward()
    assert torch.allclose(student.theta.grad, torch.full((3,), 2.0 / 3.0))
