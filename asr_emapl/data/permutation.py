"""A random order of any number of things, of which any part can be had without the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_ROUNDS = 6


class FeistelPermutation:
    """A pseudo-random permutation of 0 ... count - 1 in no memory: a Feistel network.

    Two halves of the bits of an index are mixed into one another round by round, which can be undone, so no
    two indices meet (Luby and Rackoff 1988). What falls outside the range, of a domain at most four times as
    large, is sent through again until it falls inside (Black and Rogaway 2002, cycle walking).

    Args:
        count: how many things.
        seed: integers, of any size, that name the order.
    """

    def __init__(self, count: int, *seed: int) -> None:
        self.count = count
        bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
        self._bits, self._mask = np.uint64(bits), np.uint64((1 << bits) - 1)
        words = np.random.SeedSequence([abs(part) for part in seed]).generate_state(2 * _ROUNDS, np.uint64)
        self._keys = words[:_ROUNDS], words[_ROUNDS:] | np.uint64(1)

    def __call__(self, positions: Indices) -> Indices:
        """What stands at these positions of the order, [n] of [n]."""
        x = self._mix(positions.astype(np.uint64))
        outside = np.flatnonzero(x >= self.count)
        while len(outside):
            x[outside] = self._mix(x[outside])
            outside = outside[x[outside] >= self.count]
        return x.astype(np.int64)

    def _mix(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self._bits, x & self._mask
        for addend, factor in zip(*self._keys, strict=True):
            # A product's high bits depend on all bits of its factor.
            hashed = (right + addend) * factor
            hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((hashed >> np.uint64(33)) & self._mask)
        return (left << self._bits) | right
