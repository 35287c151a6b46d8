"""What setup.cfg tells pip: versions that work together."""

from __future__ import annotations

from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


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
    assert requirement.extras == set(extras) - {"all", "dev"}


@pytest.mark.parametrize("name", ["tensorboard", "matplotlib", "jinja2"])
def test_heavy_packages_are_extras(name):
    assert name not in requirements()
    assert name in all_requirements()


def test_what_is_installed_here_is_what_is_required():
    for name, requirement in requirements().items():
        assert requirement.specifier.contains(version(name).partition("+")[0], prereleases=True), name
