"""A few steps of a pseudo-labelling strategy on synthetic audio, without training.

After each step, the student moves by noise that depends on the step alone. So its weights, and with them the
labels, are the same in each run and on any number of processes, unless the strategy makes a difference.

Axes: B utterances, N samples, T output frames, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.config import RunConfig
from asr_emapl.ctc import greedy
from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labels import Label, LabelRequest
from asr_emapl.pseudo_labels.own_filters import own_filters
from asr_emapl.pseudo_labels.token_rate import learned_rates
from asr_emapl.run_labels.build import build_best_average, build_searches, build_strategy
from asr_emapl.runs.phases import Phases
from asr_emapl.training.build import build_extractor, build_models, read_tokenizer

UTTERANCES = 12
STEPS_OF_A_PASS, STEPS = 3, 9
_MICRO_BATCHES = 2  # of each step
_LABELLED_PASSES = (0, 2)  # passes before which labels that are kept are made, as `data.label_plan` has it
_SEGMENT_S, _HALF_LIFE_S = 0.1, 2.0


@dataclass(frozen=True)
class StepTrace:
    """What a step was trained on, over all processes.

    Attributes:
        labels: by row, before filters.
        dropped: number of utterances by reason.
        loss: sum over the utterances that are not dropped.
    """

    labels: Mapping[int, Label]
    dropped: Mapping[str, int]
    loss: float

    def difference(self, other: StepTrace) -> str:
        """What differs in another trace of the step; empty if it is the same, the loss to rounding."""
        for row, label in self.labels.items():
            if other.labels.get(row) != label:
                return f"the label of utterance {row}"
        if self.dropped != other.dropped:
            return "what the filters drop"
        return "" if math.isclose(self.loss, other.loss, rel_tol=1e-4, abs_tol=1e-6) else "the loss"


class Rehearsal:
    """Strategy, filters, student and teacher of a config, at a step from 0 to `STEPS`.

    Raises:
        UserError: see `build_models`, `build_searches` and `build_strategy`; also if a filter is invalid.
    """

    def __init__(self, config: RunConfig, world: ProcessGroup) -> None:
        self.world, self.seed, limits = world, config.seed, config.pseudo_labels
        tokenizer = read_tokenizer(config)
        self.vocabulary_size, self.number = tokenizer.vocabulary_size, 0
        features = build_extractor(config, world.device)
        self.student, twin = build_models(config, world, tokenizer.vocabulary_size, features)
        self._move(-1)
        self.teacher = EmaTeacher(self.student, _HALF_LIFE_S, twin)
        for model in (self.student, twin):
            model.register_forward_hook(_sharpen)
        self.best = build_best_average(config, self.teacher, self.student)
        models = (self.teacher, self.student, self.best, build_searches(config, tokenizer))
        strategy = build_strategy(config, tokenizer, *models, features, UTTERANCES)
        assert strategy is not None
        self.strategy = strategy
        self._is_labelled_first = limits.strategy in ("cache", "rounds")
        self._has_targets = limits.strategy in ("oracle", "external")
        if limits.tokens_per_second == "learned":
            limits = replace(limits, tokens_per_second=self._learned_rates(features))
        self.filters = LabelFilters(limits, own_filters(limits.filters), tokenizer)
        self.objective = CtcObjective(
            world, features, self.student, strategy, self.filters, Phases(world.device)
        )

    def request(self) -> LabelRequest:
        """What the strategy sees of the first micro-batch of the step."""
        micro = self._micro_batches()[0]
        return self.objective.request(micro, micro.to(self.world.device))

    def label_first(self) -> None:
        """Make the labels of the step, if the strategy keeps labels."""
        if self._is_labelled_first and self.number // STEPS_OF_A_PASS in _LABELLED_PASSES:
            if self.best is not None:
                self.best.refresh()
            self.objective.label(self._micro_batches(), 1)

    def step(self) -> StepTrace:
        """Label the batch of the step and compute its loss, on all processes together."""
        self.label_first()
        micro_batches = self._micro_batches()
        torch.manual_seed(draw_seed(self.seed, "step", self.number, self.world.rank))
        self.student.train()
        prepared = self.objective.prepare(micro_batches, 1)
        self.student.eval()  # without dropout, which differs by process
        with torch.no_grad():
            loss = sum(float(self.objective.loss(targets)) for targets in prepared.targets)
        mine = [loss, *(prepared.dropped[reason] for reason in self.objective.reasons)]
        sums = self.world.all_reduce_sum([*mine, *prepared.counts])
        self.objective.summed(sums[len(mine) :])
        labels = {
            row: label for part in self.world.gather(prepared.labels or {}) for row, label in part.items()
        }
        self.advance()
        if self.best is not None:
            self.best.validated(self.number, 100.0 / self.number)  # each step is better than the last one
        dropped = {r: int(n) for r, n in zip(self.objective.reasons, sums[1:], strict=False) if n}
        return StepTrace(dict(sorted(labels.items())), dropped, sums[0])

    def run(self) -> list[StepTrace]:
        """All steps that are left."""
        return [self.step() for _ in range(self.number, STEPS)]

    def advance(self) -> None:
        """Move student and teacher to the next step."""
        self._move(self.number)
        self.teacher.update(1.0)
        self.number += 1

    def state_dict(self) -> dict[str, Any]:
        """The state of strategy, filters and labeller."""
        best = {} if self.best is None else self.best.state_dict()
        return {"strategy": self.strategy.state_dict(), "filters": self.filters.state_dict(), "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.strategy.load_state_dict(state["strategy"])
        self.filters.load_state_dict(state["filters"])
        if self.best is not None:
            self.best.load_state_dict(state["best"])

    def _learned_rates(self, features: FeatureExtractor) -> list[float]:
        """A narrow range of tokens per second, that of one label: a given one, or one of the teacher."""
        micro = self._micro_batch([0], 0)
        tokens = micro.targets
        if tokens is None:
            with torch.no_grad():
                log_probs_BTV, lengths_B = self.teacher(*features(micro.waveforms_BN, micro.samples_B))
            tokens = greedy(log_probs_BTV, lengths_B).to_lists()
        seconds = micro.samples_B.numpy() / SAMPLE_RATE_HZ
        return learned_rates(np.array([len(label) for label in tokens]), seconds)

    @torch.no_grad()
    def _move(self, step: int) -> None:
        """Move the student as an optimizer step would. The first move also makes weights of zero count."""
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "move", step + 1))
        for parameter in self.student.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * (0.1 * parameter.abs().mean() + 0.01))

    def _micro_batches(self) -> list[MicroBatch]:
        """This process's share of the batch. Utterances meet others in each pass, and change processes."""
        epoch, place = divmod(self.number, STEPS_OF_A_PASS)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, "rehearsal", epoch))
        order = torch.randperm(UTTERANCES, generator=generator)
        parts = order.reshape(STEPS_OF_A_PASS, _MICRO_BATCHES, -1)[place].tolist()
        return [self._micro_batch(rows, epoch) for rows in parts[self.world.rank :: self.world.size]]

    def _micro_batch(self, rows: list[int], epoch: int) -> MicroBatch:
        waves = [_wave(row) for row in rows]
        generator = torch.Generator().manual_seed(rows[0])
        texts = torch.randint(1, self.vocabulary_size, (len(rows), 3), generator=generator).tolist()
        return MicroBatch(
            [f"utterance-{row}" for row in rows],
            nn.utils.rnn.pad_sequence(waves, batch_first=True),
            torch.tensor([len(wave) for wave in waves]),
            texts if self._has_targets else None,
            rows=rows,
            epoch=epoch,
            places=rows,
        )


def _wave(row: int) -> Tensor:
    """About a second of tones and noise, different for each row: float32 [N]."""
    generator = torch.Generator().manual_seed(row)
    size = round(_SEGMENT_S * SAMPLE_RATE_HZ)
    frequency = 200.0 + 3000.0 * torch.rand(6 + row % 6, generator=generator).repeat_interleave(size)
    tone = torch.sin(2.0 * math.pi * frequency * torch.arange(len(frequency)) / SAMPLE_RATE_HZ)
    return 0.1 * tone + 0.01 * torch.randn(len(frequency), generator=generator)


def _sharpen(module: nn.Module, given: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Forward hook: enlarge differences to the first frame, so that an untrained model emits many tokens."""
    log_probs_BTV, lengths_B = output
    return (50.0 * (log_probs_BTV - log_probs_BTV[:, :1])).log_softmax(-1), lengths_B
