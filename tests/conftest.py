"""Settings of all tests: one thread each, no deadlines, a printed log, GPU tests only with a GPU."""

from __future__ import annotations

import os

# Before torch is imported. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from asr_emapl.terminal import print_log

# The first example includes imports, so that its time means nothing.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")

print_log()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu where there is no CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
