"""Which tensors and submodules a module holds, and whether it still holds the same ones."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn


class Roster:
    """The parameters and submodules of a module at one time, by identity.

    References to parameters become stale when a layer is replaced, or weights are loaded with
    `load_state_dict(assign=True)`. A comparison takes about 50 ns for each entry: it does not walk the tree.
    """

    def __init__(self, module: nn.Module) -> None:
        slots = [
            (path, slot)
            for path, owner in module.named_modules()
            for slot in (owner._parameters, owner._modules)
            if slot
        ]
        # What each slot held, and the same again as three columns, one entry after the other.
        self._held = [(path, slot, dict(slot)) for path, slot in slots]
        self._slots = [slot for _, slot in slots]
        entries = [(slot, key, value) for slot in self._slots for key, value in slot.items()]
        self._owners = [owner for owner, _, _ in entries]
        self._keys = [key for _, key, _ in entries]
        self._values = [value for _, _, value in entries]

    def changed(self) -> str | None:
        """The dotted name of an entry that was replaced, removed or added; None if there is none."""
        if sum(map(len, self._slots)) == len(self._keys) and all(
            map(is_, map(dict.get, self._owners, self._keys), self._values)
        ):
            return None
        for path, slot, held in self._held:
            for key in {**held, **slot}:
                if not _same(held.get(key, _ABSENT), slot.get(key, _ABSENT)):
                    return f"{path}.{key}" if path else key
        return None


_ABSENT = object()


def _same(before: Any, now: Any) -> bool:
    # FSDP2 shows the whole tensor during a forward pass, and may not put its part back until a backward pass.
    gathered = hasattr(before, "to_local") and isinstance(now, nn.Parameter) and not hasattr(now, "to_local")
    return before is now or gathered
