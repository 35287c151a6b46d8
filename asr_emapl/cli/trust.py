"""The option --trust, of all commands that build a model which a file names."""

from __future__ import annotations

from typing import Annotated

import typer

TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Package whose code a checkpoint or config may run by naming a model in it; may be repeated."
    ),
]
