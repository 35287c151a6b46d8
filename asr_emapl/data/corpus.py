"""A corpus: utterances of one or more manifests, with their lengths and targets."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.lazy_sequence import LazySequence
from asr_emapl.data.manifest import Manifest
from asr_emapl.data.permutation import Indices
from asr_emapl.data.utterance import Utterance


class TokenTable(LazySequence[list[int]]):
    """The tokens of each utterance, in 4 bytes per token."""

    def __init__(self, targets: Iterable[list[int]]) -> None:
        self._ends, self._tokens = array("q", [0]), array("i")
        for tokens in targets:
            self._tokens.extend(tokens)
            self._ends.append(len(self._tokens))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @property
    def lengths(self) -> Indices:
        """Number of tokens of each utterance, [utterances]."""
        return np.diff(np.array(self._ends))

    def item(self, row: int) -> list[int]:
        """The tokens of an utterance."""
        return self._tokens[self._ends[row] : self._ends[row + 1]].tolist()


class Selection(LazySequence[Utterance]):
    """Rows of manifests, one manifest after the other.

    Args:
        parts: manifests with the selected rows; None: all rows.
    """

    def __init__(self, parts: Sequence[tuple[Manifest, Indices | None]]) -> None:
        self._parts = parts
        lengths = [m.samples if rows is None else m.samples[rows] for m, rows in parts]
        self._ends = list(accumulate(len(part) for part in lengths))
        # A single manifest with all rows stays memory-mapped, so the processes of a host share it.
        self.samples: Indices = lengths[0] if len(lengths) == 1 else np.concatenate(lengths)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return Selection, (self._parts,)  # spawned decoding processes map the lengths themselves

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests, with all their rows."""
        return [manifest for manifest, _ in self._parts]

    @property
    def firsts(self) -> list[Utterance]:
        """The first utterance of each manifest."""
        return [
            self.item(end - len(m if rows is None else rows))
            for end, (m, rows) in zip(self._ends, self._parts, strict=True)
        ]

    def item(self, row: int) -> Utterance:
        """An utterance, read from its manifest."""
        part = bisect_right(self._ends, row)
        manifest, rows = self._parts[part]
        row -= self._ends[part - 1] if part else 0
        return manifest[row if rows is None else int(rows[row])]


class Windows(Selection):
    """Consecutive windows of equal length of the utterances of a selection, each as an utterance.

    A window's id is that of its utterance, with the number of the window after a #. The rest of an utterance
    after its last window is not used.

    Args:
        parts: see `Selection`; each utterance is at least as long as a window.
        window: length of a window in samples.
    """

    def __init__(self, parts: Sequence[tuple[Manifest, Indices | None]], window: int) -> None:
        self.window, self._whole = window, parts
        rows = [np.arange(len(m)) if chosen is None else chosen for m, chosen in parts]
        counts = [m.samples[chosen] // window for (m, _), chosen in zip(parts, rows, strict=True)]
        # Number of each window within its utterance.
        starts = [np.repeat(np.cumsum(c) - c, c) for c in counts]
        self._number = np.concatenate([np.arange(len(s)) - s for s in starts])
        super().__init__([(m, np.repeat(r, c)) for (m, _), r, c in zip(parts, rows, counts, strict=True)])
        self.samples = np.broadcast_to(np.int64(window), len(self._number))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return Windows, (self._whole, self.window)

    @property
    def sizes(self) -> list[int]:
        """Number of windows of each manifest."""
        return [0 if rows is None else len(rows) for _, rows in self._parts]

    def item(self, row: int) -> Utterance:
        """A window."""
        utterance, number = super().item(row), int(self._number[row])
        seconds = self.window / SAMPLE_RATE_HZ
        return replace(
            utterance,
            id=f"{utterance.id}#{number}",
            offset=utterance.offset + number * seconds,
            duration=seconds,
            text=None,
        )


class Corpus:
    """Utterances with their lengths in samples, [utterances], and targets (None: unknown or unused)."""

    def __init__(self, utterances: Sequence[Utterance], targets: Sequence[list[int]] | None) -> None:
        if not isinstance(utterances, Selection):
            self._samples = np.array([u.samples for u in utterances], dtype=np.int64)
        self.utterances, self.targets = utterances, targets

    @property
    def samples(self) -> Indices:
        """Length of each utterance, [utterances]."""
        return self.utterances.samples if isinstance(self.utterances, Selection) else self._samples
