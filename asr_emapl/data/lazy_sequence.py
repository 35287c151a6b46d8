"""A sequence that creates its items on access."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """Indices and slices for classes that define `__len__` and `item`."""

    @abstractmethod
    def item(self, row: int) -> T:
        """The item at `row`, in [0, len(self))."""

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> list[T]: ...
    def __getitem__(self, row: int | slice) -> T | list[T]:
        """One item, or the list of a slice; negative indices count from the end."""
        rows = range(len(self))[row]
        return self.item(rows) if isinstance(rows, int) else [self.item(i) for i in rows]
