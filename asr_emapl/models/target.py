"""Import the class or function at an import path, without running untrusted code.

Importing a module and building a class run code. The user consents to this by typing the path, or by writing
it into the config of a training run. A path in a checkpoint or a run directory is not trusted: then only
asr_emapl and the packages that the user trusts by name are imported.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.models.failure import blaming

_OWN_PACKAGE = __name__.partition(".")[0]
_LONGEST = 300  # maximum number of characters of a path


@dataclass(frozen=True)
class Trust:
    """Code that may be imported if a config names it. asr_emapl is always trusted.

    Attributes:
        place: source of the target, for errors: "checkpoint runs/a/checkpoints/step-000000010.pt".
        packages: trusted packages or modules (dotted names), with their submodules.
        everything: trust all code, because the config is the user's own.
    """

    place: str = "the config"
    packages: tuple[str, ...] = ()
    everything: bool = False

    @staticmethod
    def of(place: str, packages: Sequence[str]) -> Trust:
        """Trust packages by name, for `--trust`.

        Raises:
            UserError: a name is not a valid name of a package or module.
        """
        for name in packages:
            if not _is_module_name(name):
                raise UserError(f"--trust {name!r}: specify a package or a module, for example my_package")
        return Trust(place, tuple(packages))

    def require(self, target: str, module: str) -> None:
        """Check that a module is trusted.

        Raises:
            UserError: it is not; says what would be imported, and how to trust it.
        """
        packages = (_OWN_PACKAGE, *self.packages)
        if self.everything or any(f"{module}.".startswith(f"{package}.") for package in packages):
            return
        package = module.partition(".")[0]
        raise UserError(
            f"{self.place} names the model {target}: building it would import {module} and run its code, "
            f"which is not part of asr_emapl; if you trust this code, add --trust {package}"
        )


NO_TRUST = Trust()
"""Trust only asr_emapl."""

USERS_OWN = Trust("the user's own config", everything=True)
"""For a target that the user typed, or wrote into the config of a training run."""


@dataclass(frozen=True)
class Wanted:
    """The class or function that is expected at an import path.

    Attributes:
        key: the setting with the path, for errors.
        base: class that the class derives from; None: a function is expected.
        contract: completes the sentence "... is not a ...".
    """

    key: str
    base: type | None
    contract: str


MODEL = Wanted(
    "model.target",
    nn.Module,
    "torch module with forward(features, lengths) and output_lengths(lengths); specify a subclass of "
    "torch.nn.Module",
)


def resolve(target: str, trust: Trust, wanted: Wanted = MODEL) -> Any:
    """Import the class or function at "package.module:name", without calling it.

    Raises:
        UserError: the path is malformed or not trusted, its module cannot be imported, or what it leads to is
            not what is wanted and itself defined in trusted code.
    """
    key = wanted.key
    module_name, _, name = target.partition(":")
    if len(target) > _LONGEST or not (_is_module_name(module_name) and name.isidentifier()):
        kind = "function" if wanted.base is None else "Class"
        raise UserError(f"{key} {target[:_LONGEST]!r}: write package.module:{kind}")
    trust.require(target, module_name)
    module = _imported(f"{key} {target!r}", module_name)
    with blaming(f"{key} {target!r} cannot be looked up", module_name):
        found = getattr(module, name, None)
    if found is None:
        raise UserError(f"{key} {target!r}: module {module_name} has no {name}")
    base = wanted.base
    if not (isinstance(found, FunctionType) if base is None else _derives_from(found, base)):
        raise UserError(f"{key} {target} is not a {wanted.contract}")
    # It may be imported into the module from untrusted code.
    trust.require(target, found.__module__)
    return found


def construct(cls: Any, options: Mapping[str, Any], place: str) -> Any:
    """Call a resolved class with keyword arguments; `place` names them in errors.

    Raises:
        UserError: an option is unknown or missing, or the constructor raises an error.
    """
    try:
        inspect.signature(cls).bind(**options)
    except (TypeError, ValueError) as error:
        called = f"called with {', '.join(options)}" if options else "called without arguments"
        raise UserError(f"{place}: {error}; it is {called}") from error
    with blaming(place, cls.__module__):
        return cls(**options)


def _imported(place: str, module_name: str) -> ModuleType:
    with blaming(f"{place} cannot be imported", module_name):
        # The user's modules may be in the current folder, which console scripts do not search. At the end of
        # sys.path, they cannot replace installed modules.
        here = str(Path.cwd())
        if module_name.partition(".")[0] != _OWN_PACKAGE and here not in sys.path:
            sys.path.append(here)
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UserError(f"{place}: {error}; is it in the current folder or on PYTHONPATH?") from error


def _derives_from(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
