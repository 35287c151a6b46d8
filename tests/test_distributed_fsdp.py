"""Sharded models in a process group of one equal whole ones; states are gathered and sharded again."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from asr_emapl.distributed.fsdp import full_tensor, gather_state, load_optimizer, shard, shard_state
from asr_emapl.ema import EmaTeacher
from asr_emapl.hyperparameters import OptimizerConfig, build_optimizer
from asr_emapl.models.transformer import TransformerCtc

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Module:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "frontend_dropout": 0.0, "max_shift_seconds": 0.0, "layerdrop": 0.5}
    return TransformerCtc(5, input_size=6, dim=8, heads=2, layers=4, norm="pre", **options)


def sharded() -> nn.Module:
    return shard(model(), CPU, 1)


def inputs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 30, 6, generator=generator), torch.tensor([30, 21])


def train(student: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[torch.Tensor]:
    """Some steps with dropped layers; the gradient's norm in each."""
    norms = []
    for step in steps:
        student.begin_step(step)
        optimizer.zero_grad()
        student(*inputs(step))[0].square().mean().backward()
        norms.append(full_tensor(torch.nn.utils.clip_grad_norm_(student.parameters(), 0.1)))
        optimizer.step()
    return norms


def adam(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(student.parameters(), lr=1e-2, fused=True)


def test_layers_are_sharded_one_by_one():
    student = sharded()
    assert all(isinstance(p, DTensor) for p in student.parameters())
    units = [name for name, module in student.named_modules() if hasattr(module, "unshard")]
    assert units == ["", "layers.0", "layers.1", "layers.2", "layers.3"]


def test_steps_with_dropped_layers_are_those_of_the_whole_model():
    one, other = model(), sharded()
    first, second = adam(one), adam(other)
    torch.testing.assert_close(train(one, first, range(5)), train(other, second, range(5)))
    torch.testing.assert_close(one.state_dict(), gather_state(other.state_dict(), keep=True))


@pytest.mark.parametrize("name", ["adam", "sgd", "nadam", "radam", "adagrad"])
def test_every_optimizer_steps_on_shards(name):
    one, other = model(), sharded()
    config = OptimizerConfig(name=name, lr=1e-2)
    group = config.reference().group
    first, second = (build_optimizer(model, config.name, group) for model in (one, other))
    torch.testing.assert_close(train(one, first, range(3)), train(other, second, range(3)))
    # A gradient that is nought but for rounding is made a step by what divides by its size: of lr at most.
    torch.testing.assert_close(
        one.state_dict(), gather_state(other.state_dict(), keep=True), rtol=0.0, atol=1e-4
    )


def test_the_teacher_averages_its_part_and_forgets_what_it_gathered_before():
    """A forward pass without a backward pass must not leave old weights behind."""
    one, other = model(), sharded()
    teachers = EmaTeacher(one, 10.0), EmaTeacher(other, 10.0, sharded())
    first, second = adam(one), adam(other)
    for step in range(3):
        outputs = [teacher(*inputs(9))[0] for teacher in teachers]
        torch.testing.assert_close(*outputs)
        train(one, first, range(step, step + 1))
        train(other, second, range(step, step + 1))
        for teacher in teachers:
            teacher.update(5.0)
    states = [gather_state(teacher.state_dict(), keep=True) for teacher in teachers]
    torch.testing.assert_close(states[0]["module"], states[1]["module"])
    assert not torch.equal(states[0]["module"]["output.weight"], model().state_dict()["output.weight"])


def test_what_was_gathered_is_plain_and_goes_on_whole_or_sharded():
    student = sharded()
    optimizer = adam(student)
    train(student, optimizer, range(3))
    file = io.BytesIO()
    torch.save(
        gather_state({"student": student.state_dict(), "optimizer": optimizer.state_dict()}, keep=True), file
    )
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert {type(w) for w in state["student"].values()} == {torch.Tensor}
    norms = []
    for continued in (model(), sharded()):
        continued.load_state_dict(shard_state(state["student"], continued.state_dict()))
        its_optimizer = adam(continued)
        load_optimizer(its_optimizer, copy.deepcopy(state["optimizer"]))
        norms.append(train(continued, its_optimizer, range(3, 6)))
    expected = train(student, optimizer, range(3, 6))
    torch.testing.assert_close(norms[0], expected)
    torch.testing.assert_close(norms[1], expected)


def test_who_does_not_keep_takes_part_and_has_nothing():
    state = gather_state({"step": 3, "weights": sharded().state_dict()}, keep=False)
    assert state["step"] == 3
    assert set(state["weights"].values()) == {None}


def test_a_part_lies_in_memory_of_its_own():
    like = sharded().state_dict()["output.weight"]
    part = shard_state(torch.ones(like.shape), like)
    assert part.to_local().untyped_storage().nbytes() == 4 * part.to_local().numel()


def test_another_shape_is_an_error():
    like = sharded().state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        shard_state({"output.bias": torch.ones(7)}, like)


def test_a_teacher_sharded_otherwise_is_an_error(monkeypatch):
    """What only several processes can have: parts of unequal size."""
    monkeypatch.setattr("asr_emapl.ema._local", lambda t: t.detach()[:1] if isinstance(t, DTensor) else t)
    with pytest.raises(ValueError, match="not sharded like"):
        EmaTeacher(sharded(), 10.0, model())


def test_bf16_travels_and_gradients_and_weights_are_fp32():
    student = shard(model(), CPU, 1, bf16=True)
    seen = []
    student.layers[0].qkv.register_forward_pre_hook(lambda m, args: seen.append(m.weight.dtype))
    student.eval()
    student(*inputs(0))[0].square().mean().backward()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in student.parameters()} == {torch.float32}
