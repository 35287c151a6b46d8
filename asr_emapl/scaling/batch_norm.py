"""Scale the momentum of batch norm's running statistics, which are a moving average like the teacher."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_emapl.scaling.averages import scale_batch_norm_momentum


class BatchNormMomenta:
    """Scales the momentum of a model's batch-norm layers.

    A layer's initial momentum is that of a reference step in one forward pass. A step of kappa reference
    steps in n forward passes updates the statistics n times, each time with kappa / n. Their half-life in
    audio is then independent of batch and micro-batch size. Layers with `momentum=None` (torch's cumulative
    average) are not scaled. Examples are still normalised within a micro-batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[tuple[_BatchNorm, float]] = [
            (layer, layer.momentum)
            for layer in model.modules()
            if isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.momentum is not None
        ]

    def __len__(self) -> int:
        return len(self._layers)

    def scale(self, kappa: float, passes: int) -> None:
        """Set the momenta for a step of `kappa` reference steps in `passes` forward passes."""
        for layer, momentum in self._layers:
            layer.momentum = scale_batch_norm_momentum(momentum, kappa / max(1, passes))
