"""Find where code reads values of tensors, which waits for the device if they are on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.overrides import TorchFunctionMode

_READING = ("tolist", "item", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__")


class Waits(TorchFunctionMode):
    """Context that notes reads in given modules, also of tensors on the CPU.

    Args:
        packages: dotted names of the modules or packages. Reads in other code that they call are not noted,
            because it may read on the CPU alone.

    Attributes:
        places: "file:line (method)" of each read.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        super().__init__()
        self.packages, self.places = packages, list[str]()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note the call if it reads values, and run it."""
        if getattr(function, "__name__", "") in _READING:
            frame = sys._getframe(1)
            while frame.f_back is not None and _is_in(frame.f_globals.get("__name__", ""), ("torch",)):
                frame = frame.f_back
            if _is_in(frame.f_globals.get("__name__", ""), self.packages):
                place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.places.append(f"{place} ({function.__name__})")
        return function(*args, **(kwargs or {}))


def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)
