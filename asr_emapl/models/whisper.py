"""Encoders of Whisper (Radford et al. 2022): as a frozen feature extractor, or fine-tuned with a CTC output.

Whisper pads all audio to 30 s. Here the encoder sees only the utterance: the positions are those of its
frames, and padding is masked. Axes: B utterances, N samples, T frames, F mel bands, D model width, V tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl import storage
from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.errors import UserError
from asr_emapl.models.cpu import attend
from asr_emapl.models.weights import COPY_THERE
from asr_emapl.models.whisper_weights import read_encoder

_WINDOW, _HOP = 400, 160
_CONTEXT = 100  # frames of 10 ms; even
_HEAD_SIZE = 64  # in all of OpenAI's models


class WhisperLogMel(FeatureExtractor):
    """Whisper's log-mel features at 100 frames/s, without its padding to 30 s.

    log10 of a Slaney mel spectrogram, at most 8 below the utterance's maximum, then (x + 4) / 4.
    """

    frame_seconds = _HOP / SAMPLE_RATE_HZ
    bank: Tensor
    window: Tensor

    def __init__(self, mel_bands: int = 80) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.size = mel_bands
        bank = melscale_fbanks(_WINDOW // 2 + 1, 0.0, 8000.0, mel_bands, SAMPLE_RATE_HZ, "slaney", "slaney")
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW), persistent=False)

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return torch.clamp(samples_B // _HOP, min=1)

    @torch.no_grad()
    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureExtractor.forward`."""
        lengths_B = self.frames(samples_B)
        # Reflected at the start, as in Whisper; followed by silence, as its 30 s are.
        most = waveforms_BN.shape[1]
        waveforms_BN = F.pad(waveforms_BN.float(), (0, max(0, _WINDOW - most)))
        waveforms_BN = F.pad(waveforms_BN, (_WINDOW // 2, 0), mode="reflect")
        waveforms_BN = F.pad(waveforms_BN, (0, _WINDOW // 2))
        with torch.autocast(waveforms_BN.device.type, enabled=False):
            spectrum_BKT = torch.stft(
                waveforms_BN, _WINDOW, _HOP, window=self.window, center=False, return_complex=True
            )
            power_BTK = spectrum_BKT.abs().square().transpose(1, 2)
            log_BTF = (power_BTK @ self.bank).clamp(min=1e-10).log10()
        log_BTF = log_BTF[:, : torch.sym_max(most // _HOP, 1)]
        valid_BT1 = _valid(log_BTF, lengths_B)[..., None]
        top_B11 = log_BTF.masked_fill(~valid_BT1, -torch.inf).amax((1, 2), keepdim=True)
        return (torch.maximum(log_BTF, top_B11 - 8.0) + 4.0) / 4.0 * valid_BT1, lengths_B


class WhisperEncoder(nn.Module):
    """The encoder with the weights of a file (see `whisper_weights`).

    Args:
        weights: path of the file; None: random weights.
        layers: number of transformer layers that are used; None: all.
        sizes: without `weights`: "dim", "mel_bands", "frames" (number of positions) and "layers".

    Raises:
        UserError: see `read_encoder`; also if tensors are missing, or there are fewer layers.
        ValueError: neither `weights` nor all `sizes` are given.
    """

    positional_embedding: Tensor

    def __init__(
        self, weights: str | Path | None, layers: int | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if weights is None:
            if sizes is None or sizes.keys() != {"dim", "mel_bands", "frames", "layers"}:
                raise ValueError("set weights, or sizes with dim, mel_bands, frames and layers")
            self._build(**sizes)
            return
        tensors = read_encoder(weights)
        try:
            positions, kernel = tensors["positional_embedding"], tensors["conv1.weight"]
        except KeyError as error:
            raise UserError(f"Whisper weights {weights}: tensor {error} of the encoder is missing") from error
        there = 1 + max(
            (int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), default=-1
        )
        layers = there if layers is None else layers
        if not 0 < layers <= there:
            raise UserError(f"Whisper weights {weights}: has {there} layers; set layers to 1 to {there}")
        self._build(positions.shape[1], kernel.shape[1], len(positions), layers)
        wanted = self.state_dict()
        missing = sorted(wanted.keys() - tensors.keys())
        wrong = [n for n in wanted.keys() & tensors.keys() if tensors[n].shape != wanted[n].shape]
        if missing or wrong:
            raise UserError(f"Whisper weights {weights}: missing or misshaped: {', '.join(missing + wrong)}")
        self.load_state_dict({name: tensors[name] for name in wanted})

    def _build(self, dim: int, mel_bands: int, frames: int, layers: int) -> None:
        self.dim, self.mel_bands, self.most_frames = dim, mel_bands, frames
        self.conv1 = nn.Conv1d(mel_bands, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.zeros(frames, dim))
        self.blocks = nn.ModuleList(_Block(dim) for _ in range(layers))
        self.ln_post = nn.LayerNorm(dim)

    @property
    def sizes(self) -> dict[str, int]:
        """The argument `sizes` that builds this encoder."""
        sizes = {"dim": self.dim, "mel_bands": self.mel_bands, "frames": self.most_frames}
        return sizes | {"layers": len(self.blocks)}

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        """Mel frames to output frames of 20 ms, long [B]."""
        return (lengths_B + 1) // 2

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, F] -> [B, T', D], zero after each utterance's end, and lengths [B].

        An utterance longer than 30 s, which the positions do not cover, is encoded in windows.
        """
        if features_BTF.shape[1] <= 2 * self.most_frames:
            return self._encode(features_BTF, lengths_B)
        rows = [self._encode_long(x[:n]) for x, n in zip(features_BTF, lengths_B.tolist(), strict=True)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), self.output_lengths(lengths_B)

    def _encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BFT = (features_BTF * _valid(features_BTF, lengths_B)[..., None]).transpose(1, 2)
        x_BDT = F.gelu(self.conv1(x_BFT)) * _valid(features_BTF, lengths_B)[:, None]
        x_BTD = F.gelu(self.conv2(x_BDT)).transpose(1, 2)
        lengths_B = self.output_lengths(lengths_B)
        valid_BT = _valid(x_BTD, lengths_B)
        x_BTD = x_BTD + self.positional_embedding[: x_BTD.shape[1]].to(x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, valid_BT)
        return self.ln_post(x_BTD) * valid_BT[..., None], lengths_B

    def _encode_long(self, features_TF: Tensor) -> Tensor:
        """[T, F] -> [T', D]: windows of equal size with a second of context on both sides."""
        frames, most = len(features_TF), 2 * self.most_frames
        if frames > most:
            most -= 2 * _CONTEXT
        size = -(-frames // -(-frames // most))
        size += size % 2  # two frames per output frame
        parts = []
        for start in range(0, frames, size):
            before, end = min(start, _CONTEXT), min(start + size, frames)
            window_TF = features_TF[start - before : min(end + _CONTEXT, frames)]
            x_BTD, _ = self._encode(
                window_TF[None], torch.tensor([len(window_TF)], device=features_TF.device)
            )
            parts.append(x_BTD[0, before // 2 : before // 2 + (end - start + 1) // 2])
        return torch.cat(parts)


class WhisperEncoderFeatures(FeatureExtractor):
    """The output of a frozen Whisper encoder as features at 50 frames/s.

    Args:
        weights, layers, sizes: see `WhisperEncoder`.
        sha256: expected SHA-256 of the file of weights; None: not verified.

    Raises:
        UserError: see `WhisperEncoder`; also if the file has another SHA-256.
    """

    frame_seconds = 0.02

    def __init__(
        self,
        weights: str | None = None,
        layers: int | None = None,
        sha256: str | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        require_sha256(weights, sha256)
        self.encoder = WhisperEncoder(weights, layers, sizes)
        self.log_mel = WhisperLogMel(self.encoder.mel_bands)
        self.size = self.encoder.dim

    def options_without_weights(self) -> dict[str, Any]:
        """See `CtcModel`."""
        return {"sizes": self.encoder.sizes}

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return self.encoder.output_lengths(self.log_mel.frames(samples_B))

    @torch.no_grad()
    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureExtractor.forward`."""
        x_BTD, lengths_B = self.encoder(*self.log_mel(waveforms_BN, samples_B))
        return x_BTD.float(), lengths_B


class WhisperCtc(nn.Module):
    """A Whisper encoder with a linear CTC output, for fine-tuning.

    Args:
        weights, layers, sizes: see `WhisperEncoder`.
        dropout: dropout before the output layer.
        sha256: expected SHA-256 of the file of weights; None: not verified.
    """

    input = "asr_emapl.models.whisper:WhisperLogMel"

    def __init__(
        self,
        vocabulary_size: int,
        input_size: int,
        weights: str | None = None,
        layers: int | None = None,
        dropout: float = 0.1,
        sha256: str | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        require_sha256(weights, sha256)
        self.encoder = WhisperEncoder(weights, layers, sizes)
        if input_size != self.encoder.mel_bands:
            raise ValueError(f"{weights} takes {self.encoder.mel_bands} mel bands, not {input_size}")
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.encoder.dim, vocabulary_size)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`."""
        (x_BTD,), lengths = self.layer_outputs(features, lengths)
        return F.log_softmax(self.output(self.dropout(x_BTD)).float(), dim=-1), lengths

    def layer_outputs(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """See `CtcModel`; only the output of the last layer."""
        x_BTD, lengths = self.encoder(features, lengths)
        return [x_BTD], lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """See `CtcModel.output_lengths`."""
        return self.encoder.output_lengths(lengths)

    def options_without_weights(self) -> dict[str, Any]:
        """See `CtcModel`."""
        return {"sizes": self.encoder.sizes, "dropout": self.dropout.p}


def require_sha256(path: str | Path | None, expected: str | None) -> None:
    """Check the SHA-256 of a file of weights.

    Raises:
        UserError: it cannot be read, or has another SHA-256.
    """
    if path is None or expected is None:
        return
    try:
        found = storage.sha256(path)
    except OSError as error:
        raise UserError(f"Whisper weights {path}: cannot be read ({error.strerror}); {COPY_THERE}") from error
    if found != expected.lower():
        raise UserError(f"Whisper weights {path}: SHA-256 is {found}, not {expected}; use the expected file")


class _Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn_ln, self.mlp_ln = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "out": nn.Linear(dim, dim)})
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x_BTD: Tensor, valid_BT: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]; invalid frames do not affect the others."""
        batch, frames, dim = x_BTD.shape
        heads_3BHTd = self.attn["qkv"](self.attn_ln(x_BTD)).view(
            batch, frames, 3, dim // _HEAD_SIZE, _HEAD_SIZE
        )
        query, key, value = heads_3BHTd.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(query, key, value, valid_BT, 0.0)
        x_BTD = x_BTD + self.attn["out"](attended.transpose(1, 2).reshape(batch, frames, dim))
        return x_BTD + self.mlp(self.mlp_ln(x_BTD))


def _valid(x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    return torch.arange(x_BTF.shape[1], device=lengths_B.device) < lengths_B[:, None]
