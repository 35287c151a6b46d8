"""A first config for a user's corpora: model, batch and hours chosen from the data and the hardware.

The two smallest sizes and the hours come from this repository's own recipes: the quickstart (4 minutes of
transcripts) and LibriSpeech's mini.yaml (5.3 hours). The two larger sizes are starting points, not tuned. The
student on a frozen encoder is that of LibriSpeech's frozen_whisper_tiny.yaml (1.5 hours).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import torch

from asr_emapl.audio.augment import AugmentConfig
from asr_emapl.checkpoints import files as checkpoint
from asr_emapl.data.manifest_summary import ManifestSummary
from asr_emapl.errors import UserError, counted
from asr_emapl.storage import is_url


@dataclass(frozen=True)
class Size:
    """A size of the transformer, with the settings that go with it.

    Attributes:
        dim, heads, layers, dropout, convolution: options of the model.
        batch_seconds: reference batch size, for which `lr` is valid.
        augment: SpecAugment.
    """

    dim: int
    heads: int
    layers: int
    dropout: float
    convolution: int
    batch_seconds: float
    lr: float
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def options(self) -> dict[str, Any]:
        """Options of `TransformerCtc`: as in the recipes, convolutions instead of shifted positions."""
        return {
            "dim": self.dim,
            "heads": self.heads,
            "layers": self.layers,
            "norm": "pre",
            "dropout": self.dropout,
            "frontend_dropout": self.dropout,
            "attention_dropout": 0.0,
            "convolution": self.convolution,
            "max_shift_seconds": 0.0,
        }


SIZES = {
    "tiny": Size(144, 4, 3, 0.1, 15, 12.0, 3.0e-3, AugmentConfig(2, 15, 2, 20)),
    "mini": Size(192, 4, 4, 0.2, 31, 40.0, 2.0e-3, AugmentConfig(2, 20, 4, 40)),
    "small": Size(256, 4, 8, 0.2, 31, 60.0, 1.0e-3),
    "base": Size(512, 8, 12, 0.2, 31, 240.0, 1.0e-3),
}

# The student on the output of a frozen encoder, whose frames have 20 ms.
_ENCODER_AUGMENT = AugmentConfig(frequency_masks=0, time_masks=5, time_width=32)
ENCODER_STUDENT = Size(192, 4, 3, 0.15, 15, 40.0, 1.5e-3, _ENCODER_AUGMENT)
_ENCODER_OPTIONS = {"kernel": 3, "stride": 2, "frame_seconds": 0.02, "frontend_dropout": 0.1}
ENCODER = "asr_emapl.models.whisper:WhisperEncoderFeatures"

_TEMPLATE = Template("""\
# Written by `asr-emapl init-config` for $labelled_hours h with transcripts and $unlabelled_hours h without
# on a machine with $hardware. `asr-emapl settings` lists every setting.
# Hours are hours of audio consumed. Relative paths are resolved against the folder of this file.
root: .
run_dir: runs/run
seed: 0
# The first $seed_hours h are supervised; after that, pseudo-labels are used too.
hours: $hours
tokenizer: $tokenizer
data:
  labelled: $labelled
  unlabelled: $unlabelled
  # Evaluated every validation.every_hours; never used for training.
  validation: $validation
  # Processes that decode audio, for each training process.
  workers: $workers
features: $features
# SpecAugment, in bands (or features of another extractor) and frames of 10 ms; null turns it off.
augment: $augment
# $why
model:
  target: $target
  options: $options
batch:
  # Seconds of audio in an optimizer step, including padding. Change `seconds` alone, for example if you have
  # more GPUs: the scaling rule adapts optimizer and teacher, so that the curve over audio does not change.
  seconds: $batch
  # The batch at which lr, betas and the teacher's half-life below hold.
  reference_seconds: $reference
device:
  # Seconds of audio per forward and backward pass. Lower it if you run out of memory; results do not change.
  max_seconds: $reference
  precision: $precision
  # CPU threads of each process; null: all cores. Several threads are slow where other work runs.
  threads: $threads
optimizer:
  # Tuned at a batch of $found. Lower it if the loss does not decrease.
  lr: $lr
  betas: [0.9, 0.98]
  clip_norm: 1.0
