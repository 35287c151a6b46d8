"""The command line: each command is a few lines that call the library. torch comes in where needed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated, NoReturn

import typer

from asr_emapl import __version__
from asr_emapl.cli import data, decoding, prepare, report, scoring, settings, training
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
for room in (data, settings, training, decoding, scoring, report):
    app.add_typer(room.commands)


def main() -> None:
    """Entry point: an error that the user can fix is one line and exit status 2.

    So are a full disk and full memory. A reader of the output that ends first (`| head`) is exit status 1.
    """
    _prepare_streams()
    # As Ctrl-C does, so that what is half-written is removed; training stops in its own way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.excepthook = _tell_of_thread
    try:
        try:
            app()
        finally:
            # At the interpreter's end it would be too late to say why the output cannot be written.
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _discard_output()
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}")
    except MemoryError:
        _fail("there is not enough memory for this input")
    except KeyboardInterrupt:
        warn("interrupted")
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    warn(f"error: {message}")
    sys.exit(2)


def _tell_of_thread(arguments: threading.ExceptHookArgs) -> None:
    """TensorBoard, for one, stops where the disk is full: one line, because the run goes on without it."""
    error = arguments.exc_value
    if isinstance(error, OSError):
        print(
            f"warning: {error.filename or 'a background thread'}: {error.strerror or error}", file=sys.stderr
        )
    else:
        threading.__excepthook__(arguments)


def _prepare_streams() -> None:
    """Have output that a terminal's encoding lacks escaped, and closed streams lead nowhere."""
    # In the order of their numbers: a file that a command opens would get the number of a closed stream.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Nothing more can be written: without this, the interpreter would complain of the rest at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
