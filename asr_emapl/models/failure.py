"""Describe an error in the user's code in one line, with its location."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_emapl.errors import UserError

_OWN_PACKAGE = __name__.partition(".")[0]
_SHOWN_PLACES = 3  # innermost calls that are shown
_SHOWN_CHARACTERS = 300  # maximum length of the message


@contextmanager
def blaming(what: str, module: str) -> Iterator[None]:
    """Context that converts errors of the user's code to `UserError`: `what`, the error, and its location.

    Args:
        module: dotted name of the user's module.

    Raises:
        UserError: the code raised an exception or called sys.exit.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: {described(error, module)}") from error


def described(error: BaseException, module: str) -> str:
    """Describe an error in one line: its type and message, and the file, line and text of the user's code.

    For asr_emapl's own classes, only the message is shown.

    Args:
        module: dotted name of the user's module. Code of its package is always shown; other code only if it
            is neither in the standard library nor in site-packages.
    """
    message = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    message = message[:_SHOWN_CHARACTERS]
    package = module.partition(".")[0]
    if package == _OWN_PACKAGE and message:
        return message
    places = _places(error, package)[-_SHOWN_PLACES:]
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{told} ({'; '.join(places)})" if places else told


def _places(error: BaseException, package: str) -> list[str]:
    """Locations in the user's code, outermost call first."""
    places = [
        f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
        for (running, _), frame in zip(
            traceback.walk_tb(error.__traceback__), traceback.extract_tb(error.__traceback__), strict=True
        )
        if _is_users(running.f_globals.get("__name__", ""), frame.filename, package)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        # Code with a syntax error is not executed, so it is not in the traceback.
        places.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    return places


def _is_users(module: str, file: str, package: str) -> bool:
    top = module.partition(".")[0]
    if top in (_OWN_PACKAGE, package):
        return top == package
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not file.startswith("<") and not any(Path(file).is_relative_to(folder) for folder in installed)
