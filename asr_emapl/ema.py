"""The teacher: an exponential moving average of the student whose memory is stated in audio, not steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.scaling.rules import half_life as half_life_of
from asr_emapl.scaling.rules import momentum


@dataclass
class TeacherConfig:
    """State the memory one way: the half-life, or the paper's rho at the reference batch."""

    half_life_hours: float | None = None
    rho: float | None = None

    def half_life_seconds(self, reference_seconds: float) -> float:
        """The half-life in seconds of audio.

        Raises:
            ValueError: both, or neither, of the two are given.
        """
        if (self.half_life_hours is None) == (self.rho is None):
            raise ValueError("give one of teacher.half_life_hours and teacher.rho")
        if self.half_life_hours is not None:
            return self.half_life_hours * 3600.0
        assert self.rho is not None
        return half_life_of(self.rho, reference_seconds)


class EmaTeacher:
    """A second module, z, that follows the student, theta: z <- rho z + (1 - rho) theta after each step.

    rho = 2 ** (-audio / half_life) of *that* step's audio, so that what is left of an old weight depends on
    the audio consumed since and on nothing else: not on batch size, packing, ranks, or restarts. This is the
    EMA Scaling Rule, rho ** kappa (Busbridge et al. 2023), with kappa taken from each batch as it comes.

    The average is kept in fp32 whatever the student's precision, since (1 - rho) theta vanishes beside z in
    half precision. Floating buffers are copied, integer buffers too: they are state, not weights.
    The teacher is always in eval mode and needs no gradient.

    Args:
        student: the module to follow; wrappers (DDP, torch.compile) are seen through.
        half_life: audio after which a weight counts half, in seconds (any unit that `update` uses too).
        module: the teacher's module where a deep copy of the student cannot serve (weight_norm, sharding).

    Raises:
        ValueError: names or shapes of the two modules differ; half_life is not positive.
    """

    def __init__(self, student: nn.Module, half_life: float, module: nn.Module | None = None) -> None:
        if not half_life > 0.0:
            raise ValueError(f"a teacher's half-life must be positive, not {half_life}")
        self.half_life = half_life
        self.audio = 0.0
        source = unwrap(student)
        self.module = copy.deepcopy(source) if module is None else module
        self.module.float().eval().requires_grad_(False)
        self.follow(source)
        self.reset()

    def follow(self, student: nn.Module) -> None:
        """Match parameters and buffers to those of `student`, by name."""
        source = unwrap(student)
        pairs = _pairs(source.named_parameters(), self.module.named_parameters(), "parameter")
        self._student, self._teacher = [s for s, _ in pairs], [t for _, t in pairs]
        _pairs(source.named_buffers(), self.module.named_buffers(), "buffer")
        self._source = source
        # lerp needs one dtype: half-precision students pass through fp32 buffers made once, here.
        cast = any(s.dtype != torch.float32 for s in self._student)
        self._staged = [torch.empty_like(t) for t in self._teacher] if cast else None

    @torch.no_grad()
    def reset(self) -> None:
        """Make the teacher equal to the student now."""
        torch._foreach_copy_(self._teacher, self._student)
        self._copy_buffers()

    @torch.no_grad()
    def update(self, audio: float) -> None:
        """Move on by one optimizer step that consumed `audio` seconds. Call it after the step."""
        if audio < 0.0:
            raise ValueError(f"a step cannot consume {audio} of audio")
        # 1 - rho without the cancellation that rho near 1 would bring.
        weight = -math.expm1(-math.log(2.0) * audio / self.half_life)
        source = self._student
        if self._staged is not None:
            torch._foreach_copy_(self._staged, self._student)
            source = self._staged
        torch._foreach_lerp_(self._teacher, source, weight)
        self._copy_buffers()
        self.audio += audio

    def _copy_buffers(self) -> None:
        # Looked up each time: a module may assign a new tensor to a buffer, not write into the old one.
        for student, teacher in _pairs(self._source.named_buffers(), self.module.named_buffers(), "buffer"):
            teacher.copy_(student)

    def rho(self, audio: float) -> float:
        """The momentum of a step that consumes `audio` seconds."""
        return momentum(self.half_life, audio)

    def __call__(self, *inputs: Any) -> Any:
        """The teacher's output, without a graph."""
        with torch.no_grad():
            return self.module(*inputs)

    def state_dict(self) -> dict[str, Any]:
        """Weights and clock."""
        return {"module": self.module.state_dict(), "audio": self.audio, "half_life": self.half_life}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved teacher's weights and clock; the half-life stays that of this run's config."""
        self.module.load_state_dict(state["module"])
        self.audio = state["audio"]


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DDP (`.module`) and torch.compile (`._orig_mod`) wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def _pairs(
    student: Iterable[tuple[str, Tensor]], teacher: Iterable[tuple[str, Tensor]], what: str
) -> list[tuple[Tensor, Tensor]]:
    students, teachers = dict(student), dict(teacher)
    unmatched = sorted(students.keys() ^ teachers.keys())
    if unmatched:
        raise ValueError(f"{what}s of student and teacher do not match by name: {', '.join(unmatched[:5])}")
    for name, tensor in students.items():
        if tensor.shape != teachers[name].shape:
            raise ValueError(
                f"{what} {name} has shape {tuple(tensor.shape)} in the student "
                f"and {tuple(teachers[name].shape)} in the teacher"
            )
    return [(students[name], teachers[name]) for name in students]
