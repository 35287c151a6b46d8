"""The private APIs of torch that the package uses; its tests fail if torch changes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves


def queue_backward_callback(callback: Callable[[], None]) -> None:
    """Run `callback` at the end of the current backward pass; callbacks run in the order of the calls."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def backward_in_modes(loss: Tensor) -> None:
    """`loss.backward()` that leaves a TorchFunctionMode on, for layers that are computed again in it."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def storage_key(storage: torch.UntypedStorage) -> int:
    """A number that all tensors with this storage have in common while it is alive."""
    return int(storage._cdata)


def shut_down_workers(iterator: Any) -> None:
    """End the worker processes of a DataLoader's iterator."""
    iterator._shutdown_workers()


def foreach_copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, with few kernel launches."""
    torch._foreach_copy_(targets, sources)


def foreach_lerp_(targets: list[Tensor], sources: list[Tensor], weight: float) -> None:
    """Move each target by `weight` towards its source, with few kernel launches."""
    torch._foreach_lerp_(targets, sources, weight)


def uncompiled(module: nn.Module) -> nn.Module:
    """The module inside a torch.compile wrapper; other modules are returned unchanged."""
    return getattr(module, "_orig_mod", module)


def own_entries(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """A module's own dicts of parameters and of submodules, by name."""
    return module._parameters, module._modules
