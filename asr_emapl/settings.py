"""Settings are declared as dataclasses with types, ranges and docstrings, beside their component.

    @dataclass
    class ScheduleConfig:
        warmup_hours: Hours = 0.0
        \"\"\"Linear warm-up of the learning rate.\"\"\"

Unset settings are null. `asr_emapl.config` validates a run's settings; `describe` lists them.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt, Predicate

Text = Annotated[str, Len(1)]
_IS_PATH = "path"
Place = Annotated[str, Len(1), _IS_PATH]
"""A path or URL; relative paths are resolved as `config.load_config` describes."""
_IS_IMPORT = "import path"
ImportPath = Annotated[str, Predicate(lambda text: re.fullmatch(r"[\w.]+:\w+", text) is not None), _IS_IMPORT]
"""The import path of a class or function."""
Hours = Annotated[float, Ge(0.0), Le(1e9)]
PositiveHours = Annotated[float, Gt(0.0), Le(1e9)]
PositiveSeconds = Annotated[float, Gt(0.0), Le(1e9)]
Share = Annotated[float, Ge(0.0), Le(1.0)]
Factor = Annotated[float, Ge(0.0), Le(1e6)]
Beta = Annotated[float, Ge(0.0), Lt(1.0)]
PositiveWeight = Annotated[float, Gt(0.0), Le(1e9)]
Count = Annotated[int, Ge(0), Le(2**31)]
PositiveCount = Annotated[int, Ge(1), Le(2**31)]

_PLURALS = {"a path": "paths", "a number": "numbers", "text": "texts", "a list": "lists"}
_BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below"))
# Larger bounds are those of 64-bit integers.
_LARGEST = 2**62


class Setting(typing.NamedTuple):
    """One setting: its dotted key, allowed values, default in YAML notation, and description."""

    key: str
    allowed: str
    default: str
    description: str


def describe(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Yield all settings of a dataclass and of its nested dataclasses, in order."""
    hints, documents = typing.get_type_hints(cls, include_extras=True), _documents(cls)
    for field in fields(cls):
        key, hint = prefix + field.name, hints[field.name]
        group, part = group_of(hint), part_of(hint)
        if group is None or type(None) in typing.get_args(hint):
            yield Setting(key, allowed(hint), _default(field), documents.get(field.name, ""))
        if group is not None:
            yield from describe(group, f"{key}.")
        if part is not None:
            yield from describe(part, f"{key}.NAME.")


def value_of(config: Any, key: str) -> str:
    """The value of a dotted key in YAML notation; "null" if its group is null."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return _shown(config)


def with_places(values: Mapping[str, Any], cls: type, change: Callable[[str], str]) -> dict[str, Any]:
    """Values of some settings of a dataclass, with `change` applied to all paths, also in lists and mappings.

    Unknown keys and values of other types are kept, for the validation to report.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        key: _with_places(value, hints[key], change) if key in hints else value
        for key, value in values.items()
    }


def _with_places(value: Any, hint: Any, change: Callable[[str], str]) -> Any:
    group = group_of(hint)
    if group is not None:
        return with_places(value, group, change) if isinstance(value, Mapping) else value
    if not _holds_places(hint):
        return value
    if isinstance(value, Mapping):
        return {key: _with_places(item, hint, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_places(item, hint, change) for item in value]
    return change(value) if isinstance(value, str) and value else value


def _holds_places(hint: Any) -> bool:
    return _IS_PATH in getattr(hint, "__metadata__", ()) or any(map(_holds_places, typing.get_args(hint)))


def group_of(hint: Any) -> type | None:
    """The dataclass that an annotation refers to; None for a single setting."""
    if typing.get_origin(hint) is dict:
        return None
    found = [part for part in (hint, *typing.get_args(hint)) if is_dataclass(part)]
    return found[0] if found and isinstance(found[0], type) else None


def part_of(hint: Any) -> type | None:
    """The dataclass of the values of a mapping; None for another setting."""
    if typing.get_origin(hint) is not dict:
        return None
    part = typing.get_args(hint)[1]
    return part if is_dataclass(part) and isinstance(part, type) else None


def allowed(hint: Any) -> str:
    """Describe the values that an annotation allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and _IS_PATH in hint.__metadata__:
        return "a path"
    if origin is Annotated and _IS_IMPORT in hint.__metadata__:
        return "package.module:Class"
    if origin is Annotated:
        bounds = [
            "64 bits" if abs(getattr(bound, name)) > _LARGEST else f"{words} {getattr(bound, name):g}"
            for bound in hint.__metadata__
            for kind, name, words in _BOUNDS
            if isinstance(bound, kind)
        ]
        length = [bound for bound in hint.__metadata__ if isinstance(bound, Len)]
        text = allowed(hint.__origin__)
        if length:
            is_fixed = length[0].min_length == length[0].max_length
            sized = f"a list of {length[0].min_length}" if is_fixed else "a non-empty list of"
            text = text.replace("a list of", sized, 1).replace("text", "text (not empty)")
        return f"{text} ({', '.join(dict.fromkeys(bounds))})" if bounds else text
    if origin in (typing.Union, types.UnionType):
        return " or ".join(allowed(part) for part in arguments)
    if origin is Literal:
        return arguments[0] if len(arguments) == 1 else "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return "a list of " + _swapped(allowed(arguments[0]), _PLURALS)
    if origin is dict:
        return "a mapping"
    if is_dataclass(hint):
        return "a group of settings"
    words = {float: "a number", int: "an integer", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "a value")


def allowed_item(text: str) -> str:
    """Describe the allowed values of an item, given `allowed` of its list."""
    return _swapped(
        re.sub(r"^a (?:non-empty )?list of (\d+ )?", "", text), {many: one for one, many in _PLURALS.items()}
    )


def _swapped(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        if text.startswith(old):
            return new + text.removeprefix(old)
    return text


def _default(field: Field[Any]) -> str:
    value = field.default
    if field.default_factory is not MISSING:
        value = field.default_factory()
    return _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "set" if is_dataclass(value) else str(value)


def _documents(cls: type) -> dict[str, str]:
    """The docstring under each field."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        is_documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and is_documented:
            found[before.target.id] = " ".join(ast.literal_eval(after.value).split())  # type: ignore[attr-defined]
    return found


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, with those of `defaults` for missing keys."""
    filled = {
        key: with_defaults(value, defaults[key])
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping)
        else value
        for key, value in values.items()
    }
    return {**defaults, **filled}


def setting_changes(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and "key: old -> new" of each entry that differs between two nested mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            changed = old.get(name, _ABSENT), new.get(name, _ABSENT)
            yield from setting_changes(*changed, f"{key}.{name}".lstrip("."))
    elif old != new:
        yield key, f"{key}: {_text(old)} -> {_text(new)}"


_ABSENT = object()


def _text(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, default=repr)
