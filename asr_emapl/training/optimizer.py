"""The student's optimizer: hyper-parameters stated at the reference batch, scaled to the one in use."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.scaling import scale_clip_norm, scale_hyperparameters

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
    # nominal: of the mean audio of a step at this batch. step: of each step's own audio; the loss is a mean
    # over utterances, so that a step with fewer of them then counts less, as it would with a sum.
    kappa: str = "nominal"
    # full: the optimizer's rule; none: leave all as it is (to see what that does).
    rule: str = "full"
    # How betas scale, where there are any: power or linear.
    beta_form: str = "power"
    # When the batch changes: rescale second moments to the new noise level (see scaling.progressive).
    # Adagrad's sum of squares is rescaled always.
    rescale_moments: bool = False

    def reference_group(self) -> dict[str, Any]:
        """The torch param group at the reference batch.

        Raises:
            UserError: an optimizer this trainer does not know.
        """
        if self.name not in _CLASSES:
            raise UserError(f"optimizer.name {self.name!r} is none of {', '.join(_CLASSES)}")
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
        return group

    def scaled(self, kappa: float) -> tuple[dict[str, Any], float]:
        """The param group and the clipping threshold at `kappa` times the reference batch.

        Raises:
            UserError: the rule has no answer there, or an unknown rule.
        """
        group = self.reference_group()
        if self.rule == "none":
            return group, self.clip_norm
        if self.rule != "full":
            raise UserError(f"optimizer.rule {self.rule!r} is neither full nor none")
        # As `betas` itself, their form matters to those only that have them.
        beta_form = self.beta_form if self.name in _WITH_BETAS else "power"
        try:
            group = scale_hyperparameters(
                self.name, group, kappa, beta_form=beta_form, noise_share=self.noise_share
            )
            clip_norm = scale_clip_norm(self.clip_norm, kappa, noise_share=self.noise_share)
        except (ValueError, ArithmeticError) as error:
            raise UserError(f"optimizer: {error}") from error
        return group, clip_norm


def build_optimizer(model: nn.Module, config: OptimizerConfig, kappa: float) -> torch.optim.Optimizer:
    """The torch optimizer, scaled; in its fused form, a step in one pass over memory, where it has one."""
    group, _ = config.scaled(kappa)
    cls = _CLASSES[config.name]
    if "fused" in inspect.signature(cls).parameters:
        sharded = any(hasattr(p, "to_local") for p in model.parameters())
        group["fused" if not sharded or config.name in _FUSED_WHEN_SHARDED else "foreach"] = True
    try:
        return cls(model.parameters(), **group)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error
