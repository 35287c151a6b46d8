"""The pseudo-labels of a run: what its strategy keeps, what the monitor compares, and the gate of rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asr_emapl.config import RunConfig
from asr_emapl.data.mixture import DataCursor
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.labels import Label, Strategy
from asr_emapl.pseudo_labels.round_gate import RoundGate
from asr_emapl.text.tokenizer import Tokenizer
from asr_emapl.training.corpora import Corpora
from asr_emapl.training.label_monitor import LabelMonitor


class RunLabels:
    """Strategy, monitor and gate, with the state that is saved in checkpoints.

    Args:
        strategy: None: supervised training.
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
        labels = config.pseudo_labels
        split = labels.rounds.gate if labels.strategy == "rounds" else None
        if split is not None and split not in config.data.validation:
            raise UserError(f"pseudo_labels.rounds.gate: {split!r} is not a set of data.validation")
        self.gate = RoundGate(None if split is None else f"{labels.labeller}/{split}")
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
            "monitor": {} if self.monitor is None else self.monitor.state_dict(self.world),
            "gate": self.gate.state_dict(),
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
        self.gate.load_state_dict(labels["gate"])
        if self.monitor is not None and labels["monitor"]:
            self.monitor.load_state_dict(labels["monitor"], self.world)
        return position
