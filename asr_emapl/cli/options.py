"""Option types shared by several commands. Numbers are validated before a command runs.

typer's own min and max accept NaN, and its floats can be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import typer

# Thirty years in seconds; weights, sizes and bonuses are far smaller.
_MAX_NUMBER = 1e9

TrustOption = Annotated[
    list[str] | None,
    typer.Option(help="Allow a checkpoint or config to import models from this package; may be repeated."),
]


def finite(help: str, **settings: Any) -> Any:
    """A number from -1e9 to 1e9."""
    return _number(help, lambda number: abs(number) <= _MAX_NUMBER, "a number from -1e9 to 1e9", settings)


def non_negative(help: str, **settings: Any) -> Any:
    """A number from 0 to 1e9."""
    return _number(help, lambda number: 0.0 <= number <= _MAX_NUMBER, "a number from 0 to 1e9", settings)


def positive(help: str, **settings: Any) -> Any:
    """A number above 0, up to 1e9."""
    return _number(help, lambda number: 0.0 < number <= _MAX_NUMBER, "a number above 0, up to 1e9", settings)


def seed_option(help: str) -> Any:
    """A random seed, from 0 to 2**63 - 1."""
    return typer.Option(min=0, max=2**63 - 1, metavar="<int>", help=help)


def share(help: str, **settings: Any) -> Any:
    """A number from 0 to 1."""
    return _number(help, lambda number: 0.0 <= number <= 1.0, "a number from 0 to 1", settings)


def workers_option(help: str, **settings: Any) -> Any:
    """A number of threads or processes, from 1 to 1024."""
    return typer.Option(min=1, max=1024, help=help, **settings)


def count(help: str, least: int = 0) -> Any:
    """A count, from `least` to a million; larger values would exhaust memory."""
    return typer.Option(min=least, max=1_000_000, help=help)


def _number(help: str, is_valid: Callable[[float], bool], valid: str, settings: dict[str, Any]) -> Any:
    def parse(text: str | float) -> float:  # the default is a float
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not is_valid(number):
            raise typer.BadParameter(f"{str(text)[:40]!r} is not {valid}.")
        return number

    return typer.Option(parser=parse, metavar="<float>", help=help, **settings)
