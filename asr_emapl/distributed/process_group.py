"""The processes of a run: a single process, or those started by torchrun."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt, Le
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.settings import PositiveSeconds

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_FOREVER_S = 365.0 * 86_400.0


@dataclass
class DeviceConfig:
    """The device of each process."""

    name: str = "auto"
    """auto (CUDA if there is a GPU), cpu, cuda or cuda:N."""
    max_seconds: PositiveSeconds = 60.0
    """Padded seconds of audio that fit in one forward and backward pass."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward passes."""
    threads: Annotated[int, Ge(1), Le(65536)] | None = None
    """CPU threads of each process; null: the default of torch."""
    sharding: Literal["none", "full"] = "none"
    """none: each process has a copy of the model (DDP); full: student, teacher, gradients and optimizer state
    are sharded, with one FSDP2 unit per module in the model's ModuleLists."""
    compile: Literal["none", "blocks"] = "none"
    """blocks: compile each module in the model's ModuleLists with torch.compile, which is faster on a GPU and
    takes minutes at the start; results differ by rounding."""
    recompute: Literal["none", "blocks"] = "none"
    """blocks: keep only the inputs of these modules for the backward pass, which computes the rest again: the
    same results with less memory, in a third more time."""
    timeout_seconds: Annotated[float, Gt(0.0), Le(1e6)] | None = 600.0
    """Abort the job if a process stalls it for this long; the error names the process. null: never."""


def choose_device(name: str) -> torch.device:
    """Return the device of a config or command; auto: CUDA if available, otherwise the CPU.

    Disables cuDNN's attention kernels (see `leave_out_cudnn_attention`).

    Raises:
        UserError: the name is invalid, or the device does not exist.
    """
    leave_out_cudnn_attention()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", name):
        raise UserError(f"device {name!r} is invalid; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name}: there are {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return device


def available_cpus() -> int:
    """CPUs that this process may use, if those of its host are shared equally by torchrun's processes."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def leave_out_cudnn_attention() -> None:
    """Disable cuDNN's kernels of `scaled_dot_product_attention` in this process.

    torch prefers them on Hopper GPUs. They build a plan for each new shape, which takes longer than a
    training step, and almost every batch of utterances has a new shape.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def rendezvous_store(prefix: str, timeout: timedelta) -> dist.Store:
    """Connect to the rendezvous store, with a prefix for keys.

    The prefix contains torchrun's restart count, because torch would otherwise connect to addresses of
    processes from before a restart (pytorch issue 135712). With several nodes, restart counts can differ, so
    the store must be new at each start (`TORCH_DISABLE_SHARE_RDZV_TCP_STORE`).
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if _is_one_node() else "0"
    return dist.PrefixStore(f"asr_emapl/{restarts}/{prefix}", store)


def _is_one_node() -> bool:
    """Whether a single torchrun has started all processes."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


@dataclass
class ProcessGroup:
    """This process's rank and device, and its collective operations."""

    rank: int
    size: int
    device: torch.device
    # Whether parameters are sharded over the processes.
    sharded: bool = False

    @staticmethod
    def join(config: DeviceConfig) -> ProcessGroup:
        """Join the process group if torchrun started this process: gloo for CPU tensors, NCCL for CUDA.

        Raises:
            UserError: the device does not exist.
        """
        device = choose_device(config.name)
        if config.threads:
            torch.set_num_threads(config.threads)
        if "WORLD_SIZE" not in os.environ:
            if device.index is not None:
                torch.cuda.set_device(device)  # torch.cuda.synchronize waits for the current device
            return ProcessGroup(0, 1, device)
        if device.type == "cuda":
            device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")  # UserError if there are too few GPUs
            torch.cuda.set_device(device)
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if rank == 0:
            _warn_of_restarts()
        # Longer than the heartbeat timeout, which names the stalled rank.
        seconds = 2.0 * config.timeout_seconds + 60.0 if config.timeout_seconds else _FOREVER_S
        timeout = timedelta(seconds=seconds)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = rendezvous_store("group", timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        return ProcessGroup(rank, size, device, sharded=config.sharding == "full" and size > 1)

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which writes the run's files."""
        return self.rank == 0

    # Collective operations: all processes call them at the same point.

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all processes, in float64, by gloo, which does not wait for the GPU."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def all_reduce_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """All-reduce (sum) each tensor in place."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def gather(self, value: T) -> list[T]:
        """The `value` of each process, in rank order, on all processes."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for all processes; without it, gloo sometimes aborts a process that leaves early."""
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def next_item(self, items: Iterator[T]) -> T:
        """The next of this process's items, once all processes have theirs.

        Raises:
            UserError: on all processes, if any process has an error, because they would wait for it.
        """
        found: list[T] = []
        failure = ""
        try:
            found.append(next(items))
        except UserError as error:
            if self.size == 1:
                raise
            failure = str(error)
        if self.all_reduce_sum([float(not found)])[0] > 0.0:
            failures = enumerate(self.gather(failure))
            raise UserError("; ".join(f"process {rank}: {text}" for rank, text in failures if text))
        return found[0]

    def forward_passes(self, wanted: int) -> int:
        """Minimum number of forward passes of this process if it needs `wanted` of them.

        DDP needs at least one pass on each process to average gradients. FSDP gathers parameters in each
        pass, so all processes need as many as the one with the most micro-batches.
        """
        if not self.sharded:
            return 1
        most = torch.tensor(max(wanted, 1))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    # Models.

    def to_device(self, model: nn.Module, *, bf16: bool = False) -> nn.Module:
        """Move the model, or this process's shard of it, to the device, in place."""
        if not self.sharded:
            return model.to(self.device)
        from asr_emapl.distributed.fsdp import shard  # DTensor is slow to import

        return shard(model, self.device, self.size, bf16=bf16)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """Wrap a model from `to_device`, so that its backward pass averages gradients over the processes.

        Does not use DDP's static graph, which fails if the first pass is in `no_sync` (torch 2.14).
        """
        if self.size == 1 or self.sharded:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def no_sync(self, student: nn.Module) -> AbstractContextManager[None]:
        """Context in which backward passes do not average gradients; the next pass outside of it does.

        FSDP averages in each pass, because unsharded gradients would take the memory that sharding saves.
        """
        if isinstance(student, nn.parallel.DistributedDataParallel):
            return student.no_sync()
        return contextlib.nullcontext()

    def to_list(self, tensor: torch.Tensor) -> list[Any]:
        """The tensor's values. Waits for the device, which the heartbeat treats as waiting for processes."""
        return tensor.tolist()

    def close(self) -> None:
        """Destroy the process group, which also exists for a single process under torchrun."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _warn_of_restarts() -> None:
    """Warn if torchrun's restarts would fail: pytorch issue 135712, with several nodes."""
    is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not _is_one_node()
    if is_shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        _logger.warning(
            "restarts will fail to connect; start torchrun with --rdzv-backend c10d --rdzv-endpoint "
            "HOST:PORT instead of --master-addr and --master-port, and with "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
        )
