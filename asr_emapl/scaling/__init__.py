"""The EMA Scaling Rule: what to do to every hyper-parameter when the batch grows by kappa.

Busbridge et al., "How to Scale Your EMA", NeurIPS 2023: when the batch grows by kappa, the momentum of an
exponential moving average goes from rho to rho ** kappa and the optimizer's hyper-parameters go by the
optimizer's own rule, so that training at equal *data consumed* stays the same. Nothing here knows of speech
and nothing but torch is imported: use it for any model that has a moving average.
"""

from asr_emapl.scaling.averages import half_life, momentum, scale_batch_norm_momentum, scale_momentum
from asr_emapl.scaling.batch_norm import BatchNormMomenta
from asr_emapl.scaling.clock import AudioClock
from asr_emapl.scaling.gradient_noise import gain, scale_clip_norm, scale_noise_share
from asr_emapl.scaling.plan import ReferenceOptimizer, ScalingPlan, StepAudio, StepHyperparameters
from asr_emapl.scaling.progressive import BatchSchedule, rescale_optimizer_state
from asr_emapl.scaling.rules import scale_hyperparameters
from asr_emapl.scaling.schedule import Schedule

__all__ = [
    "AudioClock",
    "BatchNormMomenta",
    "BatchSchedule",
    "ReferenceOptimizer",
    "ScalingPlan",
    "Schedule",
    "StepAudio",
    "StepHyperparameters",
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
