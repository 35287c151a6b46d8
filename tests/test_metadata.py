"""What setup.cfg tells pip: versions that work together."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "setup.cfg"


def parse(lines: str) -> dict[str, Requirement]:
    """Requirements by name."""
    found = [Requirement(line) for line in lines.split("\n") if line.strip() and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def setup() -> ConfigParser:
    config = ConfigParser()
    config.read(SETUP)
    return config


def requirements() -> dict[str, Requirement]:
    """The requirements of an installation without extras."""
    return parse(setup()["options"]["install_requires"])


def all_requirements() -> dict[str, Requirement]:
    """The requirements of an installation with all extras but dev."""
    found = requirements()
    for name, lines in setup()["options.extras_require"].items():
        if name not in ("all", "dev"):
            found |= parse(lines)
    return found


@pytest.mark.parametrize("name", ["torch", "torchaudio"])
def test_torch_is_no_older_than_torchaudio_needs(name):
    """torchaudio 2.11 states no requirement, and fails at import with torch 2.10."""
    specifier = requirements()[name].specifier
    assert "2.11.0" in specifier
    assert not any(older in specifier for older in ("2.9.0", "2.9.1", "2.10.0"))


def test_the_extra_all_has_every_extra_of_users():
    extras = setup()["options.extras_require"]
    (requirement,) = parse(extras["all"]).values()
    assert requirement.name == "asr_emapl"
    assert requirement.extras == set(extras) - {"all", "dev", "whisper-weights"}  # 71 MB of data


@pytest.mark.parametrize("name", ["tensorboard", "matplotlib", "jinja2"])
def test_heavy_packages_are_extras(name):
    assert name not in requirements()
    assert name in all_requirements()


def test_what_is_installed_here_is_what_is_required():
    for name, requirement in requirements().items():
        assert requirement.specifier.contains(version(name).partition("+")[0], prereleases=True), name


# Modules that come with a required package, as its documentation says.
COME_WITH = {"triton": "torch", "markupsafe": "jinja2"}


def imported(source: str) -> set[str]:
    """The top-level modules that a Python source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"asr_emapl", "data_prep"}


def environment_imports() -> str:
    """The imports by which recipes/environment.sh tells whether an installation is complete."""
    script = (ROOT / "recipes" / "environment.sh").read_text().replace("\\\n", "")
    (line,) = re.findall(r"-c '(import asr_emapl\.cli[^']*)'", script)
    return line


def distributions_of(module: str, installed: Mapping[str, list[str]]) -> set[str]:
    """The names of the packages that may bring a module."""
    names = installed.get(module, [module])
    return {canonicalize_name(COME_WITH.get(module, name)) for name in names}


def test_every_imported_package_is_required():
    """A package that an older version required may still be installed where the tests run, and hide this."""
    sources = {ROOT / "recipes" / "environment.sh": environment_imports()}
    for room in ("asr_emapl", "data_prep", "recipes"):
        sources |= {path: path.read_text() for path in (ROOT / room).rglob("*.py")}
    required = {canonicalize_name(name) for name in all_requirements()}
    installed = packages_distributions()
    missing = [
        f"{path.relative_to(ROOT)}: {module}"
        for path, source in sources.items()
        for module in imported(source)
        # Recipes also import their own modules and those that they share.
        if not any((folder / f"{module}.py").exists() for folder in (path.parent, ROOT / "recipes"))
        and not required & distributions_of(module, installed)
    ]
    assert not missing
