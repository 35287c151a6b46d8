"""Detect replaced parameters and submodules of a module."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import nn

from asr_emapl.torch_private import own_entries


class Roster:
    """Snapshot of a module's parameters and submodules, compared by identity.

    References to parameters become stale if a layer is replaced, or if weights are loaded with
    `load_state_dict(assign=True)`. The check takes about 50 ns per entry, because it does not walk the tree.
    """

    def __init__(self, module: nn.Module) -> None:
        slots = [(path, slot) for path, m in module.named_modules() for slot in own_entries(m) if slot]
        self._before = [(path, slot, dict(slot)) for path, slot in slots]
        # The same entries as flat lists, for a fast check.
        self._slots = [slot for _, slot in slots]
        entries = [(slot, key, value) for slot in self._slots for key, value in slot.items()]
        self._owners = [owner for owner, _, _ in entries]
        self._keys = [key for _, key, _ in entries]
        self._values = [value for _, _, value in entries]

    def changed(self) -> str | None:
        """The dotted name of an entry that was replaced, removed or added; None if nothing changed."""
        if sum(map(len, self._slots)) == len(self._keys) and all(
            map(is_, map(dict.get, self._owners, self._keys), self._values)
        ):
            return None
        for path, slot, before in self._before:
            for key in {**before, **slot}:
                if not _is_same(before.get(key, _ABSENT), slot.get(key, _ABSENT)):
                    return f"{path}.{key}" if path else key
        return None


_ABSENT = object()


def _is_same(before: Any, now: Any) -> bool:
    # After a forward pass, FSDP2 may leave the gathered parameter in place of its shard.
    is_gathered = (
        hasattr(before, "to_local") and isinstance(now, nn.Parameter) and not hasattr(now, "to_local")
    )
    return before is now or is_gathered
