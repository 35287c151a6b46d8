"""The teacher: an exponential moving average of the student whose memory is stated in audio, not steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.roster import Roster
from asr_emapl.scaling.averages import half_life as half_life_of
from asr_emapl.scaling.averages import momentum

# When a step's student enters the average; see EmaTeacher.
ORDERS = ("post", "pre", "midpoint")
# Smallest weight of the student in one move, in units of the teacher's rounding (eps): 0.002 in fp32.
LEAST_SHARE = 2.0**14


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
    """A second module, z, that follows the student, theta: z <- rho z + (1 - rho) theta after each step.

    rho = 2 ** (-audio / half_life) of *that* step's audio, so that what is left of an old weight depends on
    the audio consumed since and on nothing else: not on batch size, packing, ranks, or restarts. This is the
    EMA Scaling Rule, rho ** kappa (Busbridge et al. 2023), with kappa taken from each batch as it comes.

    The average is kept in fp32 whatever the student's precision, since (1 - rho) theta vanishes beside z in
    half precision. Where 1 - rho is below 0.002 the same happens in fp32 to a student that moves slowly: the
    audio of several steps is then gathered, and one update with their common rho takes in the last student.
    What is pending is less than 0.3 % of a half-life (0.6 % in midpoint order, of two moves), by which the
    teacher's weights lag; it is part of the state. `flush` takes it in at once. Floating buffers are copied
    at each step, integer buffers too: they are state, not weights. The teacher is always in eval mode and
    needs no gradient.

    `order` says which student theta is. "post", the one after the step, is what public training code does;
    "pre", the one before it, is how the paper defines the average. Against a step of the reference batch, one
    of kappa shifts the teacher by (kappa - 1) / 2 reference steps, forward in post and back in pre order:
    "midpoint", the mean of both students, cancels that to first order in kappa (1 - rho) (derived, not the
    paper's). The lag behind a steadily moving student, in reference steps:

        pre kappa / (1 - rho^kappa),   post kappa rho^kappa / (1 - rho^kappa),   midpoint the mean of both.

    Args:
        student: the module to follow; wrappers (DDP, torch.compile) are seen through.
        half_life: audio after which a weight counts half, in seconds (any unit that `update` uses too); or a
            function of the audio consumed that returns it, e.g. `CosineHalfLife`.
        module: the teacher's module where a deep copy of the student cannot serve (weight_norm, sharding).
        order: "post", "pre" or "midpoint"; the last two need `before_step` as well.

    Raises:
        ValueError: names or shapes of the two modules differ; half_life is not positive; an unknown order;
            the student cannot be copied.
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
            raise ValueError(f"order {order!r} is none of {', '.join(ORDERS)}")
        self.order, self._half_life = order, half_life
        self.audio = 0.0
        # Half-lives of audio that no update has taken in yet.
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

        To be called again when either module's parameters became other tensors: a layer was replaced, or
        weights were loaded with `assign=True`.

        Raises:
            ValueError: names or shapes of the two modules differ.
        """
        source = unwrap(student)
        pairs = _pairs(source.named_parameters(), self.module.named_parameters(), "parameter")
        # An average is made weight by weight: of sharded tensors each process averages its own part.
        self._student, self._teacher = [_own(s) for s, _ in pairs], [_own(t) for _, t in pairs]
        if any(s.shape != t.shape for s, t in zip(self._student, self._teacher, strict=True)):
            raise ValueError(
                "student and teacher are not sharded alike: wrap the teacher's module as the student"
            )
        self._buffers = _buffers(source, self.module)
        self._rosters = {"student": Roster(source), "teacher's module": Roster(self.module)}
        eps = max((torch.finfo(t.dtype).eps for t in self._teacher), default=0.0)
        self._least_share = LEAST_SHARE * eps * (2.0 if self.order == "midpoint" else 1.0)
        self._fused = _fused(self._teacher, self._student)
        # lerp needs one dtype: half-precision students pass through fp32 buffers made once, here.
        cast = self._fused is None and any(s.dtype != torch.float32 for s in self._student)
        self._staged = [torch.empty_like(t) for t in self._teacher] if cast else None

    @torch.no_grad()
    def reset(self) -> None:
        """Make the teacher equal to the student now."""
        self._require_followed()
        torch._foreach_copy_(self._teacher, self._student)
        self._copy_buffers()
        self._pending = 0.0

    @torch.no_grad()
    def flush(self) -> None:
        """Take in the audio that is still pending, with the student of now."""
        self._require_followed()
        self._move(_share(self._pending))
        self._pending = 0.0

    @property
    def half_life(self) -> float:
        """The half-life now."""
        return self._half_life(self.audio) if callable(self._half_life) else self._half_life

    @torch.no_grad()
    def before_step(self, audio: float, at: float | None = None) -> None:
        """Take in the student as it is before an optimizer step on `audio` seconds; nothing in post order.

        Args: as for `update`.
        """
        if self.order == "post":
            return
        share = _share(self._pending + self._half_lives(audio, at))
        # Midpoint in two moves: (1 - rho) / (1 + rho) here and (1 - rho) / 2 after the step leave rho of the
        # old average and (1 - rho) / 2 of either student, and no copy of the student is needed.
        if share >= self._least_share:
            self._require_followed()
            self._move(share if self.order == "pre" else share / (2.0 - share))
        self._begun = audio

    @torch.no_grad()
    def update(self, audio: float, at: float | None = None) -> None:
        """Move on by one optimizer step that consumed `audio` seconds. Call it after the step.

        Args:
            at: where on the run's clock the half-life is read, if it changes over audio; None: in the middle
                of the step by the audio counted here, which lacks the steps that were skipped.

        Raises:
            ValueError: negative audio.
            RuntimeError: pre or midpoint order, and `before_step` was not called with the same audio; or the
                parameters of the student or the teacher are no longer those that `follow` has matched.
        """
        pending = self._pending + self._half_lives(audio, at)
        if self.order != "post" and self._begun != audio:
            raise RuntimeError(
                f"order {self.order!r}: call before_step({audio}) before the optimizer steps, update after"
            )
        share = _share(pending)
        if share >= self._least_share:
            self._require_followed()
            if self.order != "pre":
                self._move(share if self.order == "post" else share / 2.0)
            pending = 0.0
        self._pending, self._begun = pending, None
        self._copy_buffers()
        self.audio += audio

    def _half_lives(self, audio: float, at: float | None) -> float:
        """Audio of a step in half-lives, a sum that holds for one that changes too."""
        if audio < 0.0:
            raise ValueError(f"a step cannot consume {audio} of audio")
        return audio / self.half_life_of_step(audio, at)

    def _require_followed(self) -> None:
        for whose, roster in self._rosters.items():
            name = roster.changed()
            if name is not None:
                raise RuntimeError(
                    f"{name} of the {whose} is not what the teacher was built with (a replaced layer, or "
                    "load_state_dict(assign=True)); call follow(student)"
                )

    def half_life_of_step(self, audio: float, at: float | None = None) -> float:
        """The half-life in force at a step over so much audio; `at` as for `update`."""
        if not callable(self._half_life):
            return self._half_life
        # In the middle of the step's audio: one large step then does what the small ones in its place do.
        return self._half_life(self.audio + audio / 2.0 if at is None else at)

    def _move(self, weight: float) -> None:
        if self._fused is not None:
            self._fused(weight)
            return
        source = self._student
        if self._staged is not None:
            torch._foreach_copy_(self._staged, self._student)
            source = self._staged
        torch._foreach_lerp_(self._teacher, source, weight)

    def _copy_buffers(self) -> None:
        # Looked up each time: a module may assign a new tensor to a buffer, not write into the old one.
        for student, teacher, name in self._buffers:
            getattr(teacher, name).copy_(getattr(student, name))

    def rho(self, audio: float, at: float | None = None) -> float:
        """The momentum of a step that consumes `audio` seconds, pending or not. Args: as for `update`."""
        return momentum(self.half_life_of_step(audio, at), audio)

    def __call__(self, *inputs: Any) -> Any:
        """The teacher's output, without a graph."""
        with torch.no_grad():
            return self.module(*inputs)

    def state_dict(self) -> dict[str, Any]:
        """Weights, clock, and the audio (in half-lives) that the weights do not contain yet."""
        return {
            "module": self.module.state_dict(),
            "audio": self.audio,
            "pending": self._pending,
            "half_life": self.half_life,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved teacher's weights and clock; the half-life stays that of this run's config."""
        self.module.load_state_dict(state["module"])
        self.audio, self._pending = state["audio"], state["pending"]


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DDP (`.module`) and torch.compile (`._orig_mod`) wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def _copy(student: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(student)
    # What torch and pickle say of tensors with a graph, locks, open files.
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"the student cannot be copied ({str(error).splitlines()[0]}), as with the old form of "
            "torch.nn.utils.weight_norm; build the model a second time and pass it as module="
        ) from error


def _share(half_lives: float) -> float:
    """1 - rho of so much audio, without the cancellation that rho near 1 would bring."""
    return -math.expm1(-math.log(2.0) * half_lives)


def _own(tensor: Tensor) -> Tensor:
    """This process's part of a DTensor, in the same memory; another tensor as it is."""
    return tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[attr-defined]


def _fused(teacher: list[Tensor], student: list[Tensor]) -> Callable[[float], None] | None:
    """One kernel for all weights, where they lie on a GPU and torch came with Triton; else None."""
    # Of few rows divided over many processes, some have none.
    teacher, student = [z for z in teacher if z.numel()], [s for s in student if s.numel()]
    if not teacher or teacher[0].device.type != "cuda":
        return None
    try:
        from asr_emapl.fused_average import FusedAverage, fusible
    except ImportError:
        return None
    return FusedAverage(teacher, student) if fusible(teacher, student) else None


def _buffers(student: nn.Module, teacher: nn.Module) -> list[tuple[nn.Module, nn.Module, str]]:
    """The modules that own each buffer, and its name there: walking the tree takes longer than an update."""
    _pairs(student.named_buffers(), teacher.named_buffers(), "buffer")
    owners = dict(teacher.named_modules())
    return [
        (module, owners[path], name)
        for path, module in student.named_modules()
        for name, _ in module.named_buffers(recurse=False)
    ]


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
