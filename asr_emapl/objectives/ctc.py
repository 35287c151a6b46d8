"""The CTC objective, on transcripts or pseudo-labels.

Axes: B utterances, T feature frames, F mel bands, S tokens, V labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.data.stored_features import input_features
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import unwrap
from asr_emapl.objectives.labels_ahead import LabelsAhead
from asr_emapl.objectives.loss import LossConfig, consistency_loss, ctc_loss
from asr_emapl.objectives.objective import Prepared, to_device
from asr_emapl.pseudo_labels.filters import REASONS, LabelCandidate, LabelFilters, reason_to_drop_transcript
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels, PendingLabels, Strategy, read_labels
from asr_emapl.pseudo_labels.strategies.soft import soft_loss
from asr_emapl.runs.phases import Phases

# Length in seconds of the input of a rank that only takes part in collective operations.
_NOTHING_SECONDS = 0.5


@dataclass(frozen=True)
class Targets:
    """Input and targets of the student for one micro-batch, without dropped utterances.

    Attributes:
        features_BTF: augmented features, on the device.
        second_BTF: the same with other masks, for a second view; None: one view.
        lengths_B: long [B], in feature frames, on the device.
        tokens_BS: long [B, S], padded with zeros, on the device.
        frames: number of output frames of each utterance, computed on the CPU.
        counts: number of tokens of each utterance.
        places: position of each utterance in the global batch.
        soft_BTV: log-probabilities to train on frame by frame, on the device; None: only the tokens are
            trained on.
    """

    features_BTF: Tensor
    lengths_B: Tensor
    tokens_BS: Tensor
    frames: tuple[int, ...]
    counts: tuple[int, ...]
    places: tuple[int, ...]
    soft_BTV: Tensor | None = None
    second_BTF: Tensor | None = None

    @property
    def utterances(self) -> int:
        """See `Work.utterances`."""
        return len(self.counts)

    @property
    def tokens(self) -> int:
        """See `Work.tokens`."""
        return sum(self.counts)

    def take(self, rows: Sequence[int]) -> Targets:
        """Select utterances."""
        index = to_device(torch.tensor(rows, dtype=torch.long), self.features_BTF.device)
        return Targets(
            self.features_BTF.index_select(0, index),
            self.lengths_B.index_select(0, index),
            self.tokens_BS.index_select(0, index),
            tuple(self.frames[i] for i in rows),
            tuple(self.counts[i] for i in rows),
            tuple(self.places[i] for i in rows),
            None if self.soft_BTV is None else self.soft_BTV.index_select(0, index),
            None if self.second_BTF is None else self.second_BTF.index_select(0, index),
        )

    def half(self, which: int) -> Targets:
        """See `Work.half`."""
        return self.take([i for i, place in enumerate(self.places) if place % 2 == which])


class CtcObjective:
    """CTC loss (Graves et al. 2006) on the labels of a strategy.

    Args:
        student: the result of `ProcessGroup.data_parallel`.
        strategy: computes the labels: `GivenLabels`, or a pseudo-label strategy.
        filters: of pseudo-labels; None: the labels are transcripts.
        weights: of the parts of the loss; None: the defaults.
        ahead: holds labels that are begun before their step; None: an own one.
        bf16: run the student's forward pass with autocast to bfloat16.
    """

    def __init__(
        self,
        world: ProcessGroup,
        features: FeatureExtractor,
        student: nn.Module,
        strategy: Strategy,
        filters: LabelFilters | None,
        phases: Phases,
        *,
        weights: LossConfig | None = None,
        ahead: LabelsAhead[_Queued] | None = None,
        bf16: bool = False,
    ) -> None:
        self.world, self.features, self.student, self.strategy = world, features, student, strategy
        self.filters, self.phases, self.bf16 = filters, phases, bf16
        self.weights = weights or LossConfig()
        self.ahead: LabelsAhead[_Queued] = LabelsAhead(world) if ahead is None else ahead
        self.reasons = tuple(REASONS) if filters is None else filters.reasons
        # Whether the labels of each step are kept, for comparison with those of the next pass.
        self.keeps_labels = type(strategy).previous is not Strategy.previous

    def begin(self, micro_batches: Sequence[MicroBatch], passes: int, *, label_only: bool) -> None:
        """Begin the labels of micro-batches that `prepare` or, if `label_only`, `label` gets next.

        The models run now. Does not wait for the searches of their labels.
        """
        label = self.strategy.relabel if label_only else self.strategy.labels
        self.ahead.put(micro_batches, self._begin(micro_batches, passes, label))

    def prepare(self, micro_batches: Sequence[MicroBatch], passes: int) -> Prepared[Targets]:
        """See `Objective.prepare`. Synchronizes with the device once, to read the numbers of all labels."""
        prepared = self._filter(self._queued(micro_batches, passes, self.strategy.labels))
        self.phases.mark("features" if self.filters is None else "teacher")
        return prepared

    def label(self, micro_batches: Sequence[MicroBatch], passes: int) -> int:
        """Label micro-batches that are not trained on; the strategy keeps the labels of all ranks.

        Returns:
            The number of labels, over all ranks.
        """
        queued = self._queued(micro_batches, passes, self.strategy.relabel)
        return self._keep(_by_row(micro_batches, self._read([one.labels.result() for one in queued])))

    def _read(self, labels: Sequence[Labels]) -> list[Sequence[Label]]:
        """Labels on the host, as everything else sees them: a label without a word is empty."""
        read = read_labels(labels, self.world.to_list)
        if self.filters is None:
            return read
        return [[self.filters.without_spaces_alone(label) for label in of_batch] for of_batch in read]

    def _queued(self, micro_batches: Sequence[MicroBatch], passes: int, label: _Label) -> list[_Queued]:
        """The micro-batches with labels that were begun before, are those of a checkpoint, or begin now."""
        begun = self.ahead.take(micro_batches)
        if begun is not None:
            return begun
        known = self.ahead.restored(micro_batches)
        if known is not None:
            return [self._queue(micro, partial(_known_labels, known)) for micro in micro_batches]
        return self._begin(micro_batches, passes, label)

    def _begin(self, micro_batches: Sequence[MicroBatch], passes: int, label: _Label) -> list[_Queued]:
        queued = [self._queue(micro, label) for micro in micro_batches]
        if self.world.sharded and self.filters is not None:
            # All ranks must gather the weights of a sharded teacher equally often.
            for _ in range(passes - len(queued)):
                nothing = self.nothing()
                label(LabelRequest([], nothing.features_BTF, nothing.lengths_B, []))
        return queued

    def _keep(self, labels: dict[int, Label]) -> int:
        """Let the strategy keep the labels of all ranks, in the order of their rows; returns their number."""
        merged = {row: label for of_rank in self.world.gather(labels) for row, label in of_rank.items()}
        self.strategy.keep(dict(sorted(merged.items())))
        return len(merged)

    def summed(self, counts: Sequence[float]) -> dict[str, float]:
        """See `Objective.summed`."""
        if self.filters is not None:
            self.filters.update(counts)
        return {}

    def nothing(self) -> Targets:
        """See `Objective.nothing`."""
        device, size = self.world.device, self.features.size
        frames = math.ceil(_NOTHING_SECONDS / self.features.frame_seconds)
        shape = (1, frames) if size is None else (1, frames, size)
        tokens_BS = torch.zeros(1, 0, dtype=torch.long, device=device)
        lengths_B = torch.full((1,), frames, device=device)
        return Targets(torch.zeros(shape, device=device), lengths_B, tokens_BS, (), (), ())

    def loss(self, targets: Targets) -> Tensor:
        """See `Objective.loss`."""
        features_BTF, lengths_B = targets.features_BTF, targets.lengths_B
        if targets.second_BTF is not None:
            features_BTF, lengths_B = torch.cat([features_BTF, targets.second_BTF]), lengths_B.repeat(2)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            log_probs_BTV, _, *between = self.student(features_BTF, lengths_B)
        if not targets.counts:
            return 0.0 * log_probs_BTV.sum()
        log_probs_BTV = log_probs_BTV.float()
        hard = self._ctc(log_probs_BTV, between[0] if between else [], targets)
        if targets.second_BTF is None and targets.soft_BTV is None:
            return hard
        lengths_B = to_device(torch.tensor(targets.frames), self.world.device)
        if targets.soft_BTV is not None and self.filters is not None:
            soft = soft_loss(log_probs_BTV, targets.soft_BTV, lengths_B).sum()
            hard_share = self.filters.limits.hard_share
            hard = hard_share * hard + (1.0 - hard_share) * soft
        if targets.second_BTF is None:
            return hard
        return hard + self.weights.consistency * consistency_loss(log_probs_BTV, lengths_B)

    def _ctc(self, log_probs_BTV: Tensor, between_BTV: Sequence[Tensor], targets: Targets) -> Tensor:
        """CTC loss on the last layer and on the outputs of intermediate layers."""
        labels = targets.tokens_BS, targets.frames, targets.counts
        last = ctc_loss(log_probs_BTV, *labels)
        share = self.weights.intermediate
        if not between_BTV or share == 0.0:
            return last
        mean = torch.stack([ctc_loss(one_BTV.float(), *labels) for one_BTV in between_BTV]).mean()
        return (1.0 - share) * last + share * mean

    def request(self, micro: MicroBatch, there: MicroBatch) -> LabelRequest:
        """What the strategy sees of a micro-batch; `there` is its copy on the device."""
        features_BTF, lengths_B = input_features(
            self.features, there.waveforms_BN, there.samples_B, micro.stored
        )
        return LabelRequest(
            micro.ids,
            features_BTF,
            lengths_B,
            micro.seconds,
            micro.targets,
            micro.rows,
            micro.epoch,
            there.waveforms_BN if micro.stored is None else None,
        )

    def _queue(self, micro: MicroBatch, label: _Label) -> _Queued:
        """Queue the computation of labels from clean features, and of the student's features."""
        there = micro.to(self.world.device)
        request = self.request(micro, there)
        if self.filters is not None:
            self.phases.mark("features")
        labels = label(request)
        if self.filters is not None:
            self.phases.mark("teacher")
        features_BTF, lengths_B, samples_B = request.features, request.lengths, micro.samples_B
        if there.student_BN is not None and there.student_samples_B is not None:
            features_BTF, lengths_B = self.features(there.student_BN, there.student_samples_B)
            assert micro.student_samples_B is not None
            samples_B = micro.student_samples_B
        inputs_B = samples_B if micro.stored else self.features.frames(samples_B)
        frames = unwrap(self.student).output_lengths(inputs_B)  # type: ignore[operator]
        second_BTF = None
        if self.weights.consistency > 0.0 and there.second_BT is not None:
            second_BTF = _masked(features_BTF, there.second_BF, there.second_BT)
        features_BTF = _masked(features_BTF, there.keep_BF, there.keep_BT)
        heard = (features_BTF, second_BTF, lengths_B)
        return _Queued(*heard, tuple(frames.tolist()), tuple(request.seconds), labels, micro)

    def _filter(self, queued: Sequence[_Queued]) -> Prepared[Targets]:
        """Drop utterances according to the filters. The only place that waits for the labels."""
        results = [one.labels.result() for one in queued]
        read = self._read(results)
        targets, dropped, by_reason = [], Counter[str](), dict[int, str]()
        for one, result, found in zip(queued, results, read, strict=True):
            reasons = [self._reason(one, i, label) for i, label in enumerate(found)]
            dropped.update(reason for reason in reasons if reason is not None)
            if self.filters is not None:
                named = zip(one.micro.rows, reasons, strict=True)
                by_reason |= {row: reason for row, reason in named if reason is not None}
            kept = [i for i, reason in enumerate(reasons) if reason is None]
            if kept:
                tokens_BS = to_device(result.tokens_BS, self.world.device)
                counts = tuple(len(label.tokens) for label in found)
                of_batch = (tuple(one.micro.places), result.soft_BTV, one.second_BTF)
                labels = (tokens_BS, one.frames, counts, *of_batch)
                whole = Targets(one.features_BTF, one.lengths_B, *labels)
                targets.append(whole if len(kept) == len(reasons) else whole.take(kept))
        if self.filters is None:
            return Prepared(targets, dropped)
        by_row = _by_row([one.micro for one in queued], read)
        if self.keeps_labels:
            self._keep(by_row)
        return Prepared(targets, dropped, by_row, by_reason, self.filters.counts(by_row.values()))

    def _reason(self, queued: _Queued, place: int, label: Label) -> str | None:
        """Why an utterance is not trained on; None: it is."""
        candidate = LabelCandidate(
            label.tokens,
            queued.frames[place],
            queued.seconds[place],
            label.confidence,
            label.agreement,
            self._level_db(queued.micro, place),
            self.strategy.previous(queued.micro.rows[place]) if self.keeps_labels else None,
            queued.micro.ids[place],
            None if self.filters is None else self.filters.tokenizer,
        )
        if self.filters is None:
            return reason_to_drop_transcript(candidate)
        return self.filters.reason_to_drop(candidate)

    def _level_db(self, micro: MicroBatch, place: int) -> float:
        """Root mean square of the audio in dB re full scale; 0 if no filter needs it."""
        if self.filters is None or not self.filters.needs_level:
            return 0.0
        samples = int(micro.samples_B[place])
        return 10.0 * math.log10(float(micro.waveforms_BN[place, :samples].square().mean()) + 1e-12)


@dataclass(frozen=True)
class _Queued:
    """A micro-batch whose labels are being computed on the device, or searched."""

    features_BTF: Tensor
    second_BTF: Tensor | None
    lengths_B: Tensor
    frames: tuple[int, ...]
    seconds: tuple[float, ...]
    labels: Labels | PendingLabels
    micro: MicroBatch


_Label = Callable[[LabelRequest], Labels | PendingLabels]


def _known_labels(labels: Mapping[int, Label], request: LabelRequest) -> Labels:
    return Labels.of([labels[row] for row in request.rows])


def _masked(features_BTF: Tensor, keep_BF: Tensor | None, keep_BT: Tensor | None) -> Tensor:
    """Set masked bands and frames to 0, which is the utterance's mean of log-mel features."""
    if keep_BT is None:
        return features_BTF
    if keep_BF is None:
        return features_BTF * keep_BT
    return features_BTF * keep_BF[:, None, :] * keep_BT[:, :, None]


def _by_row(micro_batches: Sequence[MicroBatch], labels: Sequence[Sequence[Label]]) -> dict[int, Label]:
    pairs = zip(micro_batches, labels, strict=True)
    return {row: label for micro, found in pairs for row, label in zip(micro.rows, found, strict=True)}
