"""Strategies that are sound, and strategies that each fail one check of check-strategy."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels, Strategy
from asr_emapl.pseudo_labels.strategies.own import StrategyParts


class Sound(Strategy):
    """The label of the previous pass, if there is one."""

    def __init__(self, parts: StrategyParts) -> None:
        self.labeller, self.vocabulary_size = parts.labeller, parts.tokenizer.vocabulary_size
        self.before: dict[int, list[int]] = {}

    def labels(self, batch: LabelRequest) -> Labels:
        return self.older(batch, self.labeller(batch).to_list())

    def older(self, batch: LabelRequest, labels: Any) -> Labels:
        return Labels.of(
            [Label(self.before.get(row, one.tokens)) for row, one in zip(batch.rows, labels, strict=True)]
        )

    def previous(self, row: int) -> list[int] | None:
        return self.before.get(row)

    def keep(self, labels: Mapping[int, Label]) -> None:
        self.before |= {row: label.tokens[::2] + label.tokens[:1] for row, label in labels.items()}

    def state_dict(self) -> dict[str, Any]:
        return {str(row): tokens for row, tokens in self.before.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.before = {int(row): tokens for row, tokens in state.items()}


class KeepsBlanks(Sound):
    def labels(self, batch: LabelRequest) -> Labels:
        return Labels.of([Label([0, *label.tokens]) for label in super().labels(batch).to_list()])


class OutsideVocabulary(Sound):
    def labels(self, batch: LabelRequest) -> Labels:
        return Labels.of([Label([self.vocabulary_size]) for _ in batch.ids])


class OneRowTooFew(Sound):
    def labels(self, batch: LabelRequest) -> Labels:
        return Labels.of(super().labels(batch).to_list()[1:])


class TooConfident(Sound):
    def labels(self, batch: LabelRequest) -> Labels:
        return Labels.of([Label([1], 2.0) for _ in batch.ids])


class DrawsUnseeded(Sound):
    def labels(self, batch: LabelRequest) -> Labels:
        return Labels.of([Label([random.randint(1, self.vocabulary_size - 1)] * 2) for _ in batch.ids])


class Forgets(Sound):
    def state_dict(self) -> dict[str, Any]:
        return {}


class KeepsObjects(Sound):
    def state_dict(self) -> dict[str, Any]:
        return {"labels": {row: Label(tokens) for row, tokens in self.before.items()}}


class KeepsItsOwnAlone(Sound):
    """Keeps the labels of its process, not those of all."""

    def labels(self, batch: LabelRequest) -> Labels:
        labels = self.labeller(batch).to_list()
        found = self.older(batch, labels)
        super().keep(dict(zip(batch.rows, labels, strict=True)))
        return found

    def keep(self, labels: Mapping[int, Label]) -> None:
        pass


class DrawsByProcess(Sound):
    """Draws from the generator that training seeds for the student's dropout."""

    def labels(self, batch: LabelRequest) -> Labels:
        drawn = torch.randint(1, self.vocabulary_size, (len(batch.ids), 2)).tolist()
        return Labels.of([Label(tokens) for tokens in drawn])


class KeepsFeatures(Sound):
    def __init__(self, parts: StrategyParts) -> None:
        super().__init__(parts)
        self.features: dict[str, torch.Tensor] = {}

    def labels(self, batch: LabelRequest) -> Labels:
        self.features |= dict(zip(batch.ids, batch.features.clone(), strict=True))
        return super().labels(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"labels": super().state_dict(), "features": self.features}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["labels"])
        self.features = state["features"]


class Fresh(Strategy):
    """Does not wait."""

    def __init__(self, parts: StrategyParts) -> None:
        self.labeller = Labeller(parts.teacher)

    def labels(self, batch: LabelRequest) -> Labels:
        return self.labeller(batch)
