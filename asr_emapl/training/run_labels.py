"""The pseudo-labels of a run: those that its strategy keeps, and those that the monitor compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.config import RunConfig
from asr_emapl.data.corpus import Corpus, TokenTable
from asr_emapl.data.mixture import DataCursor
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import counted
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelFilters
from asr_emapl.pseudo_labels.labels import Label, Strategy
from asr_emapl.pseudo_labels.own_filters import own_filters
from asr_emapl.pseudo_labels.token_rate import learned_rates
from asr_emapl.text.tokenizer import Tokenizer
from asr_emapl.training.corpora import Corpora
from asr_emapl.training.label_monitor import LabelMonitor


class RunLabels:
    """Strategy, filters and monitor, with the state that is saved in checkpoints.

    Args:
        strategy: None: supervised training.

    Attributes:
        notes: what the filters learned from the transcripts.

    Raises:
        UserError: a filter is invalid.
    """

    def __init__(
        self,
        config: RunConfig,
        strategy: Strategy | None,
        corpora: Corpora,
        tokenizer: Tokenizer,
        world: ProcessGroup,
    ) -> None:
        self.name, self.strategy, self.world = config.pseudo_labels.strategy, strategy, world
        self.contents = corpora.audio.contents.get("unlabelled")
        limits, self.notes = _limits(config, corpora.labelled)
        own = own_filters(limits.filters) if limits.uses_unlabelled else {}
        self.filters = LabelFilters(limits, own, tokenizer)
        self.monitor = None
        if corpora.unlabelled is not None and config.pseudo_labels.learns_from_itself:
            self.monitor = LabelMonitor(corpora.unlabelled.utterances, tokenizer)

    def observe(self, step: int, labels: Mapping[int, Label]) -> None:
        """Note the labels of this process in a step."""
        if self.monitor is not None:
            self.monitor.observe(step, labels)

    def collect(self) -> dict[str, float]:
        """See `LabelMonitor.collect`; empty for a run that does not label."""
        return {} if self.monitor is None else self.monitor.collect(self.world)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs; call it on all processes."""
        return {
            "strategy": {} if self.strategy is None else self.strategy.state_dict(),
            "filters": self.filters.state_dict(),
            "monitor": {} if self.monitor is None else self.monitor.state_dict(self.world),
        }

    def restore(self, state: Mapping[str, Any], position: DataCursor) -> DataCursor:
        """Load the labels of a checkpoint, unless they are of other utterances or another strategy.

        Args:
            state: "config", "contents" and "pseudo_labels" of the checkpoint; empty for a new run.

        Returns:
            The position; if the labels are not loaded, all of them are made again.
        """
        is_same = bool(state) and (
            state["contents"].get("unlabelled") == self.contents
            and state["config"]["pseudo_labels"]["strategy"] == self.name
        )
        if not is_same:
            return replace(position, labels=position.labels.without_labels())
        labels = state["pseudo_labels"]
        if self.strategy is not None:
            self.strategy.load_state_dict(labels["strategy"])
        self.filters.load_state_dict(labels["filters"])
        if self.monitor is not None and labels["monitor"]:
            self.monitor.load_state_dict(labels["monitor"], self.world)
        return position


def _limits(config: RunConfig, labelled: Corpus) -> tuple[PseudoLabelConfig, list[str]]:
    """The limits for pseudo-labels, including those learned from the transcripts, and a note on these."""
    limits = config.pseudo_labels
    if limits.tokens_per_second != "learned" or not limits.uses_unlabelled:
        return limits, []
    assert isinstance(labelled.targets, TokenTable)
    rates = learned_rates(labelled.targets.lengths, labelled.samples / SAMPLE_RATE_HZ)
    note = (
        f"pseudo_labels.tokens_per_second: {rates[0]:.3g} to {rates[1]:.3g}, learned from "
        f"{counted(len(labelled.targets), 'transcript')}"
    )
    return replace(limits, tokens_per_second=rates), [note]
