"""Weights divided over the processes (FSDP2): a model cut up, checkpoints made whole and cut up again.

A checkpoint is one file of whole tensors, so that any number of processes, a single one and `asr-emapl
decode` read the same. Tensors are put together one by one on their way to the first process's main memory:
neither the weights nor the optimizer's state have to fit one device. torch.distributed.checkpoint would need
less of that memory, of which a model for speech takes little; but it reads its index by `pickle.load`, which
runs whatever a file from elsewhere says, where this one is read with `weights_only=True`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, device: torch.device, world_size: int, *, bf16: bool = False) -> nn.Module:
    """Divide the model's parameters over all processes, in place; each process keeps its part on `device`.

    Args:
        bf16: exchange weights in bfloat16, in which blocks then compute; gradients are summed in fp32, and
            the parameters that the optimizer sees are fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # slow to import

    mesh = init_device_mesh(device.type, (world_size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for module in (*_blocks(model), model):
        # Also the outermost, which FSDP2 would leave whole until a backward pass: a teacher has none, and
        # would go on with old weights.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    return model


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost members of a model's ModuleLists: what is gathered and freed as one."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _blocks(child)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may have a part; then every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(state: Any, *, keep: bool) -> Any:
    """A state dict with whole tensors on the CPU for sharded ones; every process has to call it.

    Args:
        keep: whether this process wants it; else sharded tensors become None.
    """
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if keep else None
    if isinstance(state, dict):
        return {key: gather(value, keep=keep) for key, value in state.items()}
    return state


def divide(state: Any, like: Any) -> Any:
    """The inverse of `gather`: this process's part of each tensor that is sharded in `like`.

    Raises:
        RuntimeError: a tensor's shape is not that of `like`.
    """
    if isinstance(like, DTensor):
        if state.shape != like.shape:
            raise RuntimeError(f"size mismatch: {tuple(state.shape)} for {tuple(like.shape)}")
        part = distribute_tensor(state, like.device_mesh, like.placements, src_data_rank=None)
        # Into memory of its own: what torch cut out still holds on to the whole.
        return torch.empty_like(like).copy_(part)
    if isinstance(like, dict):
        return {key: divide(value, like.get(key)) for key, value in state.items()}
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take the whole state that `gather` made of an optimizer's, sharded as its parameters are.

    The hyper-parameters stay those of `optimizer`.

    Raises:
        ValueError: the state is of other parameters, or not what this optimizer keeps.
    """
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    kept = _kept_names(optimizer)
    moments = {}
    for index, values in state["state"].items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimizer state has a parameter {index}, the model has {len(parameters)}")
        parameter = parameters[index]
        if values and not kept <= values.keys():
            absent = ", ".join(sorted(kept - values.keys()))
            raise ValueError(f"the optimizer state of parameter {index} lacks {absent}")
        if any(isinstance(v, Tensor) and v.shape not in ((), parameter.shape) for v in values.values()):
            raise ValueError(f"the optimizer state of parameter {index} has another shape than the parameter")
        moments[index] = {
            name: divide(value, parameter) if _is_like(value, parameter) else value
            for name, value in values.items()
        }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _kept_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """What an optimizer with these hyper-parameters keeps for each parameter once it has stepped."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    group = optimizer.param_groups[0] | {"params": [parameter], "fused": None, "foreach": None}
    other = type(optimizer)([group])  # type: ignore[call-arg]
    other.step()
    return set(other.state[parameter])


def _is_like(value: Any, parameter: Tensor) -> bool:
    """Whether an optimizer's value goes with each weight, as moments do and counts of steps do not."""
    return isinstance(value, Tensor) and value.shape == parameter.shape
