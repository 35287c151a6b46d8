"""What is exported as a graph: a model with or without its features, for any batch size and length.

Axes: B utterances, N samples, T frames, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.errors import UserError

Pair = tuple[Tensor, Tensor]
"""Input and lengths, or log-probabilities and frames."""

DYNAMIC_SHAPES = (
    {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},
    {0: torch.export.Dim.AUTO},
)
TOLERANCE = 1e-3
"""Largest difference of a log-probability. It is about 1e-6 for features, and 1e-4 if the features are
computed inside: frames that are almost silent amplify it."""

_TRACED_SECONDS, _CHECKED_SECONDS = (2.0, 1.5), (3.1, 2.7, 0.9)


class Traced(nn.Module):
    """A model, and inputs to trace and to check it.

    Args:
        recognizer: on the CPU.
        waveforms: whether the input is a waveform [B, N] at 16 kHz, so that the features are computed inside;
            otherwise features [B, T, F]. Lengths are long [B].
    """

    def __init__(self, recognizer: Recognizer, *, waveforms: bool) -> None:
        super().__init__()
        self.features, self.model = recognizer.features, recognizer.model
        self.waveforms = waveforms
        self.eval()

    def forward(self, inputs: Tensor, lengths_B: Tensor) -> Pair:
        """Log-probabilities [B, T, V] and frames [B]."""
        if self.waveforms:
            inputs, lengths_B = self.features(inputs, lengths_B)
        found: Pair = self.model(inputs, lengths_B)
        return found

    def inputs(self, seconds: Sequence[float] = _TRACED_SECONDS) -> Pair:
        """A random input for utterances of given seconds, the longest first."""
        samples_B = torch.tensor([round(s * SAMPLE_RATE_HZ) for s in seconds])
        generator = torch.Generator().manual_seed(0)
        audio_BN = 0.1 * torch.randn(len(seconds), int(samples_B[0]), generator=generator)
        if self.waveforms:
            return audio_BN, samples_B
        features: Pair = self.features(audio_BN, samples_B)
        return features

    def checked(self, run: Callable[[Pair], Pair], path: Path) -> float:
        """The largest difference of an exported graph to torch, on other shapes than those traced.

        Raises:
            UserError: the graph does not support them, or it differs by more than `TOLERANCE`.
        """
        differences = [self._difference(run, s) for s in (_CHECKED_SECONDS, _CHECKED_SECONDS[:1])]
        if not max(differences) <= TOLERANCE:
            raise UserError(
                f"{path}: the exported model differs from torch's by {max(differences):.3g}; not written"
            )
        return max(differences)

    def _difference(self, run: Callable[[Pair], Pair], seconds: Sequence[float]) -> float:
        inputs = self.inputs(seconds)
        try:
            found_BTV, frames_B = run(inputs)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"the exported model supports only some batch sizes or lengths ({reason})"
            ) from error
        with torch.no_grad():
            expected_BTV, expected_B = self(*inputs)
        if frames_B.tolist() != expected_B.tolist():
            return float("inf")
        return max(
            float((found_BTV[row, :length] - expected_BTV[row, :length]).abs().max())
            for row, length in enumerate(expected_B.tolist())
        )
