"""Models for check-model: some are sound, and each of the others breaks one thing."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sound(nn.Module):
    """A convolution with stride 2 and a skippable layer. The models below each break one thing of it."""

    stride = 2

    def __init__(self, vocabulary_size: int, input_size: int = 80, dim: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv1d(input_size, dim, 3, self.stride, padding=1)
        self.extra = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(dim, vocabulary_size)
        self.layerdrop, self.seed = 0.0, 0

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD = self.dropout(self.hidden(features, lengths).relu())
        skip = self.training and self.draw() < self.layerdrop
        x_BTD = x_BTD + (0.0 if skip else 1.0) * self.extra(x_BTD)
        return self.log_probs(self.output(x_BTD)), self.returned_lengths(lengths)

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        valid_BT = torch.arange(features.shape[1]) < lengths[:, None]
        return self.conv((features * valid_BT[..., None]).transpose(1, 2)).transpose(1, 2)

    def log_probs(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits.float(), dim=-1)

    def draw(self) -> float:
        return float(torch.rand((), generator=torch.Generator().manual_seed(self.seed)))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return (lengths - 1) // self.stride + 1

    def returned_lengths(self, lengths: Tensor) -> Tensor:
        return self.output_lengths(lengths)

    def begin_step(self, seed: int) -> None:
        self.seed = seed

    def set_dropout(self, dropout: float | None = None, layerdrop: float | None = None) -> None:
        self.dropout.p = self.dropout.p if dropout is None else dropout
        self.layerdrop = self.layerdrop if layerdrop is None else layerdrop


class Packed(Sound):
    """With a bidirectional recurrent layer that does not read padding."""

    def __init__(self, vocabulary_size: int, input_size: int = 80, dim: int = 8) -> None:
        super().__init__(vocabulary_size, input_size, dim)
        self.recurrent = nn.LSTM(dim, dim // 2, bidirectional=True, batch_first=True)

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        x_BTD = super().hidden(features, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(
            x_BTD, self.output_lengths(lengths).cpu(), batch_first=True, enforce_sorted=False
        )
        output, _ = self.recurrent(packed)
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x_BTD.shape[1])[0]


class NotPacked(Packed):
    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.recurrent(Sound.hidden(self, features, lengths))[0]


class Bare(nn.Module):
    """Nothing but what has to be there."""

    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__()
        self.output = nn.Linear(input_size, vocabulary_size)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return F.log_softmax(self.output(features).float(), dim=-1), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths


class NoTuple(Sound):
    def forward(self, features, lengths):  # type: ignore[override]
        return super().forward(features, lengths)[0]


class TimeFirst(Sound):
    def forward(self, features, lengths):
        log_probs, lengths = super().forward(features, lengths)
        return log_probs.transpose(0, 1), lengths


class TwiceAsPrecise(Sound):
    def log_probs(self, logits: Tensor) -> Tensor:
        return super().log_probs(logits).double()


class Raises(Sound):
    def hidden(self, features, lengths):
        raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")


class Probabilities(Sound):
    def log_probs(self, logits: Tensor) -> Tensor:
        return super().log_probs(logits).exp()


class IntermediateTensor(Sound):
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        found = super().forward(features, lengths)
        return (*found, self.between(found[0])) if self.training else found

    def between(self, log_probs_BTV: Tensor) -> Any:
        return log_probs_BTV


class IntermediateLogits(IntermediateTensor):
    def between(self, log_probs_BTV: Tensor) -> Any:
        return [log_probs_BTV, log_probs_BTV + 1.0]


class IntermediateShapes(IntermediateTensor):
    def between(self, log_probs_BTV: Tensor) -> Any:
        return [log_probs_BTV[:, ::2]]


class LengthsOfInput(Sound):
    def returned_lengths(self, lengths: Tensor) -> Tensor:
        return lengths


class RoundedDown(Sound):
    """Right for even lengths only."""

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // self.stride

    def returned_lengths(self, lengths: Tensor) -> Tensor:
        return super().output_lengths(lengths)


class TooLong(Sound):
    """Says the same twice, and more than there is."""

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths // self.stride + 1


class LengthsAsFloat(Sound):
    def output_lengths(self, lengths: Tensor) -> Tensor:
        return super().output_lengths(lengths).float()


class AlwaysDrops(Sound):
    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return F.dropout(super().hidden(features, lengths), 0.5)


class LeaksGarbage(Sound):
    """Relies on zeros as padding."""

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.conv(features.transpose(1, 2)).transpose(1, 2)


class LeaksLength(Sound):
    """Takes the mean over the padding too."""

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        x_BTD = super().hidden(features, lengths)
        return x_BTD - x_BTD.mean(1, keepdim=True)


class LeaksBehindZeros(LeaksLength):
    """The same, hidden by a last layer that starts at zero."""

    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        nn.init.zeros_(self.output.weight)


class BatchNormed(Sound):
    """Batch statistics that count padded frames; `masked` sets them to zero before."""

    masked = False

    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        self.norm = nn.BatchNorm1d(8)

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        x_BTD = super().hidden(features, lengths)
        if self.masked:
            x_BTD = x_BTD * (torch.arange(x_BTD.shape[1]) < self.output_lengths(lengths)[:, None])[..., None]
        return self.norm(x_BTD.transpose(1, 2)).transpose(1, 2)


class BatchNormedAfterMask(BatchNormed):
    masked = True


class ValidFramesNormed(Sound):
    """Batch statistics of valid frames only."""

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        x_BTD = super().hidden(features, lengths)
        if not self.training:
            return x_BTD
        valid_BT = torch.arange(x_BTD.shape[1]) < self.output_lengths(lengths)[:, None]
        return (x_BTD - x_BTD[valid_BT].mean(0)) / (x_BTD[valid_BT].std(0) + 1e-3)


class Unused(Sound):
    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        self.forgotten = nn.Linear(3, 3)


class Overflows(Sound):
    """Finite forwards, infinite backwards."""

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return super().hidden(features, lengths) + (0.0 * self.conv.weight.sum()).sqrt()


class WeightNormed(Sound):
    """As wav2vec 2.0's positional convolution; copy.deepcopy fails for it."""

    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            nn.utils.weight_norm(self.conv, dim=2)


