"""The class at an import path, found without running code that nobody consented to.

Importing a module runs it, and a class's constructor is code too. A path that the user typed, or wrote into
the config of a run to train, is consent. One that comes with a checkpoint or a run directory is not: then
nothing is imported but asr_emapl itself and the packages that the user trusts by name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from asr_emapl.errors import UserError
from asr_emapl.models.failure import blaming

_OWN_PACKAGE = __name__.partition(".")[0]
_LONGEST = 300  # characters of a path


@dataclass(frozen=True)
class Trust:
    """Whose code may be imported because a config names it. asr_emapl's own always may.

    Attributes:
        place: what names the target, for the error: "checkpoint runs/a/checkpoints/step-000000010.pt".
        packages: packages, or modules with dots, that may be imported too, with all that lies in them.
        everything: whether the config is the user's own, so that whatever it names may be imported.
    """

    place: str = "the config"
    packages: tuple[str, ...] = ()
    everything: bool = False

    @staticmethod
    def of(place: str, packages: Sequence[str]) -> Trust:
        """Trust in packages by name, as `--trust` takes them.

        Raises:
            UserError: a name is not that of a package or a module.
        """
        for name in packages:
            if not _is_module_name(name):
                raise UserError(f"--trust {name!r}: name a package or a module, for example my_package")
        return Trust(place, tuple(packages))

    def require(self, target: str, module: str) -> None:
        """Refuse to import a module that is neither trusted nor part of what is.

        Raises:
            UserError: it is not trusted; says what would be imported, and how to consent.
        """
        packages = (_OWN_PACKAGE, *self.packages)
        if self.everything or any(f"{module}.".startswith(f"{package}.") for package in packages):
            return
        package = module.partition(".")[0]
        raise UserError(
            f"{self.place} names the model {target}: building it would import {module} and run its code, "
            f"which is not part of asr_emapl; if you trust that code, add --trust {package}"
        )


NO_TRUST = Trust()
"""In nothing but asr_emapl itself."""

USERS_OWN = Trust("the user's own config", everything=True)
"""For a target that the user typed, or wrote into the config of a run to train."""


@dataclass(frozen=True)
class Wanted:
    """What an import path has to lead to.

    Attributes:
        key: the setting with the path, for errors.
        base: class that the class derives from.
        contract: completes the sentence "... is no ...".
    """

    key: str
    base: type
    contract: str


MODEL = Wanted(
    "model.target",
    nn.Module,
    "torch module with forward(features, lengths) and output_lengths(lengths): name a class that derives "
    "from torch.nn.Module",
)


def resolve(target: str, trust: Trust, wanted: Wanted = MODEL) -> type[Any]:
    """The class at "package.module:Class". The class is not called.

    Raises:
        UserError: the path is malformed or not trusted, its module cannot be imported, or what it leads to is
            not a class that derives from the wanted one and is itself defined in trusted code.
    """
    key = wanted.key
    module_name, _, name = target.partition(":")
    if len(target) > _LONGEST or not (_is_module_name(module_name) and name.isidentifier()):
        raise UserError(f"{key} {target[:_LONGEST]!r}: write package.module:Class")
    trust.require(target, module_name)
    module = _imported(f"{key} {target!r}", module_name)
    with blaming(f"{key} {target!r} cannot be looked up", module_name):
        found = getattr(module, name, None)
    if found is None:
        raise UserError(f"{key} {target!r}: module {module_name} has no {name}")
    if not (isinstance(found, type) and issubclass(found, wanted.base)):
        raise UserError(f"{key} {target} is no {wanted.contract}")
    # Modules also hold what they import themselves, whoever wrote it.
    trust.require(target, found.__module__)
    return found


def _imported(place: str, module_name: str) -> ModuleType:
    with blaming(f"{place} cannot be imported", module_name):
        # The user's own modules may be in the current folder, which console scripts do not search. At the end
        # of the path, they cannot replace installed modules.
        here = str(Path.cwd())
        if module_name.partition(".")[0] != _OWN_PACKAGE and here not in sys.path:
            sys.path.append(here)
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise UserError(f"{place}: {error}; is it in the current folder or on PYTHONPATH?") from error


def _is_module_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
