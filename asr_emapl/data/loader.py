"""From global batches to what one rank trains on: decoded, padded, augmentation drawn, in micro-batches."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr_emapl.audio.augment import SpecAugment, draw_seed
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FrameCount
from asr_emapl.data.batch_plan import GlobalBatch, Indices, MixPlan, MixPosition, micro_batches, share
from asr_emapl.data.manifest import Utterance
from asr_emapl.errors import UserError


@dataclass
class DataConfig:
    """Manifests (JSONL), limits on utterances, and the decoding processes of each rank."""

    labelled: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    # Name of the split -> manifest.
    validation: dict[str, str] = field(default_factory=dict)
    # Utterances outside these limits are left out, and counted.
    min_seconds: float = 0.2
    max_seconds: float = 36.0
    # Processes that decode ahead; 0: in the training process.
    workers: int = 2


@dataclass
class MicroBatch:
    """What one forward pass takes. Axes: B utterances, N samples, T frames, F mel bands."""

    ids: list[str]
    waveforms_BN: Tensor
    samples_B: Tensor
    targets: list[list[int]] | None
    keep_BF: Tensor | None = None
    keep_BT: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`."""
        moved = [
            None if t is None else t.to(device, non_blocking=True)
            for t in (self.waveforms_BN, self.samples_B, self.keep_BF, self.keep_BT)
        ]
        assert moved[0] is not None
        assert moved[1] is not None
        return MicroBatch(self.ids, moved[0], moved[1], self.targets, moved[2], moved[3])

    def pin_memory(self) -> MicroBatch:
        """The same in page-locked memory, for copies that overlap computation; torch's loader calls it."""
        self.waveforms_BN = self.waveforms_BN.pin_memory()
        return self


@dataclass
class StepBatch:
    """One rank's share of one optimizer step, and what is known of the whole."""

    labelled: bool
    micro_batches: list[MicroBatch]
    # Of all ranks: unpadded audio in samples, and where the data stand once the step is done.
    samples: int
    after: MixPosition

    def pin_memory(self) -> StepBatch:
        """See `MicroBatch.pin_memory`."""
        for micro in self.micro_batches:
            micro.pin_memory()
        return self


@dataclass
class Corpus:
    """Utterances with their targets (None: none are known, or none may be used)."""

    utterances: Sequence[Utterance]
    targets: Sequence[list[int]] | None

    @property
    def samples(self) -> Indices:
        """Length of each utterance, in samples."""
        return np.array([u.samples for u in self.utterances], dtype=np.int64)


class StepDataset(Dataset[StepBatch]):
    """Decodes the share of one rank in a global batch."""

    def __init__(
        self,
        labelled: Corpus,
        unlabelled: Corpus | None,
        *,
        frames: FrameCount,
        augment: SpecAugment | None,
        max_samples: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.corpora = {True: labelled, False: unlabelled}
        self.frames, self.augment = frames, augment
        self.max_samples, self.seed = max_samples, seed
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, batch: GlobalBatch) -> StepBatch | UserError:  # type: ignore[override]
        """The rank's part of `batch`; an error is handed over as a value, since a raise in a worker
        process would reach the user as a traceback."""
        corpus = self.corpora[batch.labelled]
        assert corpus is not None
        lengths = np.array([corpus.utterances[i].samples for i in batch.indices], dtype=np.int64)
        mine = batch.indices[share(lengths, self.world_size, self.rank)]
        groups = micro_batches([corpus.utterances[i].samples for i in mine], self.max_samples)
        try:
            parts = [self._micro_batch(corpus, mine[group], batch.epoch) for group in groups]
        except UserError as error:
            return error
        return StepBatch(batch.labelled, parts, batch.samples, batch.after)

    def _micro_batch(self, corpus: Corpus, indices: Indices, epoch: int) -> MicroBatch:
        utterances = [corpus.utterances[i] for i in indices]
        micro = collate(utterances)
        micro.targets = None if corpus.targets is None else [corpus.targets[i] for i in indices]
        if self.augment is not None:
            frames = [self.frames(n) for n in micro.samples_B.tolist()]
            kept = [
                self.augment.keep(t, draw_seed(self.seed, u.id, epoch))
                for t, u in zip(frames, utterances, strict=True)
            ]
            micro.keep_BF = torch.stack([bands for bands, _ in kept])
            micro.keep_BT = _pad([times for _, times in kept])
        return micro


def collate(utterances: Sequence[Utterance]) -> MicroBatch:
    """Decode and pad. The true length counts where it differs from the manifest's."""
    audio = [read_audio(u.source, offset=u.offset, duration=u.duration) for u in utterances]
    samples_B = torch.tensor([len(a) for a in audio])
    return MicroBatch([u.id for u in utterances], _pad(audio), samples_B, None)


def _pad(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class _Requests:
    """Endless global batches from a position on, in the form of a torch sampler."""

    def __init__(self, plan: MixPlan, start: MixPosition) -> None:
        self.plan, self.start = plan, start

    def __iter__(self) -> Iterator[GlobalBatch]:
        at = self.start
        while True:
            batch = self.plan.next(at)
            yield batch
            at = batch.after


def steps(
    dataset: StepDataset, plan: MixPlan, start: MixPosition, *, workers: int, pin_memory: bool
) -> Generator[StepBatch, None, None]:
    """Endless steps from `start` on; the same ones with any number of decoding processes.

    Raises:
        UserError: an utterance could not be decoded.
    """
    loader: DataLoader[StepBatch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Requests(plan, start),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C, and a scheduler that stops a job, signal the whole process group: the trainer then saves and
    ends its workers; workers that died first would break the step that it is in."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def within_limits(utterances: Sequence[Utterance], config: DataConfig) -> list[Utterance]:
    """The utterances that `min_seconds` and `max_seconds` admit."""
    return [u for u in utterances if config.min_seconds <= u.duration <= config.max_seconds]
