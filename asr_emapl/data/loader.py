"""Load the micro-batches of one rank: decoded, padded, and with random augmentation."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from asr_emapl.audio.augment import SpecAugment, draw_seed
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.perturb import Perturbation
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.decoders import DeadDecoderError, WorkerProgress, watched
from asr_emapl.data.micro_batches import micro_batches, passes_of_equal_size
from asr_emapl.data.mixture import DataCursor, DataPlan, GlobalBatch
from asr_emapl.data.permutation import Indices
from asr_emapl.data.step_batch import MicroBatch, Skipped, StepBatch
from asr_emapl.data.stored_features import StoredBatch, read_features, stored_by
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UnreachableError, UserError
from asr_emapl.processes import serve_parent
from asr_emapl.settings import Place, PositiveSeconds, PositiveWeight, Share, Text


@dataclass
class DataConfig:
    """Manifests (JSONL), limits on utterances, and decoding processes."""

    labelled: list[Place] = field(default_factory=list)
    """Manifests with transcripts."""
    unlabelled: list[Place] = field(default_factory=list)
    """Manifests for pseudo-labels."""
    labelled_weights: list[PositiveWeight] = field(default_factory=list)
    """Weight in audio of each labelled manifest, which is then a separate corpus with its own passes; empty:
    all manifests form one corpus."""
    unlabelled_weights: list[PositiveWeight] = field(default_factory=list)
    """Weight in audio of each unlabelled manifest; see `labelled_weights`."""
    temperature: PositiveWeight | None = None
    """Weight each manifest by its hours ** (1 / temperature), instead of setting weights."""
    validation: dict[str, Place] = field(default_factory=dict)
    """Manifest of each validation split, by name."""
    seen_validation: list[Text] = field(default_factory=list)
    """Names of validation splits that may contain training audio, for example to measure how well it is
    fitted; in any other split, training audio is an error."""
    min_seconds: Annotated[float, Ge(0.0), Le(1e9)] = 0.2
    """Minimum duration of an utterance; shorter ones are excluded and counted."""
    max_seconds: PositiveSeconds = 36.0
    """Maximum duration of an utterance; longer ones are excluded and counted."""
    workers: Annotated[int, Ge(0), Le(1024)] = 2
    """Number of processes per rank that decode audio; 0: decode in the training process."""
    max_skipped_share: Share = 0.01
    """Maximum share of undecodable audio, which is skipped and listed; above it, the run stops."""


# Maximum number of steps that each decoding process prefetches.
STEPS_AHEAD = 4


class StepDataset(Dataset[StepBatch]):
    """Decodes one rank's share of a global batch.

    Args:
        frames: samples [B] to feature frames [B], see `FeatureExtractor.frames`.
        max_samples: maximum padded samples of a micro-batch, for both teacher and student.
        perturb: perturbation of the student's waveforms; None: same waveforms as for the teacher.
        two_views: whether masks of a second view are drawn.
        pass_size: number of utterances in each micro-batch; None: as many as fit `max_samples`.
    """

    # Records the current utterance of a decoding process.
    desk: WorkerProgress | None = None

    def __init__(
        self,
        labelled: Corpus | None,
        unlabelled: Corpus | None,
        *,
        frames: Callable[[Tensor], Tensor],
        augment: SpecAugment | None,
        perturb: Perturbation | None = None,
        two_views: bool = False,
        pass_size: int | None = None,
        max_samples: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.pass_size = pass_size
        self.corpora = {True: labelled, False: unlabelled}
        self.frames, self.augment, self.perturb, self.two_views = frames, augment, perturb, two_views
        self.max_samples, self.seed = max_samples, seed
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, batch: GlobalBatch) -> StepBatch:
        """The rank's share of `batch`; utterances that cannot be decoded are in `skipped`."""
        corpus = self.corpora[batch.labelled]
        assert corpus is not None
        made = StepBatch(batch.labelled, [], batch.samples, batch.after, batch.label_only)
        # Read each utterance from its manifest only once.
        utterance = cache(corpus.utterances.__getitem__)
        try:
            for part in self._parts(batch, utterance):
                micro = self._micro_batch(batch, part, utterance, made.skipped)
                if micro is not None:
                    made.micro_batches.append(micro)
        except UserError as error:
            made.failure = error
        if self.desk is not None:
            self.desk.note(batch.labelled, -1)
        return made

    def _parts(self, batch: GlobalBatch, utterance: Callable[[int], Utterance]) -> list[Indices]:
        """Positions of each micro-batch of this rank in a global batch."""
        ranks = {"world_size": self.world_size, "rank": self.rank}
        if self.pass_size is not None:
            return passes_of_equal_size(len(batch.indices), self.pass_size, **ranks)
        heard = [self._longest(row, utterance, batch) for row in batch.indices.tolist()]
        return micro_batches(heard, self.max_samples, groups=batch.groups, **ranks)

    def _longest(self, row: int, utterance: Callable[[int], Utterance], batch: GlobalBatch) -> int:
        """Samples of the longest version of an utterance according to the plan, for the micro-batches."""
        corpus = self.corpora[batch.labelled]
        assert corpus is not None
        samples = int(corpus.samples[row])
        if self.perturb is None or batch.label_only:
            return samples
        student = self.perturb.samples(samples, self.seed, utterance(row).id, batch.epoch)
        return student if batch.labelled else max(student, samples)

    def _micro_batch(
        self,
        batch: GlobalBatch,
        part: Indices,
        utterance: Callable[[int], Utterance],
        skipped: list[Skipped],
    ) -> MicroBatch | None:
        corpus = self.corpora[batch.labelled]
        assert corpus is not None
        perturb = None if batch.label_only else self.perturb
        places: list[int] = []
        utterances: list[Utterance] = []
        clean: list[Tensor] = []
        student: list[Tensor] = []
        for place in part.tolist():
            i = int(batch.indices[place])
            u = utterance(i)
            if self.desk is not None:
                self.desk.note(batch.labelled, i)
            try:
                waveform = _read(u)
                perturbed = perturb(waveform, self.seed, u.id, batch.epoch) if perturb else waveform
            except UnreachableError:
                raise
            except UserError as error:
                skipped.append(Skipped(u.id, u.audio, str(error), batch.epoch))
                continue
            places.append(place)
            utterances.append(u)
            clean.append(waveform)
            student.append(perturbed)
        if not places:
            return None
        rows = batch.indices[places].tolist()
        micro = _padded(utterances, student if batch.labelled else clean)
        micro.rows, micro.epoch, micro.places = rows, batch.epoch, places
        if perturb is not None and not batch.labelled:
            heard = _padded(utterances, student)
            micro.student_BN, micro.student_samples_B = heard.waveforms_BN, heard.samples_B
        micro.targets = None if corpus.targets is None else [corpus.targets[i] for i in rows]
        if self.augment is not None and not batch.label_only:
            self._mask(micro, student, self.augment)
        return micro

    def _mask(self, micro: MicroBatch, student: Sequence[Tensor], augment: SpecAugment) -> None:
        lengths_B = torch.tensor([len(one) for one in student])
        frames = (lengths_B if micro.stored else self.frames(lengths_B)).tolist()
        seeds = [draw_seed(self.seed, name, micro.epoch) for name in micro.ids]
        micro.keep_BF, micro.keep_BT = _masks(augment, frames, seeds)
        if self.two_views:
            seeds = [draw_seed(self.seed, name, micro.epoch, "second view") for name in micro.ids]
            micro.second_BF, micro.second_BT = _masks(augment, frames, seeds)


