"""The average of all weights on a GPU in one kernel: three streams of memory and nothing else.

torch's multi-tensor lerp takes a dozen launches for a few hundred million weights, and cannot read a half
precision student into an fp32 teacher. Here a table of addresses lies on the GPU, made once; each block of
the one launch looks up which piece of which tensor is its own. Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_HALVES = (torch.bfloat16, torch.float16)


@triton.jit
def _lerp(teachers, students, sizes, owners, starts, weight, STUDENT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    block = tl.program_id(0)
    owner = tl.load(owners + block)
    places = tl.load(starts + block) + tl.arange(0, BLOCK)
    inside = places < tl.load(sizes + owner)
    # Aligned addresses are read sixteen bytes at a time.
    teacher = tl.multiple_of(tl.load(teachers + owner).to(tl.pointer_type(tl.float32)), 16)
    student = tl.multiple_of(tl.load(students + owner).to(tl.pointer_type(STUDENT)), 16)
    z = tl.load(teacher + places, mask=inside)
    theta = tl.load(student + places, mask=inside).to(tl.float32)
    tl.store(teacher + places, z + weight * (theta - z), mask=inside)


class FusedAverage:
    """z <- z + weight (theta - z) over all pairs of tensors, in one launch.

    Args:
        teachers: z, fp32.
        students: theta, all fp32, bf16 or fp16, laid out in memory as z is.
    """

    def __init__(self, teachers: Sequence[Tensor], students: Sequence[Tensor]) -> None:
        self._tensors = [*teachers, *students]
        self._addresses: list[int] = []
        self._device = teachers[0].device
        self._student = {
            torch.float32: tl.float32,
            torch.bfloat16: tl.bfloat16,
            torch.float16: tl.float16,
        }[students[0].dtype]
        sizes = [t.numel() for t in teachers]
        owners = [i for i, n in enumerate(sizes) for _ in range(0, n, _BLOCK)]
        starts = [start for n in sizes for start in range(0, n, _BLOCK)]
        self._sizes, self._owners, self._starts = (self._table(values) for values in (sizes, owners, starts))

    def __call__(self, weight: float) -> None:
        """Move every z by this share of its way to theta."""
        # Whoever moves a model, or loads weights by assignment, gives its parameters other memory.
        addresses = [t.data_ptr() for t in self._tensors]
        if addresses != self._addresses:
            self._addresses, half = addresses, len(addresses) // 2
            self._teachers, self._students = self._table(addresses[:half]), self._table(addresses[half:])
        with torch.cuda.device(self._device):
            _lerp[(len(self._owners),)](
                self._teachers,
                self._students,
                self._sizes,
                self._owners,
                self._starts,
                weight,
                STUDENT=self._student,
                BLOCK=_BLOCK,
            )

    def _table(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)


def fusible(teachers: Sequence[Tensor], students: Sequence[Tensor]) -> bool:
    """Whether all pairs can be averaged by `FusedAverage`: on one GPU, plain, alike in layout, aligned."""
    if not teachers or teachers[0].device.type != "cuda":
        return False
    dtype, device = students[0].dtype, teachers[0].device
    return dtype in (torch.float32, *_HALVES) and all(
        # A subclass (DTensor, a quantised weight) is more than the memory that it points to.
        type(s.data) is Tensor
        and type(z.data) is Tensor
        and s.dtype == dtype
        and s.device == z.device == device
        and s.stride() == z.stride()
        and _dense(z)
        and s.data_ptr() % 16 == z.data_ptr() % 16 == 0
        for z, s in zip(teachers, students, strict=True)
    )


def _dense(tensor: Tensor) -> bool:
    """Whether the tensor's elements fill its memory without gaps, in whatever order of axes."""
    return tensor.numel() > 0 and torch.ops.aten.is_non_overlapping_and_dense(tensor)
