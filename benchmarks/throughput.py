"""Training speed in hours of audio per hour, compared with the encoders and batching of other packages.

    python benchmarks/throughput.py                    # one CPU thread; on a GPU if there is one
    python benchmarks/throughput.py --precisions bf16 --encoder paper --seconds 290

All models run in fp32 and with bf16 autocast. They have the same features, front-end, positions and CTC head,
and an encoder with the same numbers of layers and heads, widths and dropout (small: 6 layers, width 256,
feed-forward width 1,024, 4 heads; paper: 36, 768, 3,072, 4, which is 255 M parameters). They take complete
optimizer steps (AdamW, clipping) on utterances with lengths as in LibriSpeech. Ours uses BatchPlan and
TrainStep, with the teacher's update. The others use a plain training loop, with batches of SpeechBrain's
DynamicBatchSampler, or random batches of the same padded audio if SpeechBrain is not installed. The models
alternate after each batch. The table shows the median over batches of unpadded audio per time, so padding
lowers the result. Audio and texts are random, which does not change the time. On a CPU, time is processor
time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from timing import work_seconds_of
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.data.batch_plan import BatchPlan, Indices
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import MicroBatch, StepBatch
from asr_emapl.distributed.process_group import ProcessGroup, leave_out_cudnn_attention
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.front_ends import ConvFrontEnd
from asr_emapl.models.transformer import Positions, TransformerCtc
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.training.build import build_step

VOCABULARY, CHARACTERS_PER_SECOND = 29, 14
LEARNING_RATE = 1e-4
# Peak dense bf16 operations per second, to compute the utilisation (MFU).
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def librispeech_seconds(count: int, seed: int = 0) -> np.ndarray:
    """Lengths like those of train-clean-100: 70 % near 15 s, the others between 1.5 and 15 s."""
    rng = np.random.default_rng(seed)
    long = np.clip(rng.normal(14.8, 1.0, count), 1.5, 17.0)
    return np.where(rng.random(count) < 0.7, long, rng.uniform(1.5, 15.0, count))


@dataclass(frozen=True)
class Shape:
    """The shape of an encoder."""

    layers: int
    dim: int
    feedforward: int
    heads: int
    dropout: float

    def flops_per_second_of_audio(self, seconds: float) -> float:
        """Operations of the matrix products in our forward and backward pass, at this utterance length."""
        frames_per_second = 100 / 3
        layer = 2.0 * (4 * self.dim**2 + 2 * self.dim * self.feedforward)
        layer += 4 * self.dim * seconds * frames_per_second
        return 3.0 * frames_per_second * (self.layers * layer + 2 * 7 * 80 * 2 * self.dim)


SHAPES = {"small": (6, 256, 1024, 4), "paper": (36, 768, 3072, 4)}


class Peer(nn.Module):
    """Our front-end and head with another package's encoder, `encode(x_BTD, valid_BT, lengths_B)`."""

    def __init__(self, encoder: nn.Module, encode: Callable[..., Tensor], shape: Shape) -> None:
        super().__init__()
        self.frontend = ConvFrontEnd(80, shape.dim, 7, 3, shape.dropout)
        self.positions = Positions(shape.dim, 3, 0.01, 0.0)
        self.encoder, self.encode, self.scale = encoder, encode, shape.dim**0.5
        self.output = nn.Linear(shape.dim, VOCABULARY)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `CtcModel.forward`."""
        x_BTD, lengths_B = self.frontend(features_BTF, lengths_B)
        valid_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < lengths_B[:, None]
        x_BTD = x_BTD * self.scale + self.positions(valid_BT, lengths_B).to(x_BTD.dtype)
        x_BTD = self.encode(self.encoder, x_BTD, valid_BT, lengths_B)
        return F.log_softmax(self.output(x_BTD).float(), dim=-1), lengths_B


def torch_encoder(of: Shape) -> Peer:
    """torch's nn.TransformerEncoder."""
    layer = nn.TransformerEncoderLayer(of.dim, of.heads, of.feedforward, of.dropout, batch_first=True)
    encoder = nn.TransformerEncoder(layer, of.layers)
    return Peer(encoder, lambda e, x, valid, lengths: e(x, src_key_padding_mask=~valid), of)


