"""What a user's own code raised, as one line that names the places in that code."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_emapl.errors import UserError

_OWN_PACKAGE = __name__.partition(".")[0]
_SHOWN_PLACES = 3  # of the calls that led to the error, the innermost
_SHOWN_CHARACTERS = 300  # of its message


@contextmanager
def blaming(what: str, module: str) -> Iterator[None]:
    """Raise whatever the user's code raises within as a `UserError`: `what`, the error, and where it arose.

    Args:
        module: of the user's code, with dots.

    Raises:
        UserError: it raised anything, or ended the process.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what}: {described(error, module)}") from error


def described(error: BaseException, module: str) -> str:
    """An error in one line: its type and message, then file, line, function and text of the user's own code.

    asr_emapl's own classes say in the message what they want, so that for them it stands alone.

    Args:
        module: of the user's code, with dots: the code of its package is shown wherever it is installed,
            other code if it is neither torch's nor anything else's that comes with Python or from an index.
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
    """Where in the user's code it arose, outermost call first."""
    places = [
        f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
        for (running, _), frame in zip(
            traceback.walk_tb(error.__traceback__), traceback.extract_tb(error.__traceback__), strict=True
        )
        if _is_users(running.f_globals.get("__name__", ""), frame.filename, package)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        # Code that cannot be read never runs: no call leads into it.
        places.append(f"{error.filename}:{error.lineno}: {(error.text or '').strip()}")
    return places


def _is_users(module: str, file: str, package: str) -> bool:
    top = module.partition(".")[0]
    if top in (_OWN_PACKAGE, package):
        return top == package
    installed = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not file.startswith("<") and not any(Path(file).is_relative_to(folder) for folder in installed)
