"""Memory, steps and time of a run: measured on the device of the config, or computed for GPUs elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.checks.trial_step import TIMED_STEPS, TOO_MUCH, StepElsewhere, StepHere
from asr_emapl.config import RunConfig
from asr_emapl.corpora.selection import TrainingAudio, missing_manifests
from asr_emapl.errors import UserError, counted
from asr_emapl.hyperparameters import OptimizerConfig, build_optimizer
from asr_emapl.planning import nominal_step_audio
from asr_emapl.progress import Progress
from asr_emapl.terminal import time_text

_USABLE = 0.9  # share of a GPU's memory; the rest is for the context, workspaces and fragments
_SECANTS = 4
_LOWER = 0.9  # the next batch that is tried after one that does not fit
_GIVEN, _IDLE = "given", "on an otherwise idle machine"
_UNITS = {"gb": 10**9, "g": 10**9, "gib": 2**30, "": 10**9}


def bytes_of(text: str) -> int:
    """The bytes in a text such as 80GB, 79.6GiB or 24.

    Raises:
        UserError: it is not such a number.
    """
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) *(gb|gib|g|)", text.strip().lower())
    if found is None or float(found[1]) == 0.0:
        raise UserError(f"--gpu-memory {text[:40]!r}: write the memory of one GPU, for example 80GB")
    return round(float(found[1]) * _UNITS[found[2]])


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the worst micro-batch: utterances of maximum duration, as many as fit.

    Attributes:
        weights, teacher, optimizer, average: of the student with the features, the teacher, the optimizer's
            state, and the averages for evaluation.
        passes: activations and gradients, at most.
        seconds: padded audio of the batch.
        each: seconds of one utterance.
        per_second: by how much `passes` grows for each second of audio.
        fitting_seconds: device.max_seconds that fits the memory; None: not known, 0: not one utterance fits.
    """

    weights: int
    teacher: int
    optimizer: int
    average: int
    passes: int
    seconds: float
    each: float
    per_second: float
    fitting_seconds: float | None = None

    @property
    def total(self) -> int:
        """Bytes in use at most."""
        return self.weights + self.teacher + self.optimizer + self.average + self.passes


@dataclass(frozen=True)
class Estimate:
    """Memory and time of a run, excluding reading audio, validation and checkpoints.

    Attributes:
        parameters, trained: number of parameters of the model, and of those that are trained.
        memory: of one device.
        steps: optimizer steps of the run, and their mean audio in seconds.
        speeds: seconds of audio per second on one device, for steps on transcripts and on pseudo-labels, or
            the throughput that was given.
        hours: wall-clock hours, on an otherwise idle machine if the speeds are measured; None: the speed is
            not known.
        device: name of the device; devices: how many there are.
    """

    parameters: int
    trained: int
    memory: Memory
    steps: int
    step_seconds: float
    speeds: dict[str, float]
    hours: float | None
    device: str
    devices: int

    def __str__(self) -> str:
        speeds = ", ".join(f"{speed:.0f} x real time {kind}" for kind, speed in self.speeds.items())
        took = "" if self.hours is None else f"{time_text(3600 * self.hours)} "
        idle = f"{_IDLE}, " if self._is_measured else ""
        return (
            f"{self.parameters / 1e6:.1f} M parameters on {self.devices} x {self.device}: {took}{idle}"
            f"without reading audio and validation ({speeds}); {self.memory.total / 2**30:.2f} GiB of tensors"
        )

    @property
    def _is_measured(self) -> bool:
        return self.hours is not None and _GIVEN not in self.speeds

    def rows(self) -> list[list[str]]:
        """A table: name, value, remark."""
        memory, gib = self.memory, 2**30
        frozen = self.parameters - self.trained
        speeds = ", ".join(f"{speed:.0f} x real time {kind}" for kind, speed in self.speeds.items())
        rows = [
            [
                "parameters",
                f"{self.parameters / 1e6:.2f} M",
                f"{frozen / 1e6:.2f} M frozen" if frozen else "",
            ],
            ["memory of the student", f"{memory.weights / gib:.2f} GiB", f"on one {self.device}"],
            ["memory of the teacher", f"{memory.teacher / gib:.2f} GiB", ""],
            ["memory of the optimizer", f"{memory.optimizer / gib:.2f} GiB", ""],
        ]
        if memory.average:
            rows.append(["memory of the running mean", f"{memory.average / gib:.2f} GiB", ""])
        rows += [
            [
                "activations and gradients",
                f"{memory.passes / gib:.2f} GiB",
                f"{memory.seconds:g} s of audio in utterances of {memory.each:.3g} s; "
                f"{memory.per_second / 1e6:.2f} MB more per second",
            ],
            ["memory in all", f"{memory.total / gib:.2f} GiB", ""],
        ]
        if memory.fitting_seconds is not None:
            remark = "" if memory.fitting_seconds else "not even one utterance fits"
            rows.append(["device.max_seconds that fits", f"{memory.fitting_seconds:g}", remark])
        rows.append(["optimizer steps", f"{self.steps}", f"of {self.step_seconds:.4g} s of audio"])
        if self.hours is not None:
            idle = f"; {_IDLE}" if self._is_measured else ""
            remark = f"{speeds}; {counted(self.devices, 'device')}{idle}"
            rows.append(["wall-clock", time_text(3600 * self.hours), remark])
        return rows


