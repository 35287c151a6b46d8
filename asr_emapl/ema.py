"""The teacher: an exponential moving average of the student whose memory is stated in audio, not steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.roster import Roster
from asr_emapl.scaling.averages import half_life as half_life_of
from asr_emapl.scaling.averages import momentum
from asr_emapl.torch_private import foreach_copy_, foreach_lerp_, uncompiled

# Which student enters the average; see EmaTeacher.
ORDERS = ("post", "pre", "midpoint")
# Smallest weight of the student in an update, in units of the teacher's rounding (eps): 0.002 in fp32.
LEAST_WEIGHT = 2.0**14


@dataclass(frozen=True)
class CosineHalfLife:
    """The half-life under BYOL's momentum schedule (Grill et al. 2020), over audio instead of steps.

    At the reference batch 1 - rho(t) = (1 - rho) (1 + cos(pi t / T)) / 2. Stated as a half-life it holds at
    any batch: what is scaled is rho at *that* audio, to the power of kappa.

    Args:
        rho: momentum at the beginning, at the reference batch.
        reference, total: audio of a reference step and of the whole run, in one unit.
    """

    rho: float
    reference: float
    total: float

    def __call__(self, audio: float) -> float:
        """The half-life once `audio` has been consumed; infinite from the end of the run on."""
        progress = min(1.0, audio / self.total) if self.total > 0.0 else 1.0
        # Of the two forms of (1 + cos) / 2 the one that loses no digits near the end.
        rho = 1.0 - (1.0 - self.rho) * math.sin(math.pi * (1.0 - progress) / 2.0) ** 2
        return half_life_of(rho, self.reference)


HalfLife = float | Callable[[float], float]


class EmaTeacher:
    """A second module z that follows the student theta: z <- rho z + (1 - rho) theta after each step.

    rho = 2 ** (-audio / half_life) with the audio of *that* step, so that the weight of an old student
    depends only on the audio consumed since, not on batch size, packing, ranks, or restarts. This is the EMA
    Scaling Rule, rho ** kappa (Busbridge et al. 2023), with kappa taken from each batch.

    The teacher is fp32 whatever the student's precision, because (1 - rho) theta would be rounded away in
    half precision. Where 1 - rho is below 0.002, the same happens in fp32 to a student that moves slowly.
    Then the audio of several steps is accumulated, and one update with their common rho uses the last
    student. Less than 0.3 % of a half-life is pending (0.6 % in midpoint order, which updates twice); it is
    part of the state, and `flush` applies it at once. Buffers are copied at each step, because they are state
    and not weights. The teacher is in eval mode and needs no gradient.

    `order` selects the student theta: "post", after the step, as in public training code; "pre", before it,
    as in the paper's definition. A step of kappa reference steps shifts the teacher by (kappa - 1) / 2
    reference steps, forward in post and back in pre order. "midpoint", the mean of both students, cancels the
    shift to first order in kappa (1 - rho) (derived here, not in the paper). The lag behind a student that
    moves steadily is, in reference steps:

        pre kappa / (1 - rho^kappa),   post kappa rho^kappa / (1 - rho^kappa),   midpoint the mean of both.

    Args:
        student: the module to follow; wrappers (DDP, torch.compile) are removed.
        half_life: audio after which a weight counts half, in seconds (or the unit that `update` gets); or a
            function of the audio consumed that returns it, e.g. `CosineHalfLife`.
        module: the teacher's module where the student cannot be copied (weight_norm, sharding).
        order: "post", "pre" or "midpoint"; the last two also need `before_step`.

    Raises:
        ValueError: names or shapes of the two modules differ, half_life is not positive, the order is
            unknown, or the student cannot be copied.
    """

    def __init__(
        self,
        student: nn.Module,
        half_life: HalfLife,
        module: nn.Module | None = None,
        *,
        order: str = "post",
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"order {order!r} is invalid; use {', '.join(ORDERS)}")
        self.order, self._half_life = order, half_life
        self.audio = 0.0
        # Audio that no update has applied yet, in half-lives.
        self._pending = 0.0
        # Audio of the step that `before_step` has begun.
        self._begun: float | None = None
        if not self.half_life > 0.0:
            raise ValueError(f"a teacher's half-life must be positive, not {self.half_life}")
        source = unwrap(student)
        self.module = _copy(source) if module is None else module
        self.module.float().eval().requires_grad_(False)
        self.follow(source)
        self.reset()

    def follow(self, student: nn.Module) -> None:
        """Match parameters and buffers to those of `student`, by name.

        Call it again if parameters of either module become other tensors: a layer was replaced, or weights
        were loaded with `assign=True`.

        Raises:
            ValueError: names or shapes of the two modules differ.
        """
        source = unwrap(student)
        names = _matching_names(dict(source.named_parameters()), dict(self.module.named_parameters()))
        # Each process averages its own shard of sharded parameters.
        self._student = [_local(source.get_parameter(name)) for name in names]
        self._teacher = [_local(self.module.get_parameter(name)) for name in names]
        if any(s.shape != t.shape for s, t in zip(self._student, self._teacher, strict=True)):
            raise ValueError("the teacher is not sharded like the student; shard its module in the same way")
        names = _matching_names(
            *(dict(m.named_buffers(remove_duplicate=False)) for m in (source, self.module))
        )
        owners = [(name.rpartition(".")[0], name.rpartition(".")[2]) for name in names]
        self._buffers = [(source.get_submodule(o), self.module.get_submodule(o), n) for o, n in owners]
        self._rosters = {"student": Roster(source), "teacher's module": Roster(self.module)}
        eps = max((torch.finfo(t.dtype).eps for t in self._teacher), default=0.0)
        self._least_weight = LEAST_WEIGHT * eps * (2.0 if self.order == "midpoint" else 1.0)
        self._fused = _fused_average(self._teacher, self._student)
        # lerp needs one dtype: half-precision students are copied to fp32 buffers first.
        cast = self._fused is None and any(s.dtype != torch.float32 for s in self._student)
        self._staged = [torch.empty_like(t) for t in self._teacher] if cast else None

    @torch.no_grad()
    def reset(self) -> None:
        """Make the teacher equal to the student."""
        self._require_followed()
        foreach_copy_(self._teacher, self._student)
        self._copy_buffers()
        self._pending = 0.0

    @torch.no_grad()
    def flush(self) -> None:
        """Apply the pending audio now, with the present student."""
        self._require_followed()
        self._move(_weight(self._pending))
        self._pending = 0.0

    @property
    def half_life(self) -> float:
        """The present half-life."""
        return self._half_life(self.audio) if callable(self._half_life) else self._half_life

    @torch.no_grad()
    def before_step(self, audio: float, at: float | None = None) -> None:
        """Update with the student before an optimizer step; does nothing in post order.

        Args: as for `update`.
        """
        if self.order == "post":
            return
        weight = _weight(self._pending + self._half_lives(audio, at))
        # Midpoint order updates twice: weights (1 - rho) / (1 + rho) here and (1 - rho) / 2 after the step
        # leave rho of the old average and (1 - rho) / 2 of each student, without a copy of the student.
        if weight >= self._least_weight:
            self._require_followed()
            self._move(weight if self.order == "pre" else weight / (2.0 - weight))
        self._begun = audio

    @torch.no_grad()
    def update(self, audio: float, at: float | None = None) -> None:
        """Update after an optimizer step that consumed `audio` seconds.

        Args:
            at: audio on the run's clock at which a changing half-life is read. None: the middle of the step
                by this teacher's own count, which lacks skipped steps.

        Raises:
            ValueError: negative audio.
            RuntimeError: in pre or midpoint order, `before_step` was not called with the same audio; or the
                parameters of a module are no longer those that `follow` has matched.
        """
        pending = self._pending + self._half_lives(audio, at)
        if self.order != "post" and self._begun != audio:
            raise RuntimeError(
                f"order {self.order!r}: call before_step({audio}) before the optimizer steps, update after"
            )
        weight = _weight(pending)
        if weight >= self._least_weight:
            self._require_followed()
            if self.order != "pre":
                self._move(weight if self.order == "post" else weight / 2.0)
            pending = 0.0
        self._pending, self._begun = pending, None
        self._copy_buffers()
        self.audio += audio

    def _half_lives(self, audio: float, at: float | None) -> float:
        """A step's audio in half-lives, which can be summed if the half-life changes."""
        if audio < 0.0:
            raise ValueError(f"a step cannot consume {audio} of audio")
        return audio / self.half_life_of_step(audio, at)

    def _require_followed(self) -> None:
        for owner, roster in self._rosters.items():
            name = roster.changed()
            if name is not None:
                raise RuntimeError(
                    f"{name} of the {owner} was replaced (by another layer, or by "
                    "load_state_dict(assign=True)); call follow(student)"
                )

    def half_life_of_step(self, audio: float, at: float | None = None) -> float:
        """The half-life of a step with this audio. Args: as for `update`."""
        if not callable(self._half_life):
            return self._half_life
        # The middle of the step, so that a large step equals the small steps that it replaces.
        return self._half_life(self.audio + audio / 2.0 if at is None else at)

    def _move(self, weight: float) -> None:
        if self._fused is not None:
            self._fused(weight)
            return
        source = self._student
        if self._staged is not None:
            foreach_copy_(self._staged, self._student)
            source = self._staged
        foreach_lerp_(self._teacher, source, weight)

    def _copy_buffers(self) -> None:
        # Looked up each time, because a module may assign a new tensor to a buffer.
        for student, teacher, name in self._buffers:
            getattr(teacher, name).copy_(getattr(student, name))

    def rho(self, audio: float, at: float | None = None) -> float:
        """The momentum of a step with this audio, pending or not. Args: as for `update`."""
        return momentum(self.half_life_of_step(audio, at), audio)

    def __call__(self, *inputs: Any) -> Any:
        """The teacher's output, without a graph."""
        with torch.no_grad():
            return self.module(*inputs)

    def state_dict(self) -> dict[str, Any]:
        """Weights, clock, and pending audio in half-lives."""
        return {
            "module": self.module.state_dict(),
            "audio": self.audio,
            "pending": self._pending,
            "half_life": self.half_life,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load weights, clock and pending audio; the half-life stays that of this teacher."""
        self.module.load_state_dict(state["module"])
        self.audio, self._pending = state["audio"], state["pending"]


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DDP and torch.compile wrappers."""
    while True:
        inner = uncompiled(module)
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            inner = inner.module
        if inner is module:
            return module
        module = inner


def _copy(student: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(student)
    # torch and pickle raise these for tensors with a graph, locks, and open files.
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the student cannot be copied ({str(error).splitlines()[0]}), as with the old form of "
            "torch.nn.utils.weight_norm; build the model a second time and pass it as module="
        ) from error


def _weight(half_lives: float) -> float:
    """1 - rho for audio in half-lives, without cancellation for rho near 1."""
    return -math.expm1(-math.log(2.0) * half_lives)


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a DTensor, in the same memory; another tensor as it is."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[attr-defined]


def _fused_average(teacher: list[Tensor], student: list[Tensor]) -> Callable[[float], None] | None:
    """One kernel for all weights, if they are on a GPU and torch came with Triton; otherwise None."""
    if not teacher or teacher[0].device.type != "cuda":
        return None
    try:
        from asr_emapl.fused_average import fused_average
    except ImportError:
        return None
    return fused_average(teacher, student)


def _matching_names(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[str]:
    """The names of both, if names and shapes match."""
    unmatched = sorted(student.keys() ^ teacher.keys())
    if unmatched:
        raise ValueError(f"student and teacher differ in names: {', '.join(unmatched[:5])}")
    for name, tensor in student.items():
        if tensor.shape != teacher[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in the student and {tuple(teacher[name].shape)} in "
                "the teacher"
            )
    return list(student)
