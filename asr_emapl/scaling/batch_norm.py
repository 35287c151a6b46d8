"""Running statistics of batch norm, an average like the teacher: its memory follows the audio too."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from asr_emapl.scaling.averages import scale_batch_norm_momentum


class BatchNormMomenta:
    """The batch-norm layers of a model whose running statistics have a memory, with their momenta as built.

    A layer's momentum is taken for that of a reference step in one forward pass. A step of kappa reference
    steps in n forward passes updates the statistics n times, each time by kappa / n: so their memory depends
    on neither the batch nor the memory of the device. Layers with `momentum=None` (torch's cumulative
    average) have none to scale. What is normalised together stays a micro-batch.
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
        """Set the momenta for a step of `kappa` reference steps, made in `passes` forward passes."""
        for layer, momentum in self._layers:
            layer.momentum = scale_batch_norm_momentum(momentum, kappa / max(1, passes))
