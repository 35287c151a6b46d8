"""The pseudo-labels of a run: strategy, monitor and gate of rounds."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_emapl.config import RunConfig, config_to_dict
from asr_emapl.corpora.corpora import Corpora
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.mixture import DataCursor
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.objectives.labels_ahead import LabelsAhead
from asr_emapl.objectives.step_result import StepResult
from asr_emapl.pseudo_labels import known_labels
from asr_emapl.pseudo_labels.best_average import BestAverage
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.known_labels import KnownLabels
from asr_emapl.pseudo_labels.label_guard import Alarm, LabelGuard
from asr_emapl.pseudo_labels.label_statistics import label_statistics
from asr_emapl.pseudo_labels.labels import Label, Strategy
from asr_emapl.pseudo_labels.own_filters import own_filters
from asr_emapl.pseudo_labels.quality import weak_labeller
from asr_emapl.pseudo_labels.round_gate import RoundGate
from asr_emapl.pseudo_labels.strategies.rounds import RoundLabels
from asr_emapl.run_labels.label_monitor import SAMPLE, LabelMonitor
from asr_emapl.runs.reader import LABEL_SAMPLES
from asr_emapl.storage import write
from asr_emapl.terminal import RUN_LOGGER
from asr_emapl.text.tokenizer import Tokenizer

_logger = logging.getLogger(RUN_LOGGER)


class RunLabels:
    """Strategy, filters, monitor and gate, with the state that is saved in checkpoints.

    Args:
        strategy: None: supervised training.
        best: the labeller, if it is the mean of the best validations.

    Attributes:
        known: labels that are filtered before batches are made; None: labels are made in each step.

    Raises:
        UserError: a filter or the gate is invalid.
    """

    def __init__(
        self,
        config: RunConfig,
        strategy: Strategy | None,
        best: BestAverage | None,
        corpora: Corpora,
        tokenizer: Tokenizer | None,
        world: ProcessGroup,
    ) -> None:
        self.name, self.strategy, self.world = config.pseudo_labels.strategy, strategy, world
        self.settings = _of_labels(config_to_dict(config)["pseudo_labels"])
        self.contents = corpora.audio.contents.get("unlabelled")
        limits = corpora.limits
        self.known = corpora.given
        if isinstance(strategy, RoundLabels) and corpora.unlabelled is not None:
            self.known = KnownLabels(strategy.table.get, corpora.unlabelled.samples, limits)
        if self.known is not None:
            # The share is exact among all labels, and need not be learned from those of the steps.
            limits = replace(limits, keep_share=None)
        own = own_filters(limits.filters) if limits.uses_unlabelled else {}
        self.filters = LabelFilters(limits, own, tokenizer)
        self.best = best
        self.ahead: LabelsAhead[Any] = LabelsAhead(world)
        labels = config.pseudo_labels
        self.label_ahead = labels.label_ahead
        # A step is not made to wait for the next batch if its labels are not begun.
        self.looks_ahead = labels.lm_config is not None and (
            labels.label_ahead or (labels.search_workers > 0 and labels.strategy in ("cache", "rounds"))
        )
        split = labels.rounds.gate if labels.strategy == "rounds" else None
        if split is not None and split not in config.data.validation:
            raise UserError(f"pseudo_labels.rounds.gate: {split!r} is not a set of data.validation")
        # The mean of the best validations has no WER of its own.
        model = "teacher" if labels.labeller == "teacher" else "student"
        self.gate = RoundGate(None if split is None else f"{model}/{split}")
        # Labels from the start come from a model that has yet to learn.
        is_trained = labels.learns_from_itself and labels.strategy != "from_the_start"
        self.labeller = model if is_trained else None
        self.monitor, self.guard = None, None
        if corpora.unlabelled is not None and labels.learns_from_itself:
            assert tokenizer is not None
            assert corpora.labelled is not None
            has_second = labels.agreement != "none"
            self.monitor = LabelMonitor(corpora.unlabelled, tokenizer, config.seed, has_second=has_second)
            self.guard = LabelGuard(_transcript_statistics(corpora.labelled))

    @property
    def used(self) -> NDArray[np.bool_] | None:
        """The unlabelled utterances that batches are made of; see `KnownLabels.used`."""
        return None if self.known is None else self.known.used

    def with_unused(self, result: StepResult, rows: Sequence[int]) -> StepResult:
        """The result of a step as if its batch also had the utterances that are not used for their label.

        Args:
            rows: see `StepBatch.unused`. Each process observes the labels of its share.
        """
        if self.known is None or not len(rows):
            return result
        labels = {row: self.known.label(row) for row in rows}
        reasons = self.known.dropped(rows)
        seen = result.seen - result.dropped["undecodable"]
        total = seen + len(labels)

        def mean(of_batch: float | None, others: Iterable[float]) -> float:
            return ((of_batch or 0.0) * seen + sum(others)) / total

        mine = rows[self.world.rank :: self.world.size]
        return replace(
            result,
            dropped=result.dropped + Counter(reasons.values()),
            confidence=mean(result.confidence, (label.confidence for label in labels.values())),
            nonempty=mean(result.nonempty, (bool(label.tokens) for label in labels.values())),
            labels={**result.labels, **{row: labels[row] for row in mine}},
            reasons={**result.reasons, **{row: reasons[row] for row in mine}},
        )

    def finish_round(self) -> str:
        """Note that a round is complete, and return what became of its labels."""
        outcome = self.gate.finish_round()
        return f"{outcome}; {dropped}" if (dropped := self._judge()) else outcome

    def _judge(self) -> str:
        """Filter the kept labels of rounds, and return how many are dropped."""
        if self.known is None or not isinstance(self.strategy, RoundLabels):
            return ""
        self.known.judge(map(int, self.strategy.table.rows))
        return self.known.describe()

    def observe(self, step: int, labels: Mapping[int, Label], reasons: Mapping[int, str]) -> None:
        """Record the labels of this process in a step; see `LabelMonitor.observe`."""
        if self.monitor is not None:
            self.monitor.observe(step, labels, reasons)

    def collect(self) -> dict[str, Any]:
        """See `LabelMonitor.collect`; empty for a run that does not label."""
        return {} if self.monitor is None else self.monitor.collect(self.world)

    def validated(self, step: int, rates: Mapping[str, float]) -> None:
        """Note the WERs in percent of a validation, by "model/split"."""
        self.gate.validated(rates)
        if self.best is not None:
            student = [rate for name, rate in rates.items() if name.startswith("student/")]
            self.best.validated(step, sum(student) / len(student))

    def weakness(self, rates: Mapping[str, float]) -> str | None:
        """See `weak_labeller`; None also if no trained model of the run labels."""
        return None if self.labeller is None else weak_labeller(rates, self.labeller)

    def wants_labels(self) -> bool:
        """Whether the round of labels that is due takes place; prepares the labeller."""
        if self.best is not None:
            self.best.refresh()
        return self.gate.is_open()

    def begins_early(self, batch: StepBatch, following: StepBatch) -> bool:
        """Whether the labels of the next batch begin before this batch is trained on or labelled.

        No optimizer step is between two batches that are only labelled, which therefore have the same labels
        in both cases. With `label_ahead`, the labels of other batches are one optimizer step older.
        """
        if following.label_only:
            return (batch.label_only or self.label_ahead) and self.wants_labels()
        return self.label_ahead and self.name == "ema" and not following.labelled

    def check(self, step: int, hours: float, found: Mapping[str, Any]) -> Alarm | None:
        """See `LabelGuard.check`."""
        return self.guard.check(step, hours, found) if self.guard is not None and found else None

    def write_samples(self, folder: Path) -> None:
        """Write the sample of kept and dropped labels to the run directory, on the first process.

        If that fails, training continues, because the sample is in the checkpoints too.
        """
        if self.monitor is None or not self.world.is_first:
            return
        try:
            write(folder / LABEL_SAMPLES, (json.dumps(record) + "\n" for record in self.monitor.sampled()))
        except UserError as error:
            _logger.info("warning: %s", error)

    def state_dict(self) -> dict[str, Any]:
        """The state required for a resume; call it on all processes."""
        return {
            "strategy": {} if self.strategy is None else self.strategy.state_dict(),
            "filters": self.filters.state_dict(),
            "monitor": {} if self.monitor is None else self.monitor.state_dict(self.world),
            "gate": self.gate.state_dict(),
            "best": {} if self.best is None else self.best.state_dict(),
            "guard": {} if self.guard is None else self.guard.state_dict(),
            "ahead": self.ahead.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], position: DataCursor) -> DataCursor:
        """Load the labels of a checkpoint, unless they belong to other utterances or to another strategy.

        Args:
            state: "config", "contents" and "pseudo_labels" of the checkpoint; empty for a new run.

        Returns:
            The position; if the labels are not loaded, all of them are made again. If other settings may
            have chosen other utterances for the batches, the current chunk is not continued.
        """
        before = _of_labels(state["config"]["pseudo_labels"]) if state else self.settings
        if before != self.settings and {before["strategy"], self.name} & set(known_labels.STRATEGIES):
            position = replace(position, unlabelled=position.unlabelled.at_chunk())
        is_same = bool(state) and (
            state["contents"].get("unlabelled") == self.contents and before["strategy"] == self.name
        )
        if not is_same:
            return replace(position, labels=position.labels.without_labels())
        labels = state["pseudo_labels"]
        if self.strategy is not None:
            self.strategy.load_state_dict(labels["strategy"])
        if not position.labels.row:
            self._judge()  # in a round, its end does
        self.ahead.load_state_dict(labels.get("ahead", []))
        self.filters.load_state_dict(labels["filters"])
        self.gate.load_state_dict(labels["gate"])
        if self.monitor is not None and labels["monitor"]:
            self.monitor.load_state_dict(labels["monitor"], self.world)
        if self.best is not None:
            self.best.load_state_dict(labels["best"])
        if self.guard is not None and labels["guard"]:
            self.guard.load_state_dict(labels["guard"])
        return position


def _of_labels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that do not decide which utterances are used."""
    return {key: value for key, value in settings.items() if key not in ("search_workers", "label_ahead")}


def _transcript_statistics(corpus: Corpus) -> dict[str, float]:
    """`label_statistics` of the labelled corpus, or of evenly spaced utterances of a large one."""
    assert corpus.targets is not None
    rows = range(0, len(corpus.utterances), max(1, len(corpus.utterances) // SAMPLE))
    utterances: Sequence[Utterance] = [corpus.utterances[row] for row in rows]
    targets, texts = [corpus.targets[row] for row in rows], [u.text or "" for u in utterances]
    return label_statistics(targets, texts, [u.duration for u in utterances])