def estimate(
    config: RunConfig,
    devices: int = 1,
    limit: int | None = None,
    throughput: float | None = None,
    *,
    elsewhere: bool = False,
) -> Estimate:
    """Estimate a run.

    Args:
        devices: number of devices.
        limit: memory of one device in bytes; None: that of the GPU, if it is measured on one.
        throughput: seconds of audio per second on one device; None: measured, unless `elsewhere`.
        elsewhere: compute the memory for GPUs that are not in this machine.

    Raises:
        UserError: the model, the tokenizer, the manifests or the device of the config are invalid.
    """
    model = (StepElsewhere if elsewhere else StepHere)(config)
    steps, step_seconds, each = _steps(config, devices)
    hours = _hours_by_kind(config)
    timed = hours if throughput is None else {}
    audio = _trial_seconds(config, devices, each, len(timed))
    with Progress("measuring steps", audio, is_shown=not elsewhere) as progress:
        if isinstance(model, StepHere):
            model.advance = progress.advance
        memory = _memory(config, model, devices, each, limit or model.limit)
        speeds = model.speeds(timed) if throughput is None else {_GIVEN: throughput}
    took = sum(hours[kind] / speeds.get(kind, throughput or 1.0) for kind in hours) if speeds else None
    parameters = list(model.student.parameters())
    return Estimate(
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
        memory,
        steps,
        step_seconds,
        speeds,
        None if took is None else took / devices,
        model.name,
        devices,
    )