def torchaudio_conformer(of: Shape) -> Peer:
    """torchaudio's Conformer, whose layers have a second feed-forward and a convolution."""
    from torchaudio.models import Conformer

    encoder = Conformer(
        of.dim, of.heads, of.feedforward, of.layers, depthwise_conv_kernel_size=31, dropout=of.dropout
    )
    return Peer(encoder, lambda e, x, valid, lengths: e(x, lengths)[0], of)


def speechbrain_encoder(of: Shape) -> Peer:
    """SpeechBrain's TransformerEncoder."""
    from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder

    encoder = TransformerEncoder(of.layers, of.heads, of.feedforward, d_model=of.dim, dropout=of.dropout)
    return Peer(encoder, lambda e, x, valid, lengths: e(x, src_key_padding_mask=~valid)[0], of)


Batches = Iterator[tuple[Tensor, Tensor, list[list[int]]]]


def audio(lengths: Indices) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Random waveforms [B, N], their numbers of samples [B], and texts."""
    samples_B = torch.from_numpy(lengths)
    texts = [
        torch.randint(1, VOCABULARY, (CHARACTERS_PER_SECOND * n // SAMPLE_RATE_HZ,)).tolist()
        for n in samples_B.tolist()
    ]
    return torch.randn(len(lengths), int(samples_B.max())), samples_B, texts


def planned(samples: Indices, seconds: float) -> Batches:
    """Our batches."""
    plan = BatchPlan(samples, round(seconds * SAMPLE_RATE_HZ))
    for epoch in itertools.count():
        for indices in plan.epoch(epoch)[:-1]:  # the last batch of an epoch is short
            yield audio(samples[indices])


def sampled(samples: Indices, seconds: float) -> Batches:
    """SpeechBrain's batches."""
    from speechbrain.dataio.sampler import DynamicBatchSampler

    each = (samples / SAMPLE_RATE_HZ).tolist()
    sampler = DynamicBatchSampler(
        list(range(len(samples))),
        seconds,
        num_buckets=100,
        length_func=lambda x: x,
        lengths_list=each,
    )
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        for indices in sampler:
            yield audio(samples[np.array(indices)])


def shuffled(samples: Indices, seconds: float) -> Batches:
    """Random batches with at most the same padded audio."""
    rng = np.random.default_rng(0)
    while True:
        batch: list[int] = []
        for i in rng.permutation(len(samples)):
            longer = [*batch, int(i)]
            if int(samples[longer].max()) * len(longer) > seconds * SAMPLE_RATE_HZ:
                yield audio(samples[np.array(batch)])
                longer = [int(i)]
            batch = longer


class PlainStep:
    """A plain training loop."""

    def __init__(self, model: nn.Module, device: torch.device, bf16: bool) -> None:
        self.model, self.device, self.bf16 = model.to(device).train(), device, bf16
        self.features = LogMel().to(device)
        self.optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))

    def __call__(self, waveforms_BN: Tensor, samples_B: Tensor, texts: list[list[int]]) -> float:
        """One optimizer step; returns the loss."""
        torch.backends.cuda.enable_cudnn_sdp(True)  # torch's default
        waveforms_BN, samples_B = waveforms_BN.to(self.device), samples_B.to(self.device)
        features_BTF, frames_B = self.features(waveforms_BN, samples_B)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            log_probs_BTV, lengths_B = self.model(features_BTF, frames_B)
        targets = torch.tensor([t for text in texts for t in text], device=self.device)
        counts = torch.tensor([len(text) for text in texts], device=self.device)
        log_probs_TBV = log_probs_BTV.float().transpose(0, 1)
        loss = F.ctc_loss(log_probs_TBV, targets, lengths_B, counts, reduction="sum", zero_infinity=True)
        loss = loss / len(texts)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


class OurStep:
    """TrainStep on labelled audio."""

    def __init__(self, model: nn.Module, device: torch.device, bf16: bool) -> None:
        model = model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)
        self.step = build_step(
            ProcessGroup(0, 1, device),
            LogMel().to(device),
            model,
            EmaTeacher(model, half_life=3600.0),
            optimizer,
            None,
            LabelFilters(PseudoLabelConfig()),
            clip_norm=1.0,
            bf16=bf16,
        )

    def __call__(self, waveforms_BN: Tensor, samples_B: Tensor, texts: list[list[int]]) -> float:
        """One optimizer step; returns the loss."""
        leave_out_cudnn_attention()
        micro = MicroBatch([str(i) for i in range(len(texts))], waveforms_BN, samples_B, texts)
        return self.step(StepBatch(True, [micro], int(samples_B.sum()), DataCursor())).loss


