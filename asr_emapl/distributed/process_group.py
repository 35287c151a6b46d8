"""The processes of a run: one alone, or as many as torchrun started. torch.distributed does the work."""

from __future__ import annotations

import contextlib
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
    """none: each process holds the whole model (DDP); full: student, teacher, gradients and optimizer state
    are sharded by the members of the model's ModuleLists (FSDP2)."""
    timeout_seconds: Annotated[float, Gt(0.0), Le(1e6)] | None = 600.0
    """Abort the job, naming the process, if one process holds up the others for this long; null: never."""


def choose_device(name: str) -> torch.device:
    """The device a config or a command names; auto: CUDA where there is one, else the CPU.

    Raises:
        UserError: it is not there, or not a device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and name != "cuda" and not re.fullmatch(r"cuda:\d{1,4}", name):
        raise UserError(f"device {name!r} is none of auto, cpu, cuda, cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name}: there are {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return device


def meeting(name: str, timeout: timedelta) -> dist.Store:
    """A connection to the key-value store where the processes meet; keys of other names are not seen.

    Nor are those of processes that torchrun started before: their addresses are those of nobody, and torch
    would try to connect to them (pytorch issue 135712). Over several nodes each torchrun has a count of its
    own, so that it takes a store that is new at each start (`TORCH_DISABLE_SHARE_RDZV_TCP_STORE`).
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if _on_one_node() else "0"
    return dist.PrefixStore(f"asr_emapl/{start}/{name}", store)


def _on_one_node() -> bool:
    """Whether one torchrun has started all processes."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]


@dataclass
class ProcessGroup:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device
    # Whether models are divided over the processes.
    sharded: bool = False

    @staticmethod
    def join(config: DeviceConfig) -> ProcessGroup:
        """Join torchrun's processes if it started this one: gloo, and NCCL for what lies on GPUs.

        Raises:
            UserError: the device does not exist.
        """
        device = choose_device(config.name)
        if config.threads:
            torch.set_num_threads(config.threads)
        if "WORLD_SIZE" not in os.environ:
            if device.index is not None:
                torch.cuda.set_device(device)  # what waits for "the GPU" waits for the current one
            return ProcessGroup(0, 1, device)
        if device.type == "cuda":
            device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")  # more processes than GPUs: said here
            torch.cuda.set_device(device)
        shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not _on_one_node()
        if shared and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) and os.environ["RANK"] == "0":
            # pytorch issue 135712, where `meeting` does not help.
            print(
                "warning: restarts will fail to connect; start torchrun with --rdzv-backend c10d "
                "--rdzv-endpoint HOST:PORT in place of --master-addr and --master-port, and with "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment",
                flush=True,
            )
        # Later than the watch, which can say who is waited for; without one given, torch takes minutes.
        seconds = 2.0 * config.timeout_seconds + 60.0 if config.timeout_seconds else _FOREVER_S
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=seconds)
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = meeting("group", timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        return ProcessGroup(rank, size, device, sharded=config.sharding == "full" and size > 1)

    @property
    def first(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all processes, in float64.

        What the hosts know they tell each other by gloo: by NCCL they would wait for the GPU's queue.
        """
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def read(self, tensor: torch.Tensor) -> list[Any]:
        """A tensor's values, once the device has come so far; a GPU may wait for other processes before."""
        return tensor.tolist()

    def all_reduce_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes its sum over all processes, in place."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def gather(self, value: T) -> list[T]:
        """Everybody's `value`, in rank order, on every process."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def passes(self, wanted: int) -> int:
        """How many forward passes this process has to make at least if it wants so many; one is needed.

        DDP's exchange of gradients needs one of every process. Sharded weights are gathered in each pass, for
        which all have to make as many as the one that has most to do.
        """
        if not self.sharded:
            return 1
        most = torch.tensor(max(wanted, 1))
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def place(self, model: nn.Module, *, bf16: bool = False) -> nn.Module:
        """The model on this process's device, or its part of it; in place."""
        if not self.sharded:
            return model.to(self.device)
        from asr_emapl.distributed.fsdp import shard  # decoding goes without DTensor's slow imports

        return shard(model, self.device, self.size, bf16=bf16)

    def next(self, items: Iterator[T]) -> T:
        """The next of this process's items, once every process has its own.

        Raises:
            UserError: a process's own, raised on all of them: the others would wait for it in vain.
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

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module, placed before, whose backward pass averages gradients over processes.

        Without DDP's static graph: the first pass of one may not be unsynced (torch 2.14 fails an assertion),
        as that of a step's first micro-batch is.
        """
        if self.size == 1 or self.sharded:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def unsynced(self, student: nn.Module) -> AbstractContextManager[None]:
        """Within it a backward pass does not exchange gradients if the passes after it can do so for it.

        Sharded ones are exchanged in each pass: kept whole, they would take the memory that sharding frees.
        """
        if isinstance(student, nn.parallel.DistributedDataParallel):
            return student.no_sync()
        return contextlib.nullcontext()

    def barrier(self) -> None:
        """Wait until all processes have come this far, and until nothing is on its way between them.

        With gloo, a process that leaves right after another collective was aborted now and then.
        """
        if self.size > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def close(self) -> None:
        """Part from the other processes."""
        if dist.is_initialized():  # by one alone, too, that torchrun started
            dist.destroy_process_group()