def fitting_seconds(
    config: RunConfig, limit: int | None, report: Callable[[str], object], *, elsewhere: bool = False
) -> float:
    """Try device.max_seconds with the worst batch, and lower it until the batch fits the memory.

    Args:
        limit: bytes of one device; None: of the GPU.
        report: is called with a line for each try.

    Raises:
        UserError: the limit is not known, or not even one utterance fits.
    """
    model = (StepElsewhere if elsewhere else StepHere)(config)
    limit = limit or model.limit
    if limit is None:
        raise UserError("--find on a CPU needs --gpu-memory, the memory that it shall fit")
    seconds, each = config.device.max_seconds, _longest(config)
    while seconds >= each:
        used = _static(config, model, 1) + model.passes(int(seconds // each), each)
        fits = used <= _USABLE * limit
        told = "out of memory" if used == TOO_MUCH else f"{used / 2**30:.2f} GiB"
        report(f"device.max_seconds={seconds:g}: {told}{'' if fits else ', does not fit'}")
        if fits:
            return seconds
        seconds = float(int(_LOWER * seconds))
    raise UserError(
        f"an utterance of {each:.3g} s does not fit {limit / 2**30:.1f} GiB; lower data.max_seconds, or use "
        "a smaller model"
    )


def _accumulates(config: RunConfig, devices: int) -> bool:
    """Whether a step has several micro-batches, so that gradients are in memory during forward passes."""
    seconds = config.batch.seconds
    return seconds != "auto" and float(seconds) > devices * config.device.max_seconds


def _memory(
    config: RunConfig, model: StepHere | StepElsewhere, devices: int, each: float, limit: int | None
) -> Memory:
    """Memory at the worst batch, and the largest one that fits."""
    model.accumulates = _accumulates(config, devices)
    count = _largest(config, each)
    peaks = {count: model.passes(count, each)}
    if peaks[count] == TOO_MUCH:
        raise UserError(
            f"device.max_seconds={config.device.max_seconds:g} does not fit this GPU; --find lowers it"
        )
    half = count // 2
    slope = (peaks[count] - model.passes(half, each)) / (count - half) if half else peaks[count]
    slope, fits = max(float(slope), 1.0), None
    if limit is not None:
        room = _USABLE * limit - _static(config, model, devices)
        fitting = _fitting(model, room, each, (count, peaks[count]), slope)
        fits = float(int(fitting * each)) if fitting else 0.0
    shards = _shards(config, devices)
    return Memory(
        (_bytes(model.student) // shards) + _bytes(model.features),
        _bytes(model.twin) // shards,
        _optimizer_bytes(config.optimizer, model.student) // shards,
        _average_copies(config) * _bytes(model.student) // shards,
        peaks[count],
        count * each,
        each,
        slope / each,
        fits,
    )


def _largest(config: RunConfig, each: float) -> int:
    """Number of utterances of `each` seconds in the largest micro-batch."""
    return max(1, int(config.device.max_seconds // each))


def _trial_seconds(config: RunConfig, devices: int, each: float, kinds: int) -> float:
    """Audio of the steps that are run here: two with all and with half of the utterances, then timed ones."""
    count, passes = _largest(config, each), 2 if _accumulates(config, devices) else 1
    return 2 * passes * (count + count // 2) * each + TIMED_STEPS * kinds * config.device.max_seconds


def _fitting(
    model: StepHere | StepElsewhere, room: float, each: float, known: tuple[int, int], slope: float
) -> int:
    """Number of utterances that fit; checked by computation, but extrapolated if it is measured here."""
    count, peak = known
    found = max(0, int(count + (room - peak) / slope))
    if isinstance(model, StepHere):
        return found
    for _ in range(_SECANTS):
        if not found or found == count:
            break
        reached = model.passes(found, each)
        slope = max((reached - peak) / (found - count), 1.0)
        count, peak = found, reached
        found = max(0, int(count + (room - peak) / slope))
    return found


def _static(config: RunConfig, model: StepHere | StepElsewhere, devices: int) -> int:
    """Bytes that are in use between steps."""
    of_models = (1 + _average_copies(config)) * _bytes(model.student) + _bytes(model.twin)
    optimizer = _optimizer_bytes(config.optimizer, model.student)
    return (of_models + optimizer) // _shards(config, devices) + _bytes(model.features)


def _average_copies(config: RunConfig) -> int:
    """Copies of the weights in the averages for evaluation; BEMA also keeps those of its start."""
    return (1 if config.checkpoint.running_mean else 0) + (2 if config.checkpoint.bias_corrected else 0)


def _shards(config: RunConfig, devices: int) -> int:
    return devices if config.device.sharding == "full" else 1


def _optimizer_bytes(config: OptimizerConfig, model: nn.Module) -> int:
    """Bytes of the optimizer's state, found from that of a small layer."""
    layer = nn.Linear(64, 64, bias=False)
    optimizer = build_optimizer(layer, config.name, config.reference().group)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    state = optimizer.state[layer.weight].values()
    kept = sum(t.nbytes for t in state if isinstance(t, Tensor) and t.numel() > 1)
    return sum(p.nbytes for p in model.parameters() if p.requires_grad) * kept // layer.weight.nbytes


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def _steps(config: RunConfig, devices: int) -> tuple[int, float, float]:
    """Steps of a run, their mean audio, and the seconds of the longest utterance."""
    audio = None
    if not missing_manifests(config):
        audio = TrainingAudio.select(config, devices)
    steps = nominal_step_audio(config, devices) if audio is None else audio.step_audio(config, devices)
    count, hours = 0.0, 0.0
    while hours < config.hours:
        until = min(config.hours, steps.batches.next_change(hours))
        count += 3600.0 * (until - hours) / steps.seconds(hours)
        hours = until
    mean = 3600.0 * config.hours / count if count else steps.seconds(0.0)
    return round(count), mean, _longest(config, audio)


def _longest(config: RunConfig, audio: TrainingAudio | None = None) -> float:
    """Seconds of the longest utterance; without manifests, of the longest one allowed."""
    if audio is None and not missing_manifests(config):
        audio = TrainingAudio.select(config, 1)
    if audio is None:
        return min(config.data.max_seconds, config.device.max_seconds)
    return max(int(found.samples.max()) for found in audio.utterances.values()) / SAMPLE_RATE_HZ


def _hours_by_kind(config: RunConfig) -> dict[str, float]:
    """Hours of audio of the run with transcripts and with pseudo-labels."""
    limits = config.pseudo_labels
    if not limits.uses_unlabelled or limits.start_hours >= config.hours:
        return {"labelled": config.hours}
    rest = config.hours - limits.start_hours
    unlabelled = rest * limits.unlabelled_per_labelled / (1.0 + limits.unlabelled_per_labelled)
    return {"labelled": config.hours - unlabelled, "unlabelled": unlabelled}