def _masks(augment: SpecAugment, frames: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor | None, Tensor]:
    """Masks of bands [B, F], None for waveforms, and of frames [B, T]."""
    kept = [augment.keep(length, seed) for length, seed in zip(frames, seeds, strict=True)]
    bands_BF = torch.stack([bands for bands, _ in kept]) if augment.size else None
    return bands_BF, _pad([times for _, times in kept])


# Called with an utterance that is excluded from a result, and the reason.
LeftOut = Callable[[Utterance, UserError], None]


def collate(utterances: Sequence[Utterance], left_out: LeftOut | None = None) -> MicroBatch:
    """Decode and pad utterances. Lengths are those of the audio, even if the manifest's differ.

    Args:
        left_out: called with each utterance that cannot be decoded; it is excluded from the batch.

    Raises:
        UserError: an utterance cannot be decoded, and `left_out` is None.
        UnreachableError: a server cannot be reached.
    """
    decoded: list[Utterance] = []
    waveforms: list[Tensor] = []
    for utterance in utterances:
        try:
            waveforms.append(_read(utterance))
            decoded.append(utterance)
        except UserError as error:
            if left_out is None or isinstance(error, UnreachableError):
                raise
            left_out(utterance, error)
    return _padded(decoded, waveforms)


def _read(utterance: Utterance) -> Tensor:
    """A waveform [N], or stored features [T, F]."""
    if stored_by(utterance) is not None:
        return read_features(utterance)
    return read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)


