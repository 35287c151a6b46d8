"""Masked prediction: the student predicts the teacher's outputs at frames that are masked in its input.

Axes: B utterances, T feature frames, F features, T' (also T) output frames, D width of the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.data.stored_features import input_features
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher, unwrap
from asr_emapl.errors import UserError
from asr_emapl.objectives.objective import Prepared, to_device
from asr_emapl.self_supervised.config import MaskedConfig
from asr_emapl.self_supervised.spread import SpreadGuard, spread
from asr_emapl.self_supervised.teacher_objective import TeacherObjective

# data2vec averages 8 of 12 layers (Baevski et al. 2022, section 4.2).
_TOP_SHARE = 2.0 / 3.0
_EPS = 1e-5
# Length in seconds of the input of a rank that only takes part in collective operations.
_NOTHING_SECONDS = 0.5


@dataclass(frozen=True)
class MaskedTargets:
    """Masked input of the student for one micro-batch, and the teacher's outputs.

    Attributes:
        features_BTF: features, or waveforms [B, N], with zeros in masked spans.
        lengths_B: long [B], in feature frames.
        mask_BT: bool [B, T'], True at masked output frames.
        target_BTD: [B, T', D].
        masked: number of masked output frames of each utterance, on the CPU.
        places: position of each utterance in the global batch.
    """

    features_BTF: Tensor
    lengths_B: Tensor
    mask_BT: Tensor
    target_BTD: Tensor
    masked: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def utterances(self) -> int:
        """See `Work.utterances`."""
        return len(self.masked)

    @property
    def tokens(self) -> int:
        """Number of masked frames; see `Work.tokens`."""
        return sum(self.masked)

    def take(self, rows: Sequence[int]) -> MaskedTargets:
        """Select utterances."""
        index = to_device(torch.tensor(rows, dtype=torch.long), self.mask_BT.device)
        return MaskedTargets(
            self.features_BTF.index_select(0, index),
            self.lengths_B.index_select(0, index),
            self.mask_BT.index_select(0, index),
            self.target_BTD.index_select(0, index),
            tuple(self.masked[i] for i in rows),
            tuple(self.places[i] for i in rows),
        )

    def half(self, which: int) -> MaskedTargets:
        """See `Work.half`."""
        return self.take([i for i, place in enumerate(self.places) if place % 2 == which])


class MaskedObjective(TeacherObjective):
    """Mean squared error at masked frames (data2vec, Baevski et al. 2022, section 3).

    The target is the mean of the teacher's last layers, each normalised per utterance and channel over time.
    The error of an utterance is the mean over its masked frames. The input is masked, not the output of the
    front-end, as in BEST-RQ (Chiu et al. 2022), so that any model can be trained.

    Args:
        student, teacher: of a `MaskedModel`; see `TeacherObjective`, also for the other arguments.
        seed: seed of the run; the masks are seeded by it, the utterance and the pass.
    """

    def __init__(
        self,
        world: ProcessGroup,
        features: FeatureExtractor,
        student: nn.Module,
        teacher: EmaTeacher,
        config: MaskedConfig,
        guard: SpreadGuard,
        mark: Callable[[str], None],
        *,
        seed: int,
        bf16: bool = False,
    ) -> None:
        super().__init__(world, student, teacher, guard, mark, bf16=bf16)
        self.features, self.config, self.seed = features, config, seed

    def prepare(self, micro_batches: Sequence[MicroBatch], passes: int) -> Prepared[MaskedTargets]:
        """See `Objective.prepare`. Synchronizes with the device once, to read the statistics."""
        sums, targets = torch.zeros(3, device=self.world.device), []
        for micro in micro_batches:
            one, lengths_B = self._targets(micro)
            sums += spread(one.target_BTD / math.sqrt(one.target_BTD.shape[-1]), lengths_B)
            targets.append(one)
        # All ranks must gather the weights of a sharded teacher equally often.
        for _ in range(passes - len(targets) if self.world.sharded else 0):
            nothing = self.nothing()
            self.teacher(nothing.features_BTF, nothing.lengths_B)
        prepared = Prepared(targets, counts=self.world.to_list(sums))
        self.mark("teacher")
        return prepared

    def nothing(self) -> MaskedTargets:
        """See `Objective.nothing`."""
        device, size = self.world.device, self.features.size
        frames = math.ceil(_NOTHING_SECONDS / self.features.frame_seconds)
        features_BTF = torch.zeros((1, frames) if size is None else (1, frames, size), device=device)
        none_BT = torch.zeros(1, 0, dtype=torch.bool, device=device)
        lengths_B = torch.full((1,), frames, device=device)
        return MaskedTargets(features_BTF, lengths_B, none_BT, torch.zeros(1, 0, 1, device=device), (), ())

    def loss(self, targets: MaskedTargets) -> Tensor:
        """See `Objective.loss`."""
        with self.autocast():
            _, predicted_BTD = self.student(targets.features_BTF, targets.lengths_B)
        if not targets.masked:
            return 0.0 * predicted_BTD.sum()
        frames = targets.mask_BT.shape[1]
        error_BT = (predicted_BTD[:, :frames] - targets.target_BTD).square().mean(-1)
        masked_B = targets.mask_BT.sum(1).clamp(min=1)
        return ((error_BT * targets.mask_BT).sum(1) / masked_B).sum()

    def _targets(self, micro: MicroBatch) -> tuple[MaskedTargets, Tensor]:
        """The targets of a micro-batch, and the lengths [B] in output frames."""
        there = micro.to(self.world.device)
        clean_BTF, lengths_B = input_features(
            self.features, there.waveforms_BN, there.samples_B, micro.stored
        )
        heard_BTF = clean_BTF
        if there.student_BN is not None and there.student_samples_B is not None:
            heard_BTF, _ = self.features(there.student_BN, there.student_samples_B)
        inputs = micro.samples_B if micro.stored else self.features.frames(micro.samples_B)
        outputs = unwrap(self.student).output_lengths(inputs)  # type: ignore[operator]
        mask_BT, keep_BT = self._masks(micro, inputs.tolist(), outputs.tolist())
        keep_BT = to_device(keep_BT, self.world.device)
        if heard_BTF.dim() == 3:
            keep_BT = keep_BT[..., None]
        frames_B = to_device(outputs, self.world.device)
        with self.autocast():
            layers, _ = self.teacher(clean_BTF, lengths_B)
        target_BTD = self._average(layers, frames_B, mask_BT.shape[1])
        masked = tuple(mask_BT.sum(1).tolist())
        mask_BT = to_device(mask_BT, self.world.device)
        targets = (mask_BT, target_BTD, masked, tuple(micro.places))
        return MaskedTargets(heard_BTF * keep_BT, lengths_B, *targets), frames_B

    def _masks(self, micro: MicroBatch, inputs: list[int], outputs: list[int]) -> tuple[Tensor, Tensor]:
        """Masked output frames, bool [B, T'], and a factor for the input frames, [B, T]."""
        mask_BT = torch.zeros(len(inputs), max(outputs), dtype=torch.bool)
        keep_BT = torch.ones(len(inputs), max(inputs))
        for i, (name, given, frames) in enumerate(zip(micro.ids, inputs, outputs, strict=True)):
            span = round(self.config.span_seconds * frames / (given * self.features.frame_seconds))
            seed = draw_seed(self.seed, "masked", name, micro.epoch)
            mask = span_mask(frames, self.config.mask_share, max(1, span), seed)
            mask_BT[i, :frames] = mask
            keep_BT[i, :given] = (~mask[torch.arange(given) * frames // given]).float()
        return mask_BT, keep_BT

    def _average(self, layers: Sequence[Tensor], frames_B: Tensor, frames: int) -> Tensor:
        """The mean of the last layers [B, T', D], normalised, and zero after each utterance's end."""
        count = self.config.top_layers or math.ceil(_TOP_SHARE * len(layers))
        if count > len(layers):
            raise UserError(
                f"self_supervised.masked.top_layers={count}: the model has outputs of {len(layers)} layers; "
                "lower it, or set it to null"
            )
        valid_BT1 = (torch.arange(frames, device=frames_B.device) < frames_B[:, None])[..., None]
        count_B11 = frames_B[:, None, None].clamp(min=1)
        total_BTD = torch.zeros((), device=frames_B.device)
        for layer_BTD in layers[-count:]:
            x_BTD = layer_BTD[:, :frames].float()
            mean_B1D = (x_BTD * valid_BT1).sum(1, keepdim=True) / count_B11
            x_BTD = (x_BTD - mean_B1D) * valid_BT1
            variance_B1D = x_BTD.square().sum(1, keepdim=True) / count_B11
            total_BTD = total_BTD + x_BTD * torch.rsqrt(variance_B1D + _EPS)
        return total_BTD / count


def span_mask(frames: int, share: float, span: int, seed: int) -> Tensor:
    """Random spans, bool [frames]: each frame is masked with probability `share`; at least one span.

    A span begins at each frame with probability p, independently. A frame that can be reached from `span`
    starts is masked with probability 1 - (1 - p) ** span.
    """
    generator = torch.Generator().manual_seed(seed)
    start = 1.0 - (1.0 - share) ** (1.0 / span)
    draws = torch.rand(frames + span - 1, generator=generator)
    starts = draws < start
    if not starts.any():
        starts[int(draws.argmin())] = True
    # Spans that begin up to span - 1 frames before the utterance reach into it.
    return torch.nn.functional.max_pool1d(starts.float()[None, None], span, 1)[0, 0].bool()
