"""What setup.cfg tells pip: versions that work together."""

from __future__ import annotations

from configparser import ConfigParser
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def requirements() -> dict[str, Requirement]:
    """What an installation without extras requires, by name."""
    config = ConfigParser()
    config.read(SETUP)
    lines = config["options"]["install_requires"].split("\n")
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


@pytest.mark.parametrize("name", ["torch", "torchaudio"])
def test_torch_is_no_older_than_torchaudio_needs(name):
    """torchaudio 2.11 states no requirement, and fails at import with torch 2.10."""
    specifier = requirements()[name].specifier
    assert "2.11.0" in specifier
    assert not any(older in specifier for older in ("2.9.0", "2.9.1", "2.10.0"))


def test_what_is_installed_here_is_what_is_required():
    for name, requirement in requirements().items():
        assert requirement.specifier.contains(version(name).partition("+")[0], prereleases=True), name
