"""A train step on given labels, and its expected loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio.features import FeatureConfig, LogMel
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import MicroBatch, StepBatch
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.models.transformer import TransformerCtc
from asr_emapl.objectives.loss import LossConfig
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels, Strategy
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels
from asr_emapl.training.build import build_step

BANDS, VOCABULARY = 12, 6
# 0.5 s: 48 frames of features, 16 of the model.
HALF_SECOND, FRAMES = 8000, 16
FEATURES = LogMel(FeatureConfig(mel_bands=BANDS))
ALONE = ProcessGroup(0, 1, torch.device("cpu"))


class Given(Strategy):
    """A strategy with an answer for each utterance, tokens and confidence; keeps what it was shown."""

    def __init__(self, answers: dict[str, tuple[list[int], float]]) -> None:
        self.answers = answers
        self.seen: list[LabelRequest] = []

    def labels(self, batch: LabelRequest) -> Labels:
        self.seen.append(batch)
        return Labels.of([Label(*self.answers[name]) for name in batch.ids])


class Parts:
    """Student, teacher, optimizer and train step; SGD with lr 1 makes the update equal to the gradient."""

    def __init__(
        self,
        strategy: Given | type[FreshLabels] | None = None,
        *,
        world: ProcessGroup = ALONE,
        clip_norm: float | None = None,
        adam: bool = False,
        half_life: float = 10.0,
        loss: LossConfig | None = None,
        layers: int = 1,
        intermediate_layers: Sequence[int] = (),
        **limits: Any,
    ) -> None:
        torch.manual_seed(0)
        self.student = TransformerCtc(
            VOCABULARY,
            BANDS,
            dim=16,
            heads=2,
            layers=layers,
            dropout=0.0,
            frontend_dropout=0.0,
            intermediate_layers=intermediate_layers,
        )
        self.student.positions.max_shift_seconds = 0.0
        self.teacher = EmaTeacher(self.student, half_life)
        parameters = self.student.parameters()
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, 1e-2) if adam else torch.optim.SGD(parameters, 1.0)
        )
        self.step = build_step(
            world,
            FEATURES,
            self.student,
            self.teacher,
            self.optimizer,
            strategy(Labeller(self.teacher)) if isinstance(strategy, type) else strategy,
            LabelFilters(PseudoLabelConfig(**limits)),
            loss=loss,
            clip_norm=clip_norm,
            bf16=False,
        )

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.student.parameters()]

    def state(self) -> dict[str, object]:
        """All state that a step changes."""
        state = {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        return copy.deepcopy(state)

    def applied(self, before: list[Tensor]) -> list[Tensor]:
        return [a - b for a, b in zip(before, self.weights(), strict=True)]


def micro(lengths: dict[str, int], targets: list[list[int]] | None) -> MicroBatch:
    """A micro-batch of noise with the given lengths in samples, different for each name."""
    waves = [
        0.1 * torch.randn(n, generator=torch.Generator().manual_seed(ord(name)))
        for name, n in lengths.items()
    ]
    padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    rows = [ord(name) for name in lengths]
    return MicroBatch(
        list(lengths), padded, torch.tensor(list(lengths.values())), targets, rows=rows, places=rows
    )


def labelled(*micros: MicroBatch, samples: int = 0) -> StepBatch:
    return StepBatch(True, list(micros), samples or sum(int(m.samples_B.sum()) for m in micros), DataCursor())


def unlabelled(*micros: MicroBatch) -> StepBatch:
    batch = labelled(*micros)
    return StepBatch(False, batch.micro_batches, batch.samples, batch.after)


def loss_alone(model: nn.Module, of: MicroBatch, i: int, tokens: list[int]) -> Tensor:
    """CTC loss of a single utterance, without padding, in float64."""
    samples_B = of.samples_B[i : i + 1]
    log_probs_BTV, lengths_B = model(*FEATURES(of.waveforms_BN[i : i + 1, : int(samples_B)], samples_B))
    return F.ctc_loss(
        log_probs_BTV.double().transpose(0, 1),
        torch.tensor([tokens], dtype=torch.long),
        lengths_B,
        torch.tensor([len(tokens)]),
        reduction="sum",
    )
