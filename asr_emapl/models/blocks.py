"""The repeated blocks of a model, such as transformer layers: compiled, or recomputed backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_MOST_GRAPHS = 64  # of a block; torch's default of 8 is exceeded by changes of dropout and of training mode


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in the model's outermost ModuleLists."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from blocks(child)


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each block with `torch.compile`, in place, for any batch size and length.

    Blocks of one class share their code, so that compiling takes as long for 36 layers as for one. Names of
    parameters do not change.
    """
    for block in blocks(model):
        block.compile(dynamic=True, backend=backend, recompile_limit=_MOST_GRAPHS)


def recompute_blocks(model: nn.Module) -> None:
    """Keep only the input of each block for the backward pass, which computes the rest again, in place.

    Random numbers are the same in both computations, so results do not change.
    """
    for block in blocks(model):
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
