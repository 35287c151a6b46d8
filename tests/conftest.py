"""What the tests share: one thread each, no deadlines, and GPU tests only where there is a GPU."""

from __future__ import annotations

import os

# Before torch is imported: pytest-xdist runs the tests side by side, and what they start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The first example pays for imports and a busy machine for the rest: time says nothing here.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked gpu where there is no CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
