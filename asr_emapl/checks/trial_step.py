"""A train step on random audio: its memory and time here, or its memory on a GPU elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.checks.idle_time import idle_seconds
from asr_emapl.checks.memory import bytes_on_gpu, counted_peak
from asr_emapl.config import RunConfig
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import MicroBatch, StepBatch
from asr_emapl.distributed.process_group import ProcessGroup, choose_device
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.hyperparameters import build_optimizer
from asr_emapl.objectives.objective import to_device
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.training.build import build_extractor, build_models, build_step, read_tokenizer

TOO_MUCH = 2**62
"""Bytes of a batch that did not fit."""

TIMED_STEPS = 3
"""Steps of each kind whose time is measured."""
_TOKENS_PER_SECOND = 14  # typical rate of English speech, in characters
_USUAL_SECONDS = 12.0  # of an utterance when time is measured


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


def random_batch(
    seconds: float, each: float, labelled: bool, vocabulary_size: int, second: FeatureExtractor | None = None
) -> StepBatch:
    """One micro-batch of noise with random texts: utterances of `each` seconds, `seconds` in total.

    Args:
        second: extractor of the features of which there is a second view; None: one view.
    """
    count, samples = max(1, round(seconds / each)), round(each * SAMPLE_RATE_HZ)
    texts = torch.randint(1, vocabulary_size, (count, round(each * _TOKENS_PER_SECOND))).tolist()
    lengths_B = torch.full((count,), samples)
    rows, waveforms_BN = list(range(count)), torch.randn(count, samples)
    micro = MicroBatch([str(i) for i in rows], waveforms_BN, lengths_B, texts, rows=rows, places=rows)
    if second is not None:
        micro.second_BT = torch.ones(count, int(second.frames(lengths_B)[0]))
        micro.second_BF = None if second.size is None else torch.ones(count, second.size)
    return StepBatch(labelled, [micro], count * samples, DataCursor())


class StepHere:
    """The train step of a config on its device.

    Attributes:
        student, twin, features: modules of the run; `twin` is the teacher's.
        accumulates: whether a step has several micro-batches; False until it is set.
        name: of the device.
        limit: its memory in bytes; None: not limited by a GPU.
        advance: called with the seconds of audio of each step that was run.
    """

    def __init__(self, config: RunConfig) -> None:
        self.tokenizer, self.device = read_tokenizer(config), choose_device(config.device.name)
        if config.device.threads:
            torch.set_num_threads(config.device.threads)
        self.advance: Callable[[float], object] = lambda seconds: None
        world, bf16 = ProcessGroup(0, 1, self.device), config.device.precision == "bf16"
        self.features = build_extractor(config, self.device)
        models = build_models(config, world, self.tokenizer.vocabulary_size, self.features)
        self.student, self.twin = models
        group = config.optimizer.reference().group
        teacher = EmaTeacher(self.student, 3600.0, self.twin)
        self.seconds = config.device.max_seconds
        self.second = self.features if config.loss.consistency > 0.0 else None
        self.step = build_step(
            world,
            self.features,
            self.student,
            teacher,
            build_optimizer(self.student, config.optimizer.name, group, config.optimizer.groups),
            SameLength(Labeller(teacher, bf16=bf16)),
            LabelFilters(PseudoLabelConfig()),
            loss=config.loss,
            bf16=bf16,
        )
        self.accumulates = False
        is_gpu = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device) if is_gpu else "CPU"
        self.limit = torch.cuda.get_device_properties(self.device).total_memory if is_gpu else None

    def passes(self, count: int, each: float) -> int:
        """Bytes of activations and gradients for `count` utterances of `each` seconds."""
        batch = random_batch(count * each, each, True, self.tokenizer.vocabulary_size, self.second)
        batch.micro_batches *= 2 if self.accumulates else 1
        try:
            self._take(batch)  # makes the optimizer's state
            self.step.optimizer.zero_grad(set_to_none=True)
            with counted_peak(self.device) as peak, _all_layers(self.student):
                self._take(batch)
                return peak()
        except torch.OutOfMemoryError:
            self.step.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            return TOO_MUCH

    def speeds(self, kinds: Iterable[str]) -> dict[str, float]:
        """Seconds of audio per second on an otherwise idle machine, of each kind."""
        found = {}
        for kind in kinds:
            each = min(self.seconds, _USUAL_SECONDS)
            is_labelled, vocabulary_size = kind == "labelled", self.tokenizer.vocabulary_size
            batch = random_batch(self.seconds, each, is_labelled, vocabulary_size, self.second)
            seconds = idle_seconds(partial(self._take, batch), self.device, TIMED_STEPS)
            found[kind] = batch.samples / SAMPLE_RATE_HZ / seconds
        return found

    def _take(self, batch: StepBatch) -> None:
        self.step(batch)
        self.advance(len(batch.micro_batches) * batch.samples / SAMPLE_RATE_HZ)


class StepElsewhere:
    """The model of a config on a GPU that is not in this machine; has the attributes of `StepHere`."""

    name, limit = "GPU", None

    def __init__(self, config: RunConfig) -> None:
        self.tokenizer, cpu = read_tokenizer(config), torch.device("cpu")
        self.features = build_extractor(config, cpu)
        models = build_models(config, ProcessGroup(0, 1, cpu), self.tokenizer.vocabulary_size, self.features)
        self.student, self.twin = models
        self.bf16, self.accumulates = config.device.precision == "bf16", False
        self.views = 2 if config.loss.consistency > 0.0 else 1

    def passes(self, count: int, each: float) -> int:
        """See `StepHere.passes`."""
        samples = round(each * SAMPLE_RATE_HZ)
        frames, size = int(self.features.frames(torch.tensor([samples]))), self.features.size
        rows = self.views * count
        shape = (rows, frames) if size is None else (rows, frames, size)
        tokens, passes = round(each * _TOKENS_PER_SECOND), 2 if self.accumulates else 1
        self.student.train().zero_grad(set_to_none=True)
        try:
            with _all_layers(self.student):
                return bytes_on_gpu(self.student, shape, tokens, passes, bf16=self.bf16)
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"the memory of {type(self.student).__name__} cannot be computed without a GPU, because it "
                f"reads values of tensors ({' '.join(str(error).split())[:120]}); run this on the GPU"
            ) from error

    def speeds(self, kinds: Iterable[str]) -> dict[str, float]:
        """The speed is not known."""
        return {}


@contextmanager
def _all_layers(model: nn.Module) -> Iterator[None]:
    """Context without layerdrop: most memory is needed in a step that skips no layer."""
    rate, change = getattr(model, "layerdrop", None), getattr(model, "set_dropout", None)
    if rate is None or change is None:
        yield
        return
    change(layerdrop=0.0)
    try:
        yield
    finally:
        change(layerdrop=rate)
