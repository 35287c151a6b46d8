"""Find the first submodule whose valid frames depend on padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Leak:
    """A submodule whose output on valid frames depends on padding.

    Attributes:
        first: the first output frame that differs.
        frames: number of valid output frames.
    """

    name: str
    module: nn.Module
    first: int
    frames: int

    def __str__(self) -> str:
        return f"{self.name}, from output frame {self.first} of {self.frames} on"


def leaking_module(
    model: nn.Module, alone: Callable[[], object], together: Callable[[], object], row: int, tolerance: float
) -> Leak | None:
    """The first leaf module whose output differs; None if none does.

    Args:
        alone: evaluates one utterance by itself.
        together: evaluates the same utterance as row `row` of a padded batch.
        tolerance: maximum absolute difference.
    """
    with _recorded(model) as outputs:
        alone()
        single = list(outputs)
        outputs.clear()
        together()
    for (name, one), (other_name, batch) in zip(single, outputs, strict=False):
        if name != other_name or one.dim() != batch.dim() or len(batch) <= row:
            return None  # the two passes executed different modules; no conclusion
        longer = [axis for axis in range(1, one.dim()) if one.shape[axis] != batch.shape[axis]]
        if len(longer) != 1 or one.shape[longer[0]] > batch.shape[longer[0]]:
            continue
        axis, frames = longer[0], one.shape[longer[0]]
        distance = (one[0] - batch[row].narrow(axis - 1, 0, frames)).abs().movedim(axis - 1, 0)
        wrong = (distance.reshape(frames, -1).amax(1) > tolerance).nonzero()
        if len(wrong):
            return Leak(name, model.get_submodule(name), int(wrong[0]), frames)
    return None


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """The outputs of all submodules without children, in the order in which they run."""
    outputs: list[tuple[str, Tensor]] = []

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def record(module: nn.Module, inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor) and first.dim() >= 2 and first.is_floating_point():
                outputs.append((name, first.detach().float()))

        return record

    leaves = [(name, m) for name, m in model.named_modules() if name and not list(m.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
