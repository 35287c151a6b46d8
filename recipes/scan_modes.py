"""What the scans of the batch scale at another batch size."""

from __future__ import annotations

# Name -> whether the teacher's momentum is scaled, and settings of the optimizer.
MODES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "full": (True, ()),
    "optimizer": (False, ()),
    "nothing": (False, ("optimizer.rule=none",)),
}