def _padded(utterances: Sequence[Utterance], inputs: list[Tensor]) -> MicroBatch:
    """Pad waveforms or stored features.

    Raises:
        UserError: some utterances are audio, and others stored features of this or another extractor.
    """
    kinds = {stored_by(utterance): utterance for utterance in utterances}
    if len(kinds) > 1:
        examples = " and ".join(utterance.id for utterance in kinds.values())
        raise UserError(
            f"utterances {examples}: audio and stored features, or features of several extractors, cannot be "
            "in one batch; use manifests of one kind"
        )
    fingerprint = next(iter(kinds), None)
    stored = None if fingerprint is None else StoredBatch(fingerprint, [u.duration for u in utterances])
    ids, lengths_B = [u.id for u in utterances], torch.tensor([len(one) for one in inputs])
    return MicroBatch(ids, _pad(inputs), lengths_B, None, stored)


def _pad(rows: list[Tensor]) -> Tensor:
    if not rows:
        return torch.zeros(0, 0)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class _Requests:
    """Torch sampler that yields global batches endlessly from a position on.

    Attributes:
        sent: for each batch that was requested and not yet received, the position after it and its unused
            utterances. They are not sent through the decoding processes: a cache of labels makes them large.
    """

    def __init__(self, plan: DataPlan, start: DataCursor) -> None:
        self.plan, self.start = plan, start
        self.sent: deque[tuple[DataCursor, Sequence[int]]] = deque()

    def __iter__(self) -> Iterator[GlobalBatch]:
        at = self.start
        while True:
            batch = self.plan.next(at)
            at = batch.after
            self.sent.append((at, batch.unused.tolist()))
            yield replace(batch, after=DataCursor(), unused=batch.unused[:0])


def steps(
    dataset: StepDataset, plan: DataPlan, start: DataCursor, *, workers: int, pin_memory: bool
) -> Generator[StepBatch, None, None]:
    """Yield steps endlessly from `start` on; they do not depend on the number of decoding processes.

    Close the generator to end its processes.

    At most workers x STEPS_AHEAD steps of this rank are prefetched: 64 kB per padded second, twice that for
    perturbed unlabelled audio.

    Raises:
        UserError: a decoding process died, with its current utterance; or a batch has audio and stored
            features.
        UnreachableError: a server with audio cannot be reached.
    """
    desk, requests = WorkerProgress(workers), _Requests(plan, start)
    loader: DataLoader[StepBatch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        prefetch_factor=STEPS_AHEAD if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=partial(_begin, desk),
    )
    try:
        with closing(watched(loader, desk) if workers else (step for step in loader)) as made:
            for step in made:
                if step.failure is not None:
                    raise step.failure
                step.after, step.unused = requests.sent.popleft()
                yield step
    except DeadDecoderError as death:
        if death.at is None:
            raise UserError(f"{death} between two steps ({death.remedy})") from death
        corpus = dataset.corpora[death.at.labelled]
        assert corpus is not None
        u = corpus.utterances[death.at.index]
        raise UserError(f"{death} at utterance {u.id} ({u.source}; {death.remedy})") from death


def _begin(desk: WorkerProgress, worker: int) -> None:
    """Initialise a decoding process.

    Ctrl-C and schedulers signal the whole process group. The trainer then saves a checkpoint and ends its
    workers. If these ended first, the current step would fail.
    """
    serve_parent(signal.SIGTERM, signal.SIGINT)
    desk.take(worker)
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, StepDataset)
    info.dataset.desk = desk