@dataclass
class Contestant:
    """A training step, the audio of its batches (samples, padded samples), and its measured rates."""

    step: Callable[[Tensor, Tensor, list[list[int]]], float]
    batches: Batches
    rates: list[float]
    audio: int = 0
    padded: int = 0

    def turn(self, device: torch.device, warm: bool) -> None:
        """Train on the next batch."""
        waveforms_BN, samples_B, texts = next(self.batches)
        taken = work_seconds_of(lambda: self.step(waveforms_BN, samples_B, texts), device)
        if warm:
            self.rates.append(float(samples_B.sum()) / SAMPLE_RATE_HZ / taken)
        self.audio, self.padded = self.audio + int(samples_B.sum()), self.padded + waveforms_BN.numel()


def contestants(chosen: argparse.Namespace, shape: Shape, device: torch.device) -> dict[str, Contestant]:
    """The implementations whose packages are installed."""
    samples = np.round(librispeech_seconds(20_000) * SAMPLE_RATE_HZ).astype(np.int64)
    options: dict[str, Any] = {**asdict(shape), "frontend_dropout": shape.dropout, "max_shift_seconds": 0.0}
    makers: dict[str, Callable[[], nn.Module]] = {
        "asr_emapl TransformerCtc": lambda: TransformerCtc(VOCABULARY, **options),
        "torch nn.TransformerEncoder": lambda: torch_encoder(shape),
        "SpeechBrain TransformerEncoder": lambda: speechbrain_encoder(shape),
        "torchaudio Conformer": lambda: torchaudio_conformer(shape),
    }
    others = sampled
    # Its import would allow TF32 for all encoders.
    os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
    try:
        import speechbrain  # noqa: F401
    except ImportError:
        others = shuffled
        print("SpeechBrain is not installed: it is skipped, and the others use random batches")
        del makers["SpeechBrain TransformerEncoder"]
    found = {}
    for precision, (name, make) in itertools.product(chosen.precisions.split(","), makers.items()):
        ours = name.startswith("asr_emapl")
        batches = (planned if ours else others)(samples, chosen.seconds)
        step = (OurStep if ours else PlainStep)(make(), device, precision == "bf16")
        found[f"{name}, {precision}"] = Contestant(step, batches, [])
    return found


def main() -> None:
    """Print one row per implementation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default="fp32,bf16", help="of each contestant (default fp32,bf16)")
    parser.add_argument("--encoder", choices=sorted(SHAPES), default="small")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seconds", type=float, default=60.0, help="padded audio in a batch (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    device = torch.device(chosen.device)
    shape = Shape(*SHAPES[chosen.encoder], chosen.dropout)
    field = contestants(chosen, shape, device)
    for turn in range(chosen.rounds + 2):
        for one in field.values():
            one.turn(device, warm=turn >= 2)  # the first rounds allocate
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    print(
        f"torch {torch.__version__}, {where}, {chosen.encoder} encoder, dropout {chosen.dropout:g}, "
        f"batches of {chosen.seconds:g} s, median of {chosen.rounds}"
    )
    medians = {name: statistics.median(one.rates) for name, one in field.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        one = field[name]
        padding = 1.0 - one.audio / one.padded
        print(f"  {name:36s} {median:9.1f} h/h  {median / first:5.2f}  padding {100 * padding:.1f} %")
    for precision in chosen.precisions.split(","):
        ours = medians[f"asr_emapl TransformerCtc, {precision}"]
        for theirs in chosen.precisions.split(","):
            best = max(
                rate for n, rate in medians.items() if n.endswith(theirs) and not n.startswith("asr_emapl")
            )
            print(f"  ours in {precision}: {ours / best:.2f} x the audio of the best other in {theirs}")
        if device.type == "cuda":
            print(f"  {ours / 3600:.2f} hours of audio per second in {precision}")
            peak = next((flops for name, flops in PEAK_FLOPS.items() if name in where), None)
            if peak and precision == "bf16":
                used = ours * shape.flops_per_second_of_audio(12.3) / peak
                print(f"  MFU {100 * used:.1f} % of {peak / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()
