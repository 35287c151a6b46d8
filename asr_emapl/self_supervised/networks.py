"""The encoder of a CTC model with the heads of an objective.

Axes: B utterances or crops, T frames, F features, D width of the encoder, E size of the embedding,
V = 2 views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.errors import UserError
from asr_emapl.self_supervised.config import ByolConfig

VIEWS = 2


class SelfSupervisedModel(nn.Module):
    """Base class: the model without its CTC output.

    Args:
        encoder: a `CtcModel` with `layer_outputs`; its layer `output` is removed.
        target: import path of the model, for messages.

    Raises:
        UserError: the model has no such method or layer.
    """

    def __init__(self, encoder: nn.Module, target: str) -> None:
        super().__init__()
        output = getattr(encoder, "output", None)
        if not hasattr(encoder, "layer_outputs") or not isinstance(output, nn.Linear):
            raise UserError(
                f"model.target {target}: self-supervision requires a method layer_outputs(features, lengths) "
                "and a linear layer `output`; add them, or use asr_emapl.models.transformer:TransformerCtc"
            )
        self.encoder, self.width = encoder, output.in_features
        del encoder.output

    def layers(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """The outputs of the encoder's layers, each [B, T', D], and their lengths [B]."""
        found: tuple[list[Tensor], Tensor] = self.encoder.layer_outputs(features_BTF, lengths_B)  # type: ignore[operator]
        return found

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        frames: Tensor = self.encoder.output_lengths(lengths)  # type: ignore[operator]
        return frames

    @property
    def options_without_weights(self) -> Callable[[], Mapping[str, Any]] | None:
        """See `CtcModel`; None: the encoder does not define it."""
        return getattr(self.encoder, "options_without_weights", None)

    def begin_step(self, seed: int) -> None:
        """See `CtcModel`."""
        begin_step = getattr(self.encoder, "begin_step", None)
        if begin_step is not None:
            begin_step(seed)


class MaskedModel(SelfSupervisedModel):
    """Encoder with a linear layer that predicts the teacher's outputs (data2vec, section 3.2)."""

    def __init__(self, encoder: nn.Module, target: str) -> None:
        super().__init__(encoder, target)
        self.predictor = nn.Linear(self.width, self.width)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """The outputs of the layers, each [B, T', D], and the prediction [B, T', D] float32."""
        layers, _ = self.layers(features_BTF, lengths_B)
        return layers, self.predictor(layers[-1]).float()


class ByolModel(SelfSupervisedModel):
    """Encoder, mean over frames, projector and predictor (Grill et al. 2020, section 3.1)."""

    def __init__(self, encoder: nn.Module, target: str, config: ByolConfig) -> None:
        super().__init__(encoder, target)
        self.projector = _perceptron(self.width, config)
        self.predictor = _perceptron(config.size, config)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Projection and prediction, each [V, B, E] float32.

        Args:
            features_BTF: [V B, T, F], the first views of all crops, then the second ones.
            lengths_B: [V B].
        """
        layers, frames_B = self.layers(features_BTF, lengths_B)
        x_BTD = layers[-1]
        valid_BT1 = (torch.arange(x_BTD.shape[1], device=x_BTD.device) < frames_B[:, None])[..., None]
        mean_BD = (x_BTD * valid_BT1).sum(1) / frames_B[:, None]
        projection_VBE = self.projector(mean_BD.float().unflatten(0, (VIEWS, -1)))
        return projection_VBE.float(), self.predictor(projection_VBE).float()


class CropNorm(nn.Module):
    """Batch norm over the crops of one view in one forward pass, also in eval mode.

    The number of crops in a pass is fixed (`ByolConfig.statistics_crops`), so the noise of the statistics, on
    which BYOL depends, changes neither with kappa nor with the number of processes. There are no running
    statistics: the teacher normalises by the crops of its pass, too, as in the paper.
    """

    def __init__(self, size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x_VBE: Tensor) -> Tensor:
        """[V, B, E] -> [V, B, E]."""
        x_VBE = x_VBE.float()
        variance_V1E, mean_V1E = torch.var_mean(x_VBE, dim=1, correction=0, keepdim=True)
        return (x_VBE - mean_V1E) * torch.rsqrt(variance_V1E + self.eps) * self.weight + self.bias


def _perceptron(inputs: int, config: ByolConfig) -> nn.Sequential:
    norm = CropNorm(config.hidden) if config.batch_norm else nn.Identity()
    return nn.Sequential(
        nn.Linear(inputs, config.hidden), norm, nn.ReLU(), nn.Linear(config.hidden, config.size)
    )
