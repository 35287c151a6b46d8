"""Private APIs of torch: these tests fail when torch changes one, and no other module uses one."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from asr_emapl import torch_private
from asr_emapl.torch_private import (
    foreach_copy_,
    foreach_lerp_,
    own_entries,
    queue_backward_callback,
    shut_down_workers,
    uncompiled,
)

PACKAGE = Path(torch_private.__file__).parent
PRIVATE = re.compile(r"_execution_engine|_shutdown_workers|torch\._\w+|_orig_mod|\._(parameters|modules)\b")


def test_a_callback_runs_at_the_end_of_the_backward_pass():
    called = []
    weight = torch.ones(2, requires_grad=True)
    loss = (2.0 * weight).sum()
    loss.register_hook(
        lambda gradient: queue_backward_callback(lambda: called.append(weight.grad is not None))
    )
    loss.backward()
    assert called == [True]


def test_workers_end():
    iterator = iter(DataLoader(range(100), num_workers=1))
    next(iterator)
    shut_down_workers(iterator)
    assert not any(worker.is_alive() for worker in iterator._workers)


def test_foreach():
    targets, sources = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), 2.0 * torch.ones(3)]
    foreach_lerp_(targets, sources, 0.5)
    assert [t[0].item() for t in targets] == [0.5, 1.0]
    foreach_copy_(targets, sources)
    assert [t[0].item() for t in targets] == [1.0, 2.0]


def test_a_module_and_what_it_owns():
    module = nn.Linear(2, 2)
    assert uncompiled(torch.compile(module)) is module
    assert uncompiled(module) is module
    parameters, modules = own_entries(nn.Sequential(module))
    assert (dict(parameters), modules) == ({}, {"0": module})
    assert own_entries(module)[0]["weight"] is module.weight


def test_no_other_module_uses_private_apis():
    users = {p.name for p in PACKAGE.rglob("*.py") if PRIVATE.search(p.read_text())}
    assert users == {"torch_private.py"}


def test_tensors_with_the_same_memory_have_one_key():
    x, y = torch.zeros(2, 2), torch.zeros(2, 2)
    keys = [torch_private.storage_key(t.untyped_storage()) for t in (x, x.T, y)]
    assert keys[0] == keys[1] != keys[2]


def test_a_backward_pass_leaves_modes_on():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    x = torch.tensor([2.0], requires_grad=True)
    square = checkpoint(torch.square, x, use_reentrant=False)
    with Mode():
        torch_private.backward_in_modes((square * square).sum())
    assert x.grad == 32.0
    assert torch.square in seen
