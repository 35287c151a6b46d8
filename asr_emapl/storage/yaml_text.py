"""Parse the YAML of configs, with a limit on its size after aliases are expanded.

An alias repeats a value, so a few hundred bytes can expand to more than the available memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from asr_emapl.errors import UserError
from asr_emapl.storage.text_files import read_document

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
MAX_DEPTH = 64


class _TooLargeError(ValueError):
    """More values or levels than a config has."""


def read_yaml(place: str | Path, remedy: str = "") -> Any:
    """Read the value of a YAML file.

    Raises:
        UserError: the file cannot be read, or `parse_yaml` raises an error.
    """
    text = read_document(place, max_bytes=MAX_BYTES, remedy=remedy)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: the text is not YAML, or is too large or nested too deeply after expanding aliases.
    """
    loader: Any = None
    try:
        loader = yaml.SafeLoader(text)  # raises for control characters
        node = loader.get_single_node()
        _require_bounded(node, _below_node)
        return None if node is None else loader.construct_document(node)
    except _TooLargeError:
        raise
    except RecursionError as error:
        raise ValueError("not YAML: brackets are nested too deeply") from error
    # ValueError: an invalid date or number; TypeError: a list as a key; the others: wrong values of tags.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()


def require_bounded(value: object) -> None:
    """Check the size and depth of dicts and lists. An object that occurs twice counts twice.

    Raises:
        ValueError: they are too large, nested too deeply, or contain themselves.
    """
    _require_bounded(value, _below_value)


def _require_bounded(root: Any, below: Callable[[Any], Iterable[Any]]) -> None:
    # id -> number of values and of levels. `root` keeps all items alive, so ids are unique.
    known: dict[int, tuple[int, int]] = {}

    def measured(item: Any, depth: int) -> tuple[int, int]:
        if id(item) not in known:
            if depth > MAX_DEPTH:
                raise _TooLargeError(f"nested more than {MAX_DEPTH} levels deep, or contains itself")
            parts = [measured(part, depth + 1) for part in below(item)]
            size, levels = 1 + sum(s for s, _ in parts), 1 + max((n for _, n in parts), default=0)
            if size > MAX_VALUES or levels > MAX_DEPTH:
                raise _TooLargeError(
                    f"more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, with aliases expanded"
                )
            known[id(item)] = (size, levels)
        return known[id(item)]

    measured(root, 0)


def _below_node(node: Any) -> Iterable[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _below_value(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