class KeepsDoubles(Sound):
    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        self.double()

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return super().hidden(features.double(), lengths)


class ReadsOtherState(Sound):
    """What a copy computes depends on what the state_dict does not hold."""

    def __init__(self, vocabulary_size: int, input_size: int = 80) -> None:
        super().__init__(vocabulary_size, input_size)
        self.scale = torch.rand(())

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return self.scale * super().hidden(features, lengths)


class HalfUnderAutocast(Sound):
    def log_probs(self, logits: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=-1).to(logits.dtype)


class OtherSignature(Sound):
    def set_dropout(self, rate: float) -> None:  # type: ignore[override]
        self.dropout.p = rate


class BothRatesAtOnce(Sound):
    def set_dropout(self, dropout: float, layerdrop: float) -> None:  # type: ignore[override]
        super().set_dropout(dropout, layerdrop)


class ResetsTheOtherRate(Sound):
    def set_dropout(self, dropout: float = 0.1, layerdrop: float = 0.0) -> None:  # type: ignore[override]
        super().set_dropout(dropout, layerdrop)


class LayersByGlobalDraw(Sound):
    def draw(self) -> float:
        return float(torch.rand(()))


class LayersByCount(Sound):
    """The generator runs on from one micro-batch to the next."""

    def begin_step(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> float:
        if not hasattr(self, "generator"):
            self.begin_step(0)
        return float(torch.rand((), generator=self.generator))


class LayersUnseeded(Sound):
    """Alike within a step, but not when the same step is done again."""

    def begin_step(self, seed: int) -> None:
        self.seed = self.steps = getattr(self, "steps", 0) + 1


class ByPlace(Sound):
    """Treats the first utterance of a batch differently; alone, each utterance is the first."""

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        x_BTD = super().hidden(features, lengths)
        # Only in a batch whose first utterance is the longest is the second one shifted.
        is_second = torch.arange(len(lengths)) == 1
        shifted = is_second & (lengths[0] < lengths[-1])
        return x_BTD + shifted.float()[:, None, None]


class UndefinedForSilence(Sound):
    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        loudness_B11 = features.square().mean((1, 2), keepdim=True)
        scaled = features if loudness_B11.min() > 0.0 else features / loudness_B11.sqrt()
        return super().hidden(scaled, lengths)


class OnWaveforms(Sound):
    """Takes waveforms."""

    input = "waveform"
    stride = 160

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, 1)

    def hidden(self, features: Tensor, lengths: Tensor) -> Tensor:
        return super().hidden(features[..., None], lengths)