schedule:
  warmup_hours: $warmup
  # Linear decay from here to the end, down to 2 % of lr.
  decay_from_hours: $decay
  final: 0.02
teacher:
  # Hours of audio after which a student's weight in the average halves; 1 % of the run, but at least 60
  # steps.
  half_life_hours: $half_life
pseudo_labels:
  # ema: greedy labels of the teacher; none: supervised training only.
  strategy: $strategy
  # The teacher must recognise words by then: check its WER at this point.
  start_hours: $seed_hours
  unlabelled_per_labelled: $ratio
validation: {every_hours: $validate}
checkpoint: {every_hours: $save}
init: $init
""")


@dataclass(frozen=True)
class Hardware:
    """Numbers of GPUs and CPU cores that this process may use."""

    gpus: int
    cores: int

    @staticmethod
    def here() -> Hardware:
        """This machine."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return Hardware(gpus, len(os.sched_getaffinity(0)))

    def __str__(self) -> str:
        return counted(self.gpus, "GPU") if self.gpus else f"no GPU and {counted(self.cores, 'CPU core')}"


@dataclass(frozen=True)
class StarterData:
    """The manifests of a run and their hours of audio."""

    labelled: Sequence[str]
    unlabelled: Sequence[str]
    validation: dict[str, str]
    labelled_hours: float
    unlabelled_hours: float
    longest_seconds: float

    @staticmethod
    def read(labelled: Sequence[str], unlabelled: Sequence[str], dev: Sequence[str]) -> StarterData:
        """Measure manifests.

        Raises:
            UserError: a manifest is missing or invalid, a labelled one lacks transcripts, or two of `dev`
                have the same name.
        """
        known, unknown = (
            [ManifestSummary.of(m) for m in labelled],
            [ManifestSummary.of(m) for m in unlabelled],
        )
        for manifest, contents in zip(labelled, known, strict=True):
            if contents.transcribed < contents.utterances:
                missing = contents.utterances - contents.transcribed
                raise UserError(
                    f"{manifest}: {missing} utterances have no transcript (--labelled requires transcripts)"
                )
        validation = {Path(m).name.partition(".")[0]: m for m in dev}
        if len(validation) < len(dev):
            raise UserError("two validation manifests have the same name (rename one)")
        return StarterData(
            labelled,
            unlabelled,
            validation,
            sum(c.hours for c in known),
            sum(c.hours for c in unknown),
            max(c.longest_seconds for c in (*known, *unknown)),
        )


