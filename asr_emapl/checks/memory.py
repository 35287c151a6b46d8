"""Memory of a forward and backward pass: counted by allocation, also for a GPU that is not there.

Axes: B utterances, T frames, V tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asr_emapl.torch_private import TorchDispatchMode, backward_in_modes, storage_key, tree_leaves

_BLOCK_BYTES = 512  # torch's allocator for GPUs rounds up to this


class AllocationCount(TorchDispatchMode):
    """Context that counts the bytes of the tensors that are created in it and still alive.

    Not counted: memory that a kernel allocates and frees itself.

    Attributes:
        live, peak: bytes now, and at most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._bytes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._add(tensor.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage_key(storage)
        if key in self._bytes:
            return
        self._bytes[key] = -(-storage.nbytes() // _BLOCK_BYTES) * _BLOCK_BYTES
        self.live += self._bytes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._bytes.pop(key)


@contextmanager
def counted_peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Context with a function that returns the most bytes in use in it, without those in use before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    else:
        with AllocationCount() as count:
            yield lambda: count.peak


def bytes_on_gpu(model: nn.Module, shape: Sequence[int], tokens: int, passes: int, *, bf16: bool) -> int:
    """Most bytes of forward and backward passes with the CTC loss on a GPU, with the gradients.

    Runs on torch's meta device, which has shapes but no data, so that it needs neither a GPU nor memory.

    Args:
        model: in training mode; is moved to the meta device.
        shape: of the model's input, [B, T, F] or [B, N].
        tokens: tokens of each utterance.
        passes: 2 if gradients are accumulated, so that those of the first pass are in memory.
        bf16: whether the forward pass is under autocast to bfloat16.

    Raises:
        RuntimeError, NotImplementedError: the model reads values of tensors.
    """
    model.to("meta")
    with AllocationCount() as count:
        inputs = torch.empty(tuple(shape), device="meta")
        lengths_B = torch.empty(shape[0], dtype=torch.long, device="meta")
        for _ in range(passes):
            with _KernelsOfGpus(bf16):
                log_probs_BTV, _, *between = model(inputs, lengths_B)
            outputs = [log_probs_BTV, *(between[0] if between else [])]
            loss = sum(_Ctc.apply(one_BTV.float().transpose(0, 1), tokens) for one_BTV in outputs)
            del log_probs_BTV, between, outputs
            with _KernelsOfGpus(bf16, caches=False):  # layers may be recomputed
                backward_in_modes(loss)
            del loss
    return count.peak


class _KernelsOfGpus(TorchFunctionMode):
    """Replaces what has another implementation on a GPU, and casts as its autocast does."""

    def __init__(self, bf16: bool, *, caches: bool = True) -> None:
        super().__init__()
        self.bf16, self.caches = bf16, caches
        self._casts: dict[Tensor, Tensor] = {}  # of parameters, as in torch's cache

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and len(args) >= 3:
            return _Attention.apply(*(self._lowered(x) for x in args[:3]))
        if function is F.dropout:
            return _Dropout.apply(args[0])
        if function is Tensor.__bool__:
            return False  # the usual question is whether a mask is empty, and then less memory is needed
        if function in _LOWERED:
            args = [self._lowered(x) for x in args]
            kwargs = {name: self._lowered(x) for name, x in kwargs.items()}
        elif function in _RAISED:
            args = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
        return function(*args, **kwargs)

    def _lowered(self, x: Any) -> Any:
        if not self.bf16 or not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not self.caches or not isinstance(x, nn.Parameter):
            return x.to(torch.bfloat16)
        if x not in self._casts:
            self._casts[x] = x.to(torch.bfloat16)
        return self._casts[x]


# Functions that autocast runs in bfloat16 and in float32 on a GPU ("Autocast Op Reference" of torch).
_LOWERED = {
    F.linear,
    F.conv1d,
    F.conv2d,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    torch.addmm,
    torch.mm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
}
_RAISED = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    F.log_softmax,
    torch.softmax,
    torch.log_softmax,
    Tensor.softmax,
    Tensor.log_softmax,
}


class _Attention(torch.autograd.Function):
    """Memory of the fused kernels: inputs, output and one number per query, but no weights."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, found, query.new_empty(query.shape[:-1]).float())
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class _Dropout(torch.autograd.Function):
    """Keeps a byte per element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(torch.empty_like(x, dtype=torch.bool))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.empty_like(gradients[0])


class _Ctc(torch.autograd.Function):
    """Keeps the forward variables, of each frame and each of 2 S + 1 states; then the backward ones."""

    @staticmethod
    def forward(ctx: Any, log_probs_TBV: Tensor, tokens: int) -> Tensor:
        frames, batch, _ = log_probs_TBV.shape
        ctx.save_for_backward(log_probs_TBV, log_probs_TBV.new_empty(batch, frames, 2 * tokens + 1))
        return log_probs_TBV.new_empty(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        log_probs_TBV, alpha = ctx.saved_tensors
        beta = torch.empty_like(alpha)
        found = torch.empty_like(log_probs_TBV)
        del beta
        return found, None
