"""Settings of optimizer, schedule and teacher at the reference batch; builds the torch optimizer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le, Len, Lt
from torch import nn

from asr_emapl.ema import CosineHalfLife, GrowingHalfLife, HalfLife
from asr_emapl.errors import UserError, listing
from asr_emapl.scaling import ReferenceOptimizer, Schedule, momentum
from asr_emapl.scaling import half_life as half_life_of
from asr_emapl.settings import Beta, Factor, Hours, PositiveCount, PositiveHours, PositiveWeight, Share

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
}
_SHOWN_NAMES = 5
_WITH_BETAS = ("adamw", "adam", "nadam", "radam")
_FUSED_WHEN_SHARDED = ("adamw", "adam")  # fused implementations that support DTensors in torch 2.14


@dataclass
class ParameterGroupConfig:
    """Part of the model with its own learning rate, for fine-tuning."""

    lr_factor: Factor = 1.0
    """Factor of the learning rate, at every batch size."""
    frozen_hours: Hours = 0.0
    """Hours of audio at the beginning in which the parameters are not trained."""


@dataclass
class OptimizerConfig:
    """The optimizer at the reference batch; the rule scales it to the actual batch."""

    name: Literal["adamw", "adam", "sgd", "nadam", "radam", "adagrad"] = "adamw"
    """Name of the torch optimizer."""
    lr: Factor = 1e-3
    """Peak learning rate."""
    groups: dict[str, ParameterGroupConfig] = field(default_factory=dict)
    """Parts of the model with their own learning rate, by a regular expression that matches the beginning of
    parameter names, such as encoder. A parameter belongs to the first part that matches."""
    betas: Annotated[list[Beta], Len(2, 2)] = field(default_factory=lambda: [0.9, 0.98])
    """Betas of adamw, adam, nadam and radam."""
    eps: Factor = 1e-8
    """Term added to the denominator for numerical stability; all but sgd."""
    weight_decay: Factor = 0.0
    """Weight decay: decoupled for adamw, L2 for the others."""
    momentum: Beta = 0.9
    """Heavy-ball momentum of sgd."""
    momentum_decay: Factor = 4e-3
    """Momentum decay of nadam, per reference step."""
    initial_accumulator_value: Annotated[float, Ge(0.0), Le(1e9)] = 0.0
    """Initial sum of squares of adagrad."""
    clip_norm: Annotated[float, Gt(0.0), Le(1e9)] | None = 1.0
    """Maximum gradient norm at the reference batch, scaled with the gradient noise; null: no clipping."""
    noise_share: Share = 1.0
    """Share of noise in the mean square of the gradient at the reference batch. 1: the published square-root
    rule; below 1: lr grows faster than sqrt(kappa). See scaling.gradient_noise."""
    noise_every_steps: PositiveCount | None = None
    """Steps between measurements of the noise share, for `asr-emapl gradient-noise`; null: never."""
    noise_half_life_hours: PositiveHours = 1.0
    """Half-life in hours of audio of the average of the measured noise, for batch.growth=noise and
    rule=adascale."""
    audio_per_step: Literal["nominal", "actual"] = "nominal"
    """Audio from which kappa is computed. nominal: mean audio of a step at this batch; actual: audio of each
    step. The loss is a mean over utterances, so with actual, a step with fewer utterances counts less."""
    rule: Literal["full", "none", "adascale"] = "full"
    """full: scale by the optimizer's rule; none: no scaling, for comparison; adascale: scale by the rule with
    the measured gain r, from 1 to kappa, in place of kappa, and count training in gained audio (see
    scaling.plan). For sgd as published, for adam and adamw derived. Requires noise_every_steps."""
    beta_form: Literal["power", "linear"] = "power"
    """How betas scale: beta ** kappa, or 1 - kappa (1 - beta)."""
    rescale_moments: bool = False
    """Rescale second moments to the new noise level when the batch changes (see scaling.progressive). The sum
    of squares of adagrad is always rescaled."""

    def reference(self) -> ReferenceOptimizer:
        """The optimizer's hyper-parameters at the reference batch, and its scaling rule."""
        group: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name in _WITH_BETAS:
            group |= {"betas": tuple(self.betas), "eps": self.eps}
        if self.name == "sgd":
            group["momentum"] = self.momentum
        if self.name == "nadam":
            group["momentum_decay"] = self.momentum_decay
        if self.name == "adagrad":
            group |= {"eps": self.eps, "initial_accumulator_value": self.initial_accumulator_value}
        return ReferenceOptimizer(
            self.name,
            group,
            clip_norm=self.clip_norm,
            rule=self.rule,
            beta_form=self.beta_form,
            noise_share=self.noise_share,
            rescale_moments=self.rescale_moments,
            audio_per_step=self.audio_per_step,
        )


@dataclass
class ScheduleConfig:
    """Learning-rate schedule over hours of audio, the same at every batch."""

    warmup_hours: Hours = 0.0
    """Duration of the linear warm-up."""
    decay_from_hours: Hours | None = None
    """Start of the decay, which lasts to the end of the run; null: no decay."""
    final: Share = 0.0
    """Learning rate at the end of the run, as a share of the peak."""
    shape: Literal["cosine", "linear"] = "cosine"
    """Shape of the decay."""

    def over(self, hours: float) -> Schedule:
        """The schedule of a run of `hours`."""
        return Schedule(hours, self.warmup_hours, self.decay_from_hours, self.final, self.shape)


