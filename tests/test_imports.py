"""Imports between the packages go in one direction, and the map in CONTRIBUTING.md is right."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("asr_emapl", "data_prep")
    for path in (ROOT / package).rglob("*.py")
}


def imported_modules(path: Path) -> set[str]:
    """The modules of this project that a file imports, also within functions and for types only."""
    names = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (submodules & MODULES.keys()) or {node.module}
    return names & MODULES.keys()


def require_no_circle(place: Callable[[str], str], without: str = "") -> None:
    """Raise CycleError, which lists them, if places import each other in a circle.

    Args:
        without: a module whose imports do not count.
    """
    imports: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name == without:
            continue
        of_place = imports.setdefault(place(name), set())
        of_place |= {place(one) for one in imported_modules(path)} - {place(name)}
    TopologicalSorter(imports).prepare()


def package(module: str) -> str:
    """The package of a module, or the module itself if it lies beside the packages."""
    return ".".join(module.split(".")[:2])


def test_no_two_modules_import_each_other() -> None:
    require_no_circle(lambda module: module)


def test_no_two_packages_import_each_other() -> None:
    # A setting is declared beside its component; `config` only collects the settings.
    require_no_circle(package, without="asr_emapl.config")


def rows_of_the_map() -> list[list[str]]:
    """The packages and modules in each row of the table of folders in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("| folder | contents |\n|---|---|\n")[1]
    lines = text.split("\n\n")[0].splitlines()
    return [re.findall(r"`([a-z_]+)(?:\.py|/)`", line.split("|")[1]) for line in lines]


def test_imports_follow_the_rows_of_the_map() -> None:
    *rows, everywhere = rows_of_the_map()
    row_of = {name: number for number, names in enumerate(rows) for name in names}
    row_of |= dict.fromkeys(everywhere, -1)
    upward = []
    for module, path in MODULES.items():
        name = package(module).removeprefix("asr_emapl.")
        for other in {package(one).removeprefix("asr_emapl.") for one in imported_modules(path)}:
            if row_of.get(other, -1) > row_of.get(name, len(rows)) and "config" not in (name, other):
                upward.append(f"{module} -> {other}")
    assert not upward
    packages = {package(name).partition(".")[2] for name in MODULES if name.startswith("asr_emapl.")}
    assert packages - row_of.keys() == {"__main__"}


def test_files_of_the_map_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Map of the package")[1].split("\n## ")[0]
    paths = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", text)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / "asr_emapl" / path).exists()] == []
