"""Shard parameters over the processes (FSDP2), and gather and reshard their states.

A checkpoint is one file of full tensors, which any number of processes and `asr-emapl decode` can read.
Tensors are gathered one by one into the main memory of process 0, so neither the model nor the optimizer
state has to fit one device. torch.distributed.checkpoint needs less memory, but reads its index with
`pickle.load`, which can run code from the file; our files are read with `weights_only=True`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from asr_emapl.models.blocks import blocks


def shard(model: nn.Module, device: torch.device, world_size: int, *, bf16: bool = False) -> nn.Module:
    """Shard the model's parameters over all processes, in place.

    Args:
        device: device of this process.
        bf16: gather parameters and compute in bfloat16; parameters and reduced gradients are fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # slow to import

    mesh = init_device_mesh(device.type, (world_size,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    # Blocks are gathered and freed one by one.
    for module in (*blocks(model), model):
        # Reshard the root module as well. FSDP2 would keep it gathered until a backward pass, which a teacher
        # does not have, so it would use old parameters.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    return model


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be sharded; all processes call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_state(state: Any, *, keep: bool) -> Any:
    """Gather the sharded tensors of a state dict on the CPU; all processes call it.

    Args:
        keep: whether this process keeps the tensors; otherwise they are None.
    """
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if keep else None
    if isinstance(state, dict):
        return {key: gather_state(value, keep=keep) for key, value in state.items()}
    return state


def shard_state(state: Any, like: Any) -> Any:
    """Inverse of `gather_state`: this process's shard of each tensor that is sharded in `like`.

    Raises:
        RuntimeError: a tensor's shape differs from that in `like`.
    """
    if isinstance(like, DTensor):
        if state.shape != like.shape:
            raise RuntimeError(f"size mismatch: {tuple(state.shape)} for {tuple(like.shape)}")
        part = distribute_tensor(state, like.device_mesh, like.placements, src_data_rank=None)
        # Copy, because torch's shard keeps the memory of the full tensor alive.
        return torch.empty_like(like).copy_(part)
    if isinstance(like, dict):
        return {key: shard_state(value, like.get(key)) for key, value in state.items()}
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's gathered state, sharded like its parameters. Hyper-parameters do not change.

    Raises:
        ValueError: the state belongs to other parameters or to another optimizer.
    """
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    required = _state_names(optimizer)
    moments = {}
    for index, values in state["state"].items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimizer state has a parameter {index}, the model has {len(parameters)}")
        parameter = parameters[index]
        if values and not required <= values.keys():
            missing = ", ".join(sorted(required - values.keys()))
            raise ValueError(f"the optimizer state of parameter {index} lacks {missing}")
        if any(isinstance(v, Tensor) and v.shape not in ((), parameter.shape) for v in values.values()):
            raise ValueError(f"the optimizer state of parameter {index} has another shape than the parameter")
        # Moments have the parameter's shape and are sharded like it; step counts are not.
        moments[index] = {
            name: shard_state(v, parameter) if isinstance(v, Tensor) and v.shape == parameter.shape else v
            for name, v in values.items()
        }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _state_names(optimizer: torch.optim.Optimizer) -> set[str]:
    """Names of the per-parameter state of an optimizer with these hyper-parameters."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    group = optimizer.param_groups[0] | {"params": [parameter], "fused": None, "foreach": None}
    other = type(optimizer)([group])  # type: ignore[call-arg]
    other.step()
    return set(other.state[parameter])
