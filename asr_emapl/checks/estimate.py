"""Estimate the time and memory of a run by timing a few steps on random audio."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import dataclass

import torch

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.config import RunConfig
from asr_emapl.data.loader import MicroBatch, StepBatch
from asr_emapl.data.mixture import DataCursor
from asr_emapl.distributed.process_group import ProcessGroup, choose_device
from asr_emapl.ema import EmaTeacher
from asr_emapl.hyperparameters import build_optimizer
from asr_emapl.objective import to_device
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.terminal import time_text
from asr_emapl.training.build import build_extractor, build_models, build_step, read_tokenizer
from asr_emapl.training.step import TrainStep

_STEPS = 3
_TOKENS_PER_SECOND = 14  # typical rate of English speech, in characters


@dataclass(frozen=True)
class Estimate:
    """Time and memory of a run on one device, excluding reading audio, validation and checkpoints.

    Attributes:
        hours: wall-clock hours.
        speeds: seconds of audio per second, for steps on transcripts and on pseudo-labels.
        memory_gib: peak memory of the GPU, or of this process on a CPU.
        device: name of the device.
        parameters: number of parameters of the model.
    """

    hours: float
    speeds: dict[str, float]
    memory_gib: float
    device: str
    parameters: int

    def __str__(self) -> str:
        speeds = ", ".join(f"{speed:.0f} x real time {kind}" for kind, speed in self.speeds.items())
        return (
            f"{self.parameters / 1e6:.1f} M parameters on one {self.device}: {time_text(3600 * self.hours)} "
            f"without reading audio and validation ({speeds}), {self.memory_gib:.1f} GiB"
        )


def estimate(config: RunConfig) -> Estimate:
    """Time a few steps of a config, each with one micro-batch of device.max_seconds.

    Raises:
        UserError: the model, the tokenizer or the device of the config is invalid.
    """
    tokenizer, device = read_tokenizer(config), choose_device(config.device.name)
    step = _build(config, device, tokenizer.vocabulary_size)
    limits = config.pseudo_labels
    hours = {"labelled": config.hours}
    if limits.uses_unlabelled and limits.start_hours < config.hours:
        rest = config.hours - limits.start_hours
        unlabelled = rest * limits.unlabelled_per_labelled / (1.0 + limits.unlabelled_per_labelled)
        hours = {"labelled": config.hours - unlabelled, "unlabelled": unlabelled}
    seconds = config.device.max_seconds
    speeds = {}
    for kind in hours:
        batch = random_batch(seconds, min(seconds, 12.0), kind == "labelled", tokenizer.vocabulary_size)
        audio = batch.samples / SAMPLE_RATE_HZ
        speeds[kind] = audio / statistics.median(_time(step, batch, device) for _ in range(_STEPS))
    return Estimate(
        sum(hours[kind] / speed for kind, speed in speeds.items()),
        speeds,
        _memory_gib(device),
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        sum(p.numel() for p in step.student.parameters()),
    )


class SameLength(FreshLabels):
    """Runs the teacher but returns the batch's texts: labels of an untrained teacher are empty."""

    def labels(self, batch: LabelRequest) -> Labels:
        """See `Strategy.labels`."""
        theirs = super().labels(batch).result()
        assert batch.targets is not None
        texts, device = Labels.of([Label(t) for t in batch.targets]), theirs.confidence_B.device
        # Return the teacher's confidence, so that the step waits for the device as in training.
        return Labels(
            to_device(texts.tokens_BS, device), to_device(texts.lengths_B, device), theirs.confidence_B
        )


def random_batch(seconds: float, each: float, labelled: bool, vocabulary_size: int) -> StepBatch:
    """One micro-batch of noise with random texts: utterances of `each` seconds, `seconds` in total."""
    count, samples = max(1, round(seconds / each)), round(each * SAMPLE_RATE_HZ)
    texts = torch.randint(1, vocabulary_size, (count, round(each * _TOKENS_PER_SECOND))).tolist()
    lengths_B = torch.full((count,), samples)
    micro = MicroBatch(
        [str(i) for i in range(count)], torch.randn(count, samples), lengths_B, texts, rows=list(range(count))
    )
    return StepBatch(labelled, [micro], count * samples, DataCursor())


def _build(config: RunConfig, device: torch.device, vocabulary_size: int) -> TrainStep:
    world, bf16 = ProcessGroup(0, 1, device), config.device.precision == "bf16"
    features = build_extractor(config, device)
    student, module = build_models(config, world, vocabulary_size, features)
    group = config.optimizer.reference().group
    teacher = EmaTeacher(student, 3600.0, module)
    return build_step(
        world,
        features,
        student,
        teacher,
        build_optimizer(student, config.optimizer.name, group),
        SameLength(Labeller(teacher, bf16=bf16)),
        LabelFilters(PseudoLabelConfig()),
        loss=config.loss,
        bf16=bf16,
    )


def _time(step: TrainStep, batch: StepBatch, device: torch.device) -> float:
    start = time.perf_counter()
    step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