@dataclass
class TeacherConfig:
    """The EMA teacher. Set its half-life, or one of the equivalent settings used in papers."""

    half_life_hours: PositiveHours | None = None
    """Half-life of the average in hours of audio."""
    rho: Annotated[float, Gt(0.0), Le(1.0)] | None = None
    """Momentum per step at the reference batch (Busbridge et al. 2023)."""
    discount: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """Weight of the student in an update that follows every discount_steps steps at the reference batch
    (Kaizen, Manohar et al. 2021). The teacher is still updated in each step, with the same half-life."""
    discount_steps: PositiveCount = 1
    """Steps between two updates, for discount."""
    epoch_weight: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """Share of the teacher's weights that remains after epoch_hours (w in MPL, Higuchi et al. 2021)."""
    epoch_hours: PositiveHours | None = None
    """Hours of audio in an epoch, for epoch_weight: labelled and unlabelled audio together."""
    half_life_factor: PositiveWeight = 1.0
    """Multiplies the half-life. A run that goes back after a collapse of its labels doubles it."""
    order: Literal["post", "pre", "midpoint"] = "post"
    """Student weights that are averaged: after the optimizer step, before it, or the mean of both."""
    schedule: Literal["constant", "cosine", "growing"] = "constant"
    """cosine: rho increases to 1 over the run, as in BYOL and DINO; growing: the half-life increases with the
    audio consumed."""
    growing_share: Annotated[float, Gt(0.0), Le(1.0)] = 0.1
    """For schedule growing: half-life by audio consumed, once this is longer than the half-life set above."""
    audio_per_step: Literal["actual", "nominal", "gained"] = "actual"
    """Audio from which rho is computed. actual: audio of each step, so that packing does not matter; nominal:
    mean audio of a step at this batch; gained: with optimizer.rule=adascale, the audio that counts as
    progress, for rho ** r."""

    def half_life_seconds(self, reference_audio: float) -> float:
        """The half-life in seconds of audio.

        Args:
            reference_audio: seconds of audio of a reference step.

        Raises:
            ValueError: none or several of half_life_hours, rho, discount and epoch_weight are set, or
                epoch_weight without epoch_hours.
        """
        ways = ("half_life_hours", "rho", "discount", "epoch_weight")
        if len([way for way in ways if getattr(self, way) is not None]) != 1:
            raise ValueError("set one of teacher.half_life_hours, teacher.rho, discount and epoch_weight")
        if self.half_life_hours is not None:
            return self.half_life_hours * 3600.0
        if self.rho is not None:
            return half_life_of(self.rho, reference_audio)
        if self.discount is not None:
            return half_life_of(1.0 - self.discount, self.discount_steps * reference_audio)
        if self.epoch_hours is None:
            raise ValueError("epoch_weight requires teacher.epoch_hours, the hours of audio in an epoch")
        assert self.epoch_weight is not None
        return half_life_of(self.epoch_weight, 3600.0 * self.epoch_hours)

    def half_life_over_audio(self, reference_audio: float, total_seconds: float) -> HalfLife:
        """The half-life for `EmaTeacher`: in seconds, or as a function over a run of `total_seconds`.

        Raises:
            ValueError: see `half_life_seconds`.
        """
        half_life = self.half_life_factor * self.half_life_seconds(reference_audio)
        if self.schedule == "constant":
            return half_life
        if self.schedule == "growing":
            return GrowingHalfLife(half_life, self.growing_share)
        return CosineHalfLife(momentum(half_life, reference_audio), reference_audio, total_seconds)


def build_optimizer(
    model: nn.Module,
    name: str,
    group: Mapping[str, Any],
    parts: Mapping[str, ParameterGroupConfig] | None = None,
) -> torch.optim.Optimizer:
    """Build the torch optimizer, with its fused implementation if there is one.

    Parameters keep the model's order. Each param group has `lr_factor` and `frozen_hours`, which
    `ScaledOptimizer` applies.

    Args:
        name: see `OptimizerConfig.name`.
        group: scaled hyper-parameters.
        parts: see `OptimizerConfig.groups`.

    Raises:
        UserError: torch rejects a value, a part is not a regular expression, or no parameter belongs to it.
    """
    cls, options = _CLASSES[name], dict(group)
    if "fused" in inspect.signature(cls).parameters:
        sharded = any(hasattr(p, "to_local") for p in model.parameters())
        options["fused" if not sharded or name in _FUSED_WHEN_SHARDED else "foreach"] = True
    try:
        return cls(_param_groups(model, parts or {}), **options)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error


def _param_groups(model: nn.Module, parts: Mapping[str, ParameterGroupConfig]) -> list[dict[str, Any]]:
    """The parameters in the model's order, divided where the part changes.

    A checkpoint numbers the parameters in this order, which must not depend on the parts.
    """

    def part_of(named: tuple[str, nn.Parameter]) -> str | None:
        return next((pattern for pattern in parts if re.match(pattern, named[0])), None)

    for pattern in parts:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"optimizer.groups: {pattern!r} is not a regular expression ({error})") from error
    found = [(part, [p for _, p in run]) for part, run in groupby(model.named_parameters(), part_of)]
    empty = [pattern for pattern in parts if all(pattern != part for part, _ in found)]
    if empty:
        names = listing([name for name, _ in model.named_parameters()], _SHOWN_NAMES)
        raise UserError(
            f"optimizer.groups: no parameter is left that {empty[0]!r} matches; there are {names}"
        )
    rest = ParameterGroupConfig()
    return [
        {"params": parameters, **asdict(rest if part is None else parts[part])} for part, parameters in found
    ]
