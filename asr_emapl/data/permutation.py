"""A pseudo-random permutation of any size, parts of which can be computed independently."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_ROUNDS = 6


class FeistelPermutation:
    """A pseudo-random permutation of 0 ... count - 1 without a table: a Feistel network.

    Each round mixes one half of the bits of an index into the other half. This is invertible, so indices do
    not collide (Luby and Rackoff 1988). The domain is at most four times as large as the range. An index
    outside the range is permuted again until it is inside (cycle walking, Black and Rogaway 2002).

    Args:
        count: size of the permutation.
        seed: integers of any size.
    """

    def __init__(self, count: int, *seed: int) -> None:
        self.count = count
        bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
        self._bits, self._mask = np.uint64(bits), np.uint64((1 << bits) - 1)
        words = np.random.SeedSequence([abs(part) for part in seed]).generate_state(2 * _ROUNDS, np.uint64)
        self._keys = words[:_ROUNDS], words[_ROUNDS:] | np.uint64(1)

    def __call__(self, positions: Indices) -> Indices:
        """The elements [n] at these positions [n] of the permutation."""
        x = self._mix(positions.astype(np.uint64))
        outside = np.flatnonzero(x >= self.count)
        while len(outside):
            x[outside] = self._mix(x[outside])
            outside = outside[x[outside] >= self.count]
        return x.astype(np.int64)

    def _mix(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> self._bits, x & self._mask
        for addend, factor in zip(*self._keys, strict=True):
            # The high bits of a product depend on all bits of its factors.
            hashed = (right + addend) * factor
            hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ ((hashed >> np.uint64(33)) & self._mask)
        return (left << self._bits) | right
