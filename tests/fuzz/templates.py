"""Every command with good arguments, from commands.txt."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Template:
    """A command line.

    Attributes:
        arguments: as typed.
        reads: paths of the files that the command reads, named or not.
        resumes: whether exit status 2 may leave something below out/.
        changes: a folder of inputs that the command goes on writing, "" if there is none.
        needs: modules of optional packages, separated by spaces.
    """

    arguments: list[str]
    reads: list[str]
    resumes: bool = False
    changes: str = ""
    needs: str = ""

    @property
    def can_run(self) -> bool:
        """Whether what it needs is installed."""
        return all(map(importlib.util.find_spec, self.needs.split()))


def _read(path: Path) -> list[Template]:
    names: dict[str, str] = {}
    templates: list[Template] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().partition(": ")
        if line.startswith("#"):
            continue
        if line.startswith("$"):
            name, _, files = line.partition(" = ")
            names[name] = files
        elif not line.startswith(" "):
            words = [word.rpartition("=")[2] for word in line.split()]
            named = [word for word in words if word.startswith("in/") and "." in word]
            templates.append(Template(line.split(), named))
        elif key == "reads":
            templates[-1].reads += " ".join(names.get(word, word) for word in value.split()).split()
        else:
            setattr(templates[-1], key, value)
    return templates


TEMPLATES = [one for one in _read(Path(__file__).with_name("commands.txt")) if one.can_run]
