"""EMA teacher: an exponential moving average of the student, with a half-life in audio instead of steps."""

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

# Student weights that are averaged; see EmaTeacher.
ORDERS = ("post", "pre", "midpoint")
# Minimum weight of the student in an update, as a multiple of the teacher's eps: 0.002 in fp32.
LEAST_WEIGHT = 2.0**14


@dataclass(frozen=True)
class CosineHalfLife:
    """Half-life of BYOL's momentum schedule (Grill et al. 2020), over audio instead of steps.

    At the reference batch, 1 - rho(t) = (1 - rho) (1 + cos(pi t / T)) / 2. As a half-life, the schedule
    applies to any batch: rho(t) is raised to the power kappa.

    Args:
        rho: initial momentum at the reference batch.
        reference, total: audio of a reference step and of the whole run, in the same unit.
    """

    rho: float
    reference: float
    total: float

    def __call__(self, audio: float) -> float:
        """Half-life after `audio` has been consumed; infinite from the end of the run on."""
        progress = min(1.0, audio / self.total) if self.total > 0.0 else 1.0
        # sin ** 2 instead of (1 + cos) / 2, which loses precision near the end.
        rho = 1.0 - (1.0 - self.rho) * math.sin(math.pi * (1.0 - progress) / 2.0) ** 2
        return half_life_of(rho, self.reference)


@dataclass(frozen=True)
class GrowingHalfLife:
    """A half-life in proportion to the audio consumed: the average covers the same share of it at any time.

    The weights of the average are then a power function of audio, as in Karras et al. 2024 (section 3.1).
    Stated over audio, it applies to any batch.

    Args:
        first: half-life at the start; also the minimum, in the unit of the audio.
        share: half-life by audio consumed.
    """

    first: float
    share: float

    def __call__(self, audio: float) -> float:
        """Half-life after `audio` has been consumed."""
        return max(self.first, self.share * audio)


HalfLife = float | Callable[[float], float]


