"""The range of each number in a config: stated in the metadata of its dataclass field, checked here.

    lr: float = field(default=1e-3, metadata={"least": 0.0, "most": 1e6})

"least" and "most" are admitted themselves, "above" and "below" are not. NaN lies in no range. In a list, each
number has to lie in the range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def out_of_range(config: Any, key: str = "") -> Iterator[str]:
    """A line for each number of a dataclass, and of those in its fields, that lies outside its range.

    Args:
        config: an instance; None, a setting that is not set, has no range.
        key: of the instance, in front of those of its fields.
    """
    for one in fields(config):
        name = f"{key}.{one.name}" if key else one.name
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from out_of_range(value, name)
            continue
        for place, number in _numbers(value, name):
            if not _admits(one.metadata, number):
                unset = " or null" if "None" in str(one.type) else ""
                yield f"{place}: {number} is out of range ({_words(one.metadata)}{unset})"


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{name}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


def _admits(limits: Mapping[str, Any], number: float) -> bool:
    return (
        not math.isnan(number)
        and ("least" not in limits or number >= limits["least"])
        and ("above" not in limits or number > limits["above"])
        and ("most" not in limits or number <= limits["most"])
        and ("below" not in limits or number < limits["below"])
    )


def _words(limits: Mapping[str, Any]) -> str:
    ends = (("least", "at least"), ("above", "above"), ("most", "at most"), ("below", "below"))
    return ", ".join(f"{word} {limits[end]:g}" for end, word in ends if end in limits)
