"""The EMA Scaling Rule: scale all hyper-parameters when the batch size is multiplied by kappa.

Busbridge et al., "How to Scale Your EMA", NeurIPS 2023: the momentum of an exponential moving average changes
from rho to rho ** kappa, and the optimizer's hyper-parameters are scaled by the optimizer's rule. Training is
then the same as a function of the data consumed. This package imports only torch and is not specific to
speech: use it for any model with a moving average.
"""

from asr_emapl.scaling.averages import half_life, momentum, scale_batch_norm_momentum, scale_momentum
from asr_emapl.scaling.batch_norm import BatchNormMomenta
from asr_emapl.scaling.clock import AudioClock
from asr_emapl.scaling.gradient_noise import NoiseAverage, gain, scale_clip_norm, scale_noise_share
from asr_emapl.scaling.plan import ReferenceOptimizer, ScalingPlan, StepAudio, StepHyperparameters
from asr_emapl.scaling.progressive import (
    BatchGrowth,
    BatchSchedule,
    double_with_decay,
    rescale_optimizer_state,
)
from asr_emapl.scaling.rules import scale_hyperparameters
from asr_emapl.scaling.schedule import Schedule

__all__ = [
    "AudioClock",
    "BatchGrowth",
    "BatchNormMomenta",
    "BatchSchedule",
    "NoiseAverage",
    "ReferenceOptimizer",
    "ScalingPlan",
    "Schedule",
    "StepAudio",
    "StepHyperparameters",
    "double_with_decay",
    "gain",
    "half_life",
    "momentum",
    "rescale_optimizer_state",
    "scale_batch_norm_momentum",
    "scale_clip_norm",
    "scale_hyperparameters",
    "scale_momentum",
    "scale_noise_share",
]