class EmaTeacher:
    """Teacher module z that follows the student theta: z <- rho z + (1 - rho) theta after each step.

    rho = 2 ** (-audio / half_life), where audio is that of the step. The weight of an old student then
    depends only on the audio consumed since, not on batch size, packing, ranks or restarts. This is the EMA
    Scaling Rule, rho ** kappa (Busbridge et al. 2023), with kappa computed for each batch.

    The teacher is fp32 regardless of the student's precision, because small updates are lost to rounding in
    half precision. If 1 - rho is below 0.002, this also happens in fp32 when the student changes slowly. Then
    the audio of several steps is accumulated, and one update with their combined rho uses the last student.
    Less than 0.3 % of a half-life is pending (0.6 % in midpoint order, which updates twice). Pending audio is
    part of the state dict, and `flush` applies it immediately. Buffers are copied at each step, not averaged.
    The teacher is in eval mode and requires no gradient.

    `order` selects the student theta: "post" uses the weights after the optimizer step, as in public training
    code; "pre" uses those before it, as in the paper. A step of kappa reference steps shifts the teacher by
    (kappa - 1) / 2 reference steps, forward in post and back in pre order. "midpoint" averages both students,
    which cancels the shift to first order in kappa (1 - rho) (derived here, not in the paper). The lag behind
    a student that moves at constant speed is, in reference steps:

        pre: kappa / (1 - rho^kappa),   post: kappa rho^kappa / (1 - rho^kappa),   midpoint: mean of both.

    Args:
        student: module to follow; wrappers (DDP, torch.compile) are removed.
        half_life: half-life in seconds of audio (or in the unit passed to `update`); or a function that
            returns it for the audio consumed, e.g. `CosineHalfLife`.
        module: module to use as the teacher if the student cannot be copied (weight_norm, sharding).
        order: "post", "pre" or "midpoint"; the last two also require `before_step`.

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
        # Audio that has not been applied yet, in half-lives.
        self._pending = 0.0
        # Audio of the current step, set by `before_step`.
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

        Call it again after parameters of either module were replaced, for example by another layer or by
        `load_state_dict(assign=True)`.

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
        """Copy the student's parameters and buffers to the teacher."""
        self._require_followed()
        foreach_copy_(self._teacher, self._student)
        self._copy_buffers()
        self._pending = 0.0

    @torch.no_grad()
    def flush(self) -> None:
        """Apply the pending audio now, with the current student."""
        self._require_followed()
        self._move(_weight(self._pending))
        self._pending = 0.0

    @property
    def half_life(self) -> float:
        """Current half-life."""
        return self._half_life(self.audio) if callable(self._half_life) else self._half_life

    @torch.no_grad()
    def before_step(self, audio: float, at: float | None = None) -> None:
        """Update with the student before an optimizer step; no-op in post order. See `update`."""
        if self.order == "post":
            return
        weight = _weight(self._pending + self._half_lives(audio, at))
        # Midpoint order updates twice, with weights (1 - rho) / (1 + rho) here and (1 - rho) / 2 after the
        # step. The result is rho z plus (1 - rho) / 2 of each student, without a copy of the student.
        if weight >= self._least_weight:
            self._require_followed()
            self._move(weight if self.order == "pre" else weight / (2.0 - weight))
        self._begun = audio

    @torch.no_grad()
    def update(self, audio: float, at: float | None = None) -> None:
        """Update after an optimizer step that consumed `audio` seconds.

        Args:
            at: audio on the run's clock at which a variable half-life is evaluated. None: the middle of the
                step on the teacher's own clock, which does not count skipped steps.

        Raises:
            ValueError: audio is negative.
            RuntimeError: in pre or midpoint order, `before_step` was not called with the same audio; or a
                parameter was replaced after the last call of `follow`.
        """
        pending = self._pending + self._half_lives(audio, at)
        if self.order != "post" and self._begun != audio:
            raise RuntimeError(
                f"order {self.order!r}: call before_step({audio}) before the optimizer step, update after it"
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
        """Audio of a step in half-lives, which can be summed even if the half-life changes."""
        if audio < 0.0:
            raise ValueError(f"audio of a step must not be negative, got {audio}")
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
        """Half-life of a step with this audio. See `update`."""
        if not callable(self._half_life):
            return self._half_life
        # The middle of the step, so that one large step equals the small steps it replaces.
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
        # Look up buffers each time, because a module may replace their tensors.
        for student, teacher, name in self._buffers:
            getattr(teacher, name).copy_(getattr(student, name))

    def rho(self, audio: float, at: float | None = None) -> float:
        """Momentum of a step with this audio, ignoring pending audio. See `update`."""
        return momentum(self.half_life_of_step(audio, at), audio)

    def __call__(self, *inputs: Any) -> Any:
        """Run the teacher without recording gradients."""
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
        """Load weights, clock and pending audio; the half-life does not change."""
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
            f"the student cannot be copied ({str(error).splitlines()[0]}), for example because of the old "
            "torch.nn.utils.weight_norm; build a second model and pass it as module="
        ) from error


def _weight(half_lives: float) -> float:
    """1 - rho for audio in half-lives, without cancellation for rho near 1."""
    return -math.expm1(-math.log(2.0) * half_lives)


def _local(tensor: Tensor) -> Tensor:
    """This process's shard of a DTensor, without a copy; other tensors are returned unchanged."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[attr-defined]


def _fused_average(teacher: list[Tensor], student: list[Tensor]) -> Callable[[float], None] | None:
    """Fused update of all weights if they are on a GPU and Triton is available; otherwise None."""
    if not teacher or teacher[0].device.type != "cuda":
        return None
    try:
        from asr_emapl.fused_average import fused_average
    except ImportError:
        return None
    return fused_average(teacher, student)


def _matching_names(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[str]:
    """Check that names and shapes match, and return the names."""
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
