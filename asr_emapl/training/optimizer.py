"""The student's optimizer: hyper-parameters stated at the reference batch, scaled to the one in use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.scaling import ReferenceOptimizer

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adagrad": torch.optim.Adagrad,
}
_WITH_BETAS = ("adamw", "adam", "nadam", "radam")
_FUSED_WHEN_SHARDED = ("adamw", "adam")  # the fused forms that torch 2.14 knows for DTensors


@dataclass
class OptimizerConfig:
    """Everything at the reference batch; the rule does the rest."""

    name: str = "adamw"
    lr: float = field(default=1e-3, metadata={"least": 0.0, "most": 1e6})
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98], metadata={"least": 0.0, "below": 1.0})
    eps: float = field(default=1e-8, metadata={"least": 0.0, "most": 1e6})
    # Decoupled from the gradient by adamw, L2 elsewhere.
    weight_decay: float = field(default=0.0, metadata={"least": 0.0, "most": 1e6})
    # SGD's heavy-ball momentum.
    momentum: float = field(default=0.9, metadata={"least": 0.0, "below": 1.0})
    # NAdam's: its momentum rises from beta1 / 2 to beta1 as 0.96 ** (reference steps * momentum_decay) falls.
    momentum_decay: float = field(default=4e-3, metadata={"least": 0.0, "most": 1e6})
    # Adagrad's: what its sum of squares starts from.
    initial_accumulator_value: float = field(default=0.0, metadata={"least": 0.0, "most": 1e9})
    # Gradient norm at the reference batch, scaled as the gradient's noise is; 0: no clipping.
    clip_norm: float = field(default=1.0, metadata={"least": 0.0, "most": 1e9})
    # Share of noise in the gradient's mean square at the reference batch (see scaling.noise). 1: nothing but
    # noise, the published square-root rule; below, lr grows faster than by sqrt(kappa).
    noise_share: float = field(default=1.0, metadata={"least": 0.0, "most": 1.0})
    # Measure that share every so many steps, for `asr-emapl noise`; 0: never (see training.gradient_noise).
    noise_every_steps: int = field(default=0, metadata={"least": 0, "most": 2**31})
    # Audio that kappa is taken from: nominal, the mean audio of a step at this batch; actual, each step's
    # own. The loss is a mean over utterances: with actual, a step with fewer of them counts less.
    audio_per_step: str = "nominal"
    # full: the optimizer's rule; none: leave all as it is (to see what that does).
    rule: str = "full"
    # How betas scale, where there are any: power or linear.
    beta_form: str = "power"
    # When the batch changes: rescale second moments to the new noise level (see scaling.progressive).
    # Adagrad's sum of squares is rescaled always.
    rescale_moments: bool = False

    def reference(self) -> ReferenceOptimizer:
        """The optimizer at the reference batch, with its rule.

        Raises:
            UserError: an unknown optimizer, or not two betas.
        """
        if self.name not in _CLASSES:
            raise UserError(f"optimizer.name {self.name!r} is none of {', '.join(_CLASSES)}")
        if self.rule not in ("full", "none"):
            raise UserError(f"optimizer.rule {self.rule!r} is neither full nor none")
        group: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name in _WITH_BETAS:
            if len(self.betas) != 2:
                raise UserError(f"optimizer.betas takes two numbers, not {len(self.betas)}")
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
            clip_norm=self.clip_norm if self.clip_norm else None,
            rule=self.rule,  # type: ignore[arg-type]
            beta_form=self.beta_form,
            noise_share=self.noise_share,
            rescale_moments=self.rescale_moments,
            audio_per_step=self.audio_per_step,  # type: ignore[arg-type]
        )


def build_optimizer(model: nn.Module, name: str, group: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The torch optimizer of a param group; in its fused form, one pass over memory a step, where it has one.

    Args:
        name: as `OptimizerConfig.name`.
        group: hyper-parameters, scaled.

    Raises:
        UserError: torch refuses a value.
    """
    cls, options = _CLASSES[name], dict(group)
    if "fused" in inspect.signature(cls).parameters:
        sharded = any(hasattr(p, "to_local") for p in model.parameters())
        options["fused" if not sharded or name in _FUSED_WHEN_SHARDED else "foreach"] = True
    try:
        return cls(model.parameters(), **options)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error
