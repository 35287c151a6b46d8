"""What encoders on log-mel features have in common: a strided convolution before them, a CTC output after.

Axes: B utterances, T frames, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.models.front_ends import ConvFrontEnd


class FeatureEncoderCtc(nn.Module):
    """A strided convolution, the encoder of a subclass on its frames, and a CTC output."""

    def __init__(
        self, vocabulary_size: int, input_size: int, dim: int, kernel: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        self.frontend = ConvFrontEnd(input_size, dim, kernel, stride, dropout)
        self.output = nn.Linear(dim, vocabulary_size)

    def encode(self, x_BTD: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """[B, T, D] -> outputs of layers [B, T, D], at least of the last.

        Frames after an utterance's end must not affect the others.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`."""
        layers, lengths = self.layer_outputs(features, lengths)
        return F.log_softmax(self.output(layers[-1]).float(), dim=-1), lengths

    def layer_outputs(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `CtcModel`."""
        x_BTD, lengths = self.frontend(features, lengths)
        return self.encode(x_BTD, lengths), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        return self.frontend.output_lengths(lengths)