@dataclass(frozen=True)
class Starter:
    """A first config for a run.

    Args:
        init: checkpoint with the model, the features and the initial weights; None: random weights.
        size: key of `SIZES`; None: chosen from data and hardware.
        hours: audio to train for; None: chosen from the data.
        encoder: weights of a Whisper encoder, whose output the student gets; None: log-mel features.
    """

    data: StarterData
    tokenizer: str
    hardware: Hardware = field(default_factory=Hardware.here)
    init: Path | None = None
    size: str | None = None
    hours: float | None = None
    encoder: Path | None = None

    def __post_init__(self) -> None:
        """Check that the options agree.

        Raises:
            UserError: the encoder is given with a checkpoint or a size.
        """
        if self.encoder is not None and self.init is not None:
            raise UserError(f"--encoder {self.encoder}: the checkpoint of --init has its own features")
        if self.encoder is not None and self.size is not None:
            raise UserError("--size: the student on an --encoder has one size; edit the config to change it")

    @property
    def _size(self) -> Size:
        return SIZES[self.size_name] if self.encoder is None else ENCODER_STUDENT

    @property
    def size_name(self) -> str:
        """Key of `SIZES`."""
        if self.size is not None:
            if self.size not in SIZES:
                raise UserError(f"--size {self.size!r} is not one of {', '.join(SIZES)}")
            return self.size
        hours = self.data.labelled_hours
        if self.hardware.gpus:
            return "base" if hours >= 100.0 else "small"
        return "mini" if hours >= 1.0 else "tiny"

    @property
    def seed_hours(self) -> float:
        """Audio of the supervised part: 60 epochs over 4 minutes of transcripts, 15 epochs over 5 hours.

        The number of epochs falls with the cube root of the hours, which agrees with both recipes. It is
        halved with `init`, and 0.4 times as large with `encoder`: 9 epochs over 1.5 hours.
        """
        if self.hours is not None:
            return _rounded(self.hours * (1.0 if not self.data.unlabelled else 4.0 / 11.0))
        passes = min(60.0, max(3.0, 25.0 * self.data.labelled_hours ** (-1.0 / 3.0)))
        share = 0.5 if self.init else 0.4 if self.encoder else 1.0
        return _rounded(passes * self.data.labelled_hours * share)

    @property
    def total_hours(self) -> float:
        """Audio of the run: 2.75 times the supervised part, as in both recipes."""
        if self.hours is not None:
            return self.hours
        return _rounded(2.75 * self.seed_hours)

    def write_text(self, folder: Path) -> str:
        """The config as YAML, with a comment on each choice.

        Args:
            folder: folder of the config; its paths are relative to it.
        """

        def place(path: str) -> str:
            return path if is_url(path) else os.path.relpath(path, folder)

        data, size, gpus = self.data, self._size, self.hardware.gpus
        batch = max(size.batch_seconds, math.ceil(min(data.longest_seconds, 36.0)))
        lr = size.lr * math.sqrt(batch / size.batch_seconds) * (0.3 if self.init else 1.0)
        seed, total = self.seed_hours, self.total_hours
        return _TEMPLATE.substitute(
            self._model(place),
            labelled_hours=f"{data.labelled_hours:.2f}",
            unlabelled_hours=f"{data.unlabelled_hours:.2f}",
            hardware=self.hardware,
            seed_hours=f"{seed:g}",
            hours=f"{total:g}",
            tokenizer=_yaml(place(self.tokenizer)),
            labelled=_yaml([*map(place, data.labelled)]),
            unlabelled=_yaml([*map(place, data.unlabelled)]),
            validation=_yaml({name: place(path) for name, path in data.validation.items()}),
            workers=min(8, max(1, self.hardware.cores // gpus - 1) if gpus else 1),
            # Above four times the reference batch, training lags even with the scaling rule.
            batch=f"{batch * min(4, max(1, gpus)):g}",
            reference=f"{batch:g}",
            precision="bf16" if gpus else "fp32",
            threads="null" if gpus else 1,
            lr=f"{lr:.2g}",
            found=f"{size.batch_seconds:g} s" + (" and lowered for fine-tuning" if self.init else ""),
            warmup=f"{_rounded(max(0.02 * seed, 50 * batch / 3600)):g}",
            decay=f"{_rounded(0.6 * total):g}",
            half_life=f"{_rounded(max(0.01 * total, 60 * batch / 3600)):g}",
            strategy="ema" if data.unlabelled else "none",
            ratio=1.0 if data.unlabelled_hours < 4.0 * data.labelled_hours else 2.0,
            validate=f"{_rounded(total / 11):g}",
            save=f"{_rounded(total / 22):g}",
        )

    def _model(self, place: Callable[[str], str]) -> dict[str, str]:
        """Values in the template for the model, its features and its initial weights."""
        target, options = "asr_emapl.models.transformer:TransformerCtc", self._size.options
        features, augment, start = {}, asdict(self._size.augment), {}
        if self.encoder is not None:
            why = (
                "Student on the output of the encoder, which is not trained (recipes/librispeech/RESULTS.md)."
            )
            options |= _ENCODER_OPTIONS
            features = {"extractor": ENCODER, "weights": place(str(self.encoder))}
        elif self.init is None:
            tuned = "tuned in the recipes" if self.size_name in ("tiny", "mini") else "not tuned"
            why = f"Size {self.size_name!r} ({tuned}); others: {', '.join(SIZES)} (--size)."
        else:
            config = checkpoint.find(self.init)[1]["config"]
            why = f"Model and features of {self.init}, which the run starts from."
            target, options = config["model"]["target"], config["model"]["options"]
            features, augment = config["features"], config["augment"]
            start = {"checkpoint": place(str(self.init)), "keep": "weights"}
        values = {"target": target, "options": options, "features": features, "augment": augment}
        return {"why": why, "init": _yaml(start)} | {key: _yaml(value) for key, value in values.items()}


def _rounded(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.2g}")


def _yaml(value: Any) -> str:
    """A value as one line of YAML, of which JSON is a subset."""
    return json.dumps(value, ensure_ascii=False)
