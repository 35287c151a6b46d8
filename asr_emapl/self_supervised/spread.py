"""Measure how different embeddings are, and notice when they collapse to a constant or to few dimensions.

Axes: G groups, N embeddings in a group, E size of an embedding.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor

from asr_emapl.errors import UserError
from asr_emapl.terminal import RUN_LOGGER

# Embeddings of a trained model have a variance near 1 and an effective rank of 5 or more.
LEAST_VARIANCE = 0.01
LEAST_RANK = 1.2
# Consecutive steps below one of the limits.
STEPS = 50

_logger = logging.getLogger(RUN_LOGGER)


def spread(centred_GNE: Tensor, counts_G: Tensor) -> Tensor:
    """Sums over groups for `SpreadGuard`: number of groups, variance, effective rank; [3] float32.

    The variance is the total over dimensions. The effective rank is (sum of l) ** 2 / sum of l ** 2, with l
    the eigenvalues of the covariance: the number of dimensions if all have equal variance.

    Args:
        centred_GNE: embeddings minus the mean of their group; zero after the first `counts_G` of a group.
        counts_G: number of embeddings in each group.
    """
    count, size = centred_GNE.shape[1:]
    total_G = centred_GNE.square().sum((1, 2))
    # Both products have the same eigenvalues, except for zeros.
    transposed = centred_GNE.transpose(1, 2)
    product = centred_GNE @ transposed if count <= size else transposed @ centred_GNE
    rank_G = total_G.square() / product.square().sum((1, 2)).clamp(min=1e-30)
    # Without any variance, there is no direction.
    rank_G = torch.where(total_G > 1e-15, rank_G, 0.0)
    variance_G = total_G / counts_G.clamp(min=1)
    return torch.stack([torch.ones_like(total_G), variance_G, rank_G]).sum(1)


class SpreadGuard:
    """Stops a run, or warns, when the embeddings are constant for `STEPS` consecutive steps.

    Its input is the same on all processes, so all raise at the same step.

    Args:
        what: the embeddings, for messages.
        cause: likely cause and remedy, for messages.
        is_first: whether this process warns.
    """

    def __init__(
        self, on_collapse: Literal["stop", "warn"], what: str, cause: str, *, is_first: bool
    ) -> None:
        self.on_collapse, self.what, self.cause, self.is_first = on_collapse, what, cause, is_first
        self._steps = 0

    def check(self, sums: list[float]) -> dict[str, float]:
        """The mean variance and effective rank of a step, given the sums of `spread` over all processes.

        Raises:
            UserError: the embeddings have collapsed.
        """
        groups, variance, rank = sums
        if not groups:
            return {}
        variance, rank = variance / groups, rank / groups
        is_low = variance < LEAST_VARIANCE or rank < LEAST_RANK
        self._steps = self._steps + 1 if is_low else 0
        if self._steps == STEPS:
            text = (
                f"{self.what} have collapsed: variance {variance:.2g}, effective rank {rank:.2g} for {STEPS} "
                f"steps; {self.cause}"
            )
            if self.on_collapse == "stop":
                raise UserError(text)
            if self.is_first:
                _logger.info("warning: %s", text)
        return {"target_variance": variance, "effective_rank": rank}
