"""Labels that are begun before their step, so that their searches run while the student trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Generic, Protocol, TypeVar

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.pseudo_labels.labels import Label, Labels, PendingLabels


class Labelled(Protocol):
    """A micro-batch with its labels."""

    @property
    def micro(self) -> MicroBatch: ...

    @property
    def labels(self) -> Labels | PendingLabels: ...


T = TypeVar("T", bound=Labelled)


class LabelsAhead(Generic[T]):
    """The batch, if any, whose labels have begun and which is not trained on yet.

    A checkpoint has these labels: a resumed run could not make them, because its teacher has moved on.
    """

    def __init__(self, world: ProcessGroup) -> None:
        self.world = world
        self._begun: tuple[Sequence[MicroBatch], list[T]] | None = None
        self._restored: dict[int, Label] = {}

    def put(self, micro_batches: Sequence[MicroBatch], labelled: list[T]) -> None:
        """Hold the micro-batches of this rank and their labels until `take`."""
        self._begun = micro_batches, labelled

    def take(self, micro_batches: Sequence[MicroBatch]) -> list[T] | None:
        """What `put` was called with for these micro-batches; None: their labels have not begun."""
        if self._begun is None or self._begun[0] is not micro_batches:
            return None
        labelled, self._begun, self._restored = self._begun[1], None, {}
        return labelled

    def restored(self, micro_batches: Sequence[MicroBatch]) -> Mapping[int, Label] | None:
        """The labels of a checkpoint by row, if they are those of this batch, once; call it on all ranks.

        They are not if the batch has changed, for example with the number of GPUs.
        """
        if not self._restored:
            return None
        labels, self._restored = self._restored, {}
        unknown = sum(row not in labels for micro in micro_batches for row in micro.rows)
        return None if self.world.all_reduce_sum([unknown])[0] else labels

    def state_dict(self) -> list[tuple[Any, ...]]:
        """The labels of all ranks with their rows, the same on each rank; waits for the searches."""
        if self._begun is None:
            labels = self._restored
        else:
            mine = [
                (row, label)
                for one in self._begun[1]
                for row, label in zip(one.micro.rows, one.labels.result().to_list(), strict=True)
            ]
            labels = dict(pair for of_rank in self.world.gather(mine) for pair in of_rank)
        return [(row, *astuple(label)) for row, label in sorted(labels.items(), key=lambda item: item[0])]

    def load_state_dict(self, state: Sequence[tuple[Any, ...]]) -> None:
        """The inverse of `state_dict`, on any number of ranks."""
        self._restored = {row: Label(*label) for row, *label in state}
