"""Broken inputs at every command: none ends in a traceback, hangs, or changes what it was given."""

from __future__ import annotations

import os

import pytest
from fuzz.server import HAS_LM, TEMPLATES, run_cases

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd_open")


def test_some_broken_inputs_and_each_command_with_good_ones() -> None:
    commands = len([template for template in TEMPLATES if HAS_LM or not template.needs])
    faulty = [case for case in run_cases([*range(-commands, 0), *range(60)], seed=0) if case.faults]
    assert not faulty, "\n".join(f"{case}: {case.faults}\n{case.said[-2000:]}" for case in faulty)


@pytest.mark.slow
def test_two_thousand_broken_inputs() -> None:
    faulty = [case for case in run_cases(range(2000), seed=0) if case.faults]
    assert not faulty, "\n".join(f"{case}: {case.faults}\n{case.said[-2000:]}" for case in faulty)
