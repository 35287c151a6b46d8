"""A teacher of wrapped students: compiled, data-parallel, parametrized."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from support.students import Point, net, step, value
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from asr_emapl.ema import EmaTeacher, unwrap


def test_a_student_compiled_in_place():
    compiled, plain = net(), net()
    compiled.compile(backend="eager")
    teachers = [EmaTeacher(student, 60.0) for student in (compiled, plain)]
    for student, teacher in zip((compiled, plain), teachers, strict=True):
        step(student, 0)
        teacher.update(60.0)
    for a, b in zip(*(t.module.parameters() for t in teachers), strict=True):
        assert torch.equal(a, b)
    x = torch.randn(2, 4)
    assert torch.allclose(teachers[0](x), teachers[1](x), atol=1e-6)


def test_a_student_inside_a_compiled_wrapper():
    student = Point(1.0)
    wrapper = torch.compile(student, backend="eager")
    assert unwrap(wrapper) is student
    teacher = EmaTeacher(wrapper, 60.0)
    wrapper(torch.ones(3))
    assert list(teacher.state_dict()["module"]) == ["theta"]
    student.set(3.0)
    teacher.update(60.0)
    assert value(teacher) == pytest.approx(2.0)


@pytest.fixture
def alone():
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_unwrap_sees_through_ddp_and_compile_in_either_order():
    bare = Point(1.0)
    assert unwrap(bare) is bare
    inner = nn.parallel.DistributedDataParallel(torch.compile(bare, backend="eager"))
    outer = torch.compile(nn.parallel.DistributedDataParallel(bare), backend="eager")
    assert unwrap(inner) is bare
    assert unwrap(outer) is bare


@pytest.mark.usefixtures("alone")
def test_a_student_inside_ddp_moves_its_teacher():
    student = nn.parallel.DistributedDataParallel(Point(1.0), gradient_as_bucket_view=True)
    teacher = EmaTeacher(student, 60.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    student(torch.ones(3)).sum().backward()
    optimizer.step()
    teacher.update(60.0)
    assert list(teacher.state_dict()["module"]) == ["theta"]
    assert value(teacher) == pytest.approx(0.5)


def test_an_attribute_called_module_is_no_wrapper():
    student = nn.Module()
    student.module = Point()
    assert unwrap(student) is student


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weight_norm_through_a_module_handed_over():
    def normed(seed):
        torch.manual_seed(seed)
        return weight_norm(nn.Linear(4, 3))

    student, module = normed(0), normed(1)
    x = torch.randn(5, 4)
    student(x)
    teacher = EmaTeacher(student, 60.0, module=module)
    assert teacher.module is module
    assert torch.equal(teacher(x), student(x))
    old = student.weight_v.detach().clone()
    with torch.no_grad():
        student.weight_v.add_(1.0)
        student.weight_g.mul_(3.0)
    teacher.update(60.0)
    assert torch.allclose(teacher.module.weight_v, old + 0.5)
    # The product of the averaged factors, which is what the module computes from them.
    v, g = teacher.module.weight_v, teacher.module.weight_g
    weight = g * v / v.norm(dim=1, keepdim=True)
    assert torch.allclose(teacher(x), x @ weight.T + teacher.module.bias, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_student_that_cannot_be_copied_asks_for_a_module():
    with pytest.raises(ValueError, match=r"cannot be copied .*weight_norm.* module="):
        EmaTeacher(weight_norm(nn.Linear(4, 3)), 60.0)


def test_weight_norm_as_a_parametrisation_needs_no_help():
    student = parametrizations.weight_norm(nn.Linear(4, 3))
    x = torch.randn(5, 4)
    student(x)
    teacher = EmaTeacher(student, 60.0)
    with torch.no_grad():
        student.parametrizations.weight.original0.mul_(3.0)
    teacher.update(60.0)
    assert torch.allclose(teacher.module.weight, 2.0 / 3.0 * student.weight, atol=1e-6)
