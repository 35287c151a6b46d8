"""The student's optimizer: hyper-parameters stated at the reference batch, scaled to the one in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.scaling import scale_clip_norm, scale_hyperparameters


@dataclass
class OptimizerConfig:
    """Everything at the reference batch; the rule does the rest."""

    name: str = "adamw"
    lr: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-8
    weight_decay: float = 0.0
    # SGD's heavy-ball momentum.
    momentum: float = 0.9
    # Gradient norm at the reference batch, C / sqrt(kappa) at another; 0: no clipping.
    clip_norm: float = 1.0
    # full: the optimizer's rule; none: leave all as it is (to see what that does).
    rule: str = "full"
    beta_form: str = "power"

    def reference_group(self) -> dict[str, Any]:
        """The torch param group at the reference batch.

        Raises:
            UserError: an optimizer this trainer does not know.
        """
        common = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name in ("adam", "adamw"):
            if len(self.betas) != 2:
                raise UserError(f"optimizer.betas takes two numbers, not {len(self.betas)}")
            return common | {"betas": tuple(self.betas), "eps": self.eps}
        if self.name == "sgd":
            return common | {"momentum": self.momentum}
        raise UserError(f"optimizer.name {self.name!r} is none of adamw, adam, sgd")

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
        try:
            group = scale_hyperparameters(self.name, group, kappa, beta_form=self.beta_form)
        except ValueError as error:
            raise UserError(f"optimizer: {error}") from error
        return group, scale_clip_norm(self.clip_norm, kappa)


def build_optimizer(model: nn.Module, config: OptimizerConfig, kappa: float) -> torch.optim.Optimizer:
    """The torch optimizer, scaled; its fused form, which does a step in one pass over memory."""
    classes = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    group, _ = config.scaled(kappa)
    try:
        return classes[config.name](model.parameters(), fused=True, **group)
    except ValueError as error:
        raise UserError(f"optimizer: {error}") from error
