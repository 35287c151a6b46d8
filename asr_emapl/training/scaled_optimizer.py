"""The optimizer of a run at the kappa of the current step."""

from __future__ import annotations

from torch import nn

from asr_emapl.hyperparameters import OptimizerConfig, build_optimizer
from asr_emapl.scaling import BatchNormMomenta, ScalingPlan, StepHyperparameters, rescale_optimizer_state


class ScaledOptimizer:
    """A torch optimizer whose hyper-parameters, state and batch norm momenta follow the scaling plan.

    Attributes:
        optimizer: the torch optimizer.
        kappa: kappa for which the hyper-parameters of its last step were scaled (`StepHyperparameters.gain`).
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig, plan: ScalingPlan) -> None:
        self.rules, self.kappa = plan.optimizer, plan.steps.kappa()
        self.optimizer = build_optimizer(model, config.name, self.rules.at(self.kappa)[0], config.groups)
        self.batch_norm = BatchNormMomenta(model)

    def apply(self, now: StepHyperparameters, passes: int, hours: float) -> None:
        """Set the hyper-parameters of a step; rescale the optimizer state if kappa changes.

        Args:
            passes: forward passes of this process in the step.
            hours: audio consumed before the step.
        """
        if self.rules.rule != "none":
            rescale_optimizer_state(
                self.optimizer,
                self.kappa,
                now.gain,
                second_moments=self.rules.rescale_moments,
                noise_share=self.rules.noise_share,
            )
            self.batch_norm.scale(now.kappa, passes)
        self.kappa = now.gain
        for group in self.optimizer.param_groups:
            group.update(now.param_group)
            group["lr"] = group["lr"] * group["lr_factor"]
            group["is_frozen"] = hours < group["frozen_hours"]
