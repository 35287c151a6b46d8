"""The command line: each command is a few lines that call the library. torch comes in where needed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from asr_emapl import __version__
from asr_emapl.cli import data, decoding, prepare, report, scoring, training
from asr_emapl.errors import UserError
from asr_emapl.terminal import warn

app = typer.Typer(
    help="Semi-supervised speech recognition whose training does not change with the batch size.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(
    prepare.commands,
    name="prepare",
    help="Verify a corpus on disk and write its manifests.",
    no_args_is_help=True,
)
for room in (data, training, decoding, scoring, report):
    app.add_typer(room.commands)


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit status 2."""
    try:
        app()
    except UserError as error:
        warn(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        warn("interrupted")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
