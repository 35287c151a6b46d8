"""The command line. Each command only calls the library, and imports torch only when needed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from asr_emapl import __version__
from asr_emapl.cli import (
    data,
    decoding,
    labelling,
    language_model,
    prepare,
    report,
    scoring,
    settings,
    training,
)
from asr_emapl.errors import UserError
from asr_emapl.terminal import print_log, warn

app = typer.Typer(
    help="Semi-supervised speech recognition, with the same learning curve at any batch size.",
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
for room in (data, settings, training, decoding, language_model, labelling, scoring, report):
    app.add_typer(room.commands)


def main() -> None:
    """Entry point. User errors, including a full disk, print one line and exit with status 2.

    If the output pipe is closed early (`| head`), exit with status 1.
    """
    _prepare_streams()
    print_log()
    # Raise an exception, so that partial files are removed. Training handles the signal itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.excepthook = _print_thread_error
    try:
        try:
            app()
        finally:
            # Flush here, because output errors cannot be reported during interpreter shutdown.
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
        _fail("not enough memory for this input")
    except KeyboardInterrupt:
        warn("interrupted")
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    warn(f"error: {message}")
    sys.exit(2)


def _print_thread_error(arguments: threading.ExceptHookArgs) -> None:
    """Print an OSError as a warning: TensorBoard's thread stops if the disk is full; the run continues."""
    error = arguments.exc_value
    if isinstance(error, OSError):
        warn(f"warning: {error.filename or 'a background thread'}: {error.strerror or error}")
    else:
        threading.__excepthook__(arguments)


def _prepare_streams() -> None:
    """Escape characters missing in the terminal's encoding; redirect closed streams to os.devnull."""
    # In descriptor order, because a newly opened file gets the lowest free descriptor.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Discard buffered output that cannot be written, so that the interpreter exits without another error."""
    with suppress(OSError, ValueError):
        output = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, output)
        os.close(null)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
