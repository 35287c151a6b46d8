"""One rank's share of the batch of a step, in micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.stored_features import StoredBatch
from asr_emapl.errors import UserError


@dataclass
class MicroBatch:
    """The input of one forward pass. Axes: B utterances, N samples, T frames, F features.

    If `stored` is set, `waveforms_BN` are stored features [B, T, F], and `samples_B` their lengths in frames.

    In an unlabelled micro-batch, the student's input is the perturbed `student_BN`, and the teacher's is the
    clean `waveforms_BN`. In a labelled micro-batch, the student's input is the perturbed `waveforms_BN`. The
    masks (`keep_BF`, `keep_BT`) are for the student, and those of a second view are `second_BF` and
    `second_BT`. `rows` are the indices of the utterances in their corpus, `epoch` is the number of the pass
    over it, and `places` are their positions in the global batch.
    """

    ids: list[str]
    waveforms_BN: Tensor
    samples_B: Tensor
    targets: list[list[int]] | None
    stored: StoredBatch | None = None
    keep_BF: Tensor | None = None
    keep_BT: Tensor | None = None
    second_BF: Tensor | None = None
    second_BT: Tensor | None = None
    student_BN: Tensor | None = None
    student_samples_B: Tensor | None = None
    rows: list[int] = field(default_factory=list)
    epoch: int = 0
    places: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """Audio of each utterance; waits for the device of `samples_B`."""
        if self.stored is not None:
            return self.stored.seconds
        return [samples / SAMPLE_RATE_HZ for samples in self.samples_B.tolist()]

    def to(self, device: torch.device) -> MicroBatch:
        """Copy to `device`."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device, non_blocking=True))
        return moved

    def pin_memory(self) -> MicroBatch:
        """Copy to pinned memory; called by torch's DataLoader."""
        pinned = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(pinned, name, value.pin_memory())
        return pinned


@dataclass(frozen=True)
class Skipped:
    """An utterance that was skipped in a step because its audio cannot be decoded."""

    id: str
    audio: str
    why: str
    epoch: int


@dataclass
class StepBatch:
    """One rank's share of one optimizer step.

    `samples` and `after` are those of the plan: they include skipped audio, and perturbed audio with its
    original length. The clock and the position for a resume then do not depend on unreadable files.
    """

    labelled: bool
    micro_batches: list[MicroBatch]
    # For all ranks: unpadded audio in samples, and the position after the step.
    samples: int
    after: DataCursor
    # Whether the utterances are labelled and not trained on.
    label_only: bool = False
    # Utterances whose label is not trained on, of all ranks; see `GlobalBatch.unused`.
    unused: Sequence[int] = ()
    # Utterances that this rank skipped.
    skipped: list[Skipped] = field(default_factory=list)
    # Why the step is incomplete: for example, a server could not be reached. An exception that a decoding
    # process raises would arrive with its traceback in the message.
    failure: UserError | None = None

    def pin_memory(self) -> StepBatch:
        """Copy to pinned memory; see `MicroBatch.pin_memory`."""
        return replace(self, micro_batches=[micro.pin_memory() for micro in self.micro_batches])
