"""EMA update of all weights on a GPU in one launch of a Triton kernel.

torch's multi-tensor lerp needs a dozen launches for a few hundred million weights, and does not support a
half-precision student with an fp32 teacher. Here the addresses of all tensors are in a table on the GPU, in
which each block looks up its part of a tensor. Importing this module requires Triton, which is part of
torch's CUDA builds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _lerp(teachers, students, sizes, owners, starts, weight, STUDENT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    block = tl.program_id(0)
    owner = tl.load(owners + block)
    places = tl.load(starts + block) + tl.arange(0, BLOCK)
    inside = places < tl.load(sizes + owner)
    # Alignment allows loads of 16 bytes.
    teacher = tl.multiple_of(tl.load(teachers + owner).to(tl.pointer_type(tl.float32)), 16)
    student = tl.multiple_of(tl.load(students + owner).to(tl.pointer_type(STUDENT)), 16)
    z = tl.load(teacher + places, mask=inside)
    theta = tl.load(student + places, mask=inside).to(tl.float32)
    tl.store(teacher + places, z + weight * (theta - z), mask=inside)


class FusedAverage:
    """z <- z + weight (theta - z) for all pairs of tensors, in one kernel launch.

    Args:
        teachers: z, fp32.
        students: theta, all fp32, bf16 or fp16, with the memory layout of z.
    """

    def __init__(self, teachers: Sequence[Tensor], students: Sequence[Tensor]) -> None:
        self._tensors = [*teachers, *students]
        self._addresses: list[int] = []
        self._device = teachers[0].device
        self._student = _DTYPES[students[0].dtype]
        sizes = [t.numel() for t in teachers]
        owners = [i for i, n in enumerate(sizes) for _ in range(0, n, _BLOCK)]
        starts = [start for n in sizes for start in range(0, n, _BLOCK)]
        self._sizes, self._owners, self._starts = (self._table(values) for values in (sizes, owners, starts))

    def __call__(self, weight: float) -> None:
        """Update all z with this weight."""
        # Addresses change if a model is moved, or loaded with assign=True.
        addresses = [t.data_ptr() for t in self._tensors]
        if addresses != self._addresses:
            self._addresses, half = addresses, len(addresses) // 2
            self._teachers, self._students = self._table(addresses[:half]), self._table(addresses[half:])
        tables = (self._teachers, self._students, self._sizes, self._owners, self._starts)
        with torch.cuda.device(self._device):
            _lerp[(len(self._owners),)](*tables, weight, STUDENT=self._student, BLOCK=_BLOCK)

    def _table(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def fused_average(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> FusedAverage | None:
    """Fused update of all pairs; None unless they are plain, aligned tensors of equal layout on one GPU."""
    # Shards of a tensor with few rows can be empty.
    teachers, students = [z for z in teachers if z.numel()], [s for s in students if s.numel()]
    if not teachers or teachers[0].device.type != "cuda" or students[0].dtype not in _DTYPES:
        return None
    is_fusible = all(
        # Subclasses (DTensor, quantised weights) are not defined by the memory at their address alone.
        type(s.data) is Tensor
        and type(z.data) is Tensor
        and s.dtype == students[0].dtype
        and s.device == z.device == teachers[0].device
        and s.stride() == z.stride()
        and torch.ops.aten.is_non_overlapping_and_dense(z)
        and s.data_ptr() % 16 == z.data_ptr() % 16 == 0
        for z, s in zip(teachers, students, strict=True)
    )
    return FusedAverage(teachers, students) if is_fusible else None
