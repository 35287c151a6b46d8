"""Settings of all tests: one thread each, no deadlines, a printed log, GPU tests only with a GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from asr_emapl.terminal import print_log

# The first example includes imports, so that its time means nothing.
settings.register_profile("ci", deadline=None)
settings.load_profile("ci")

print_log()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus of seconds, one for each test module."""
    from support.tiny import make_corpus  # imports torch

    root = tmp_path_factory.mktemp("tiny")
    make_corpus(root)
    return root


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu where there is no CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def pytest_runtest_teardown() -> None:
    """Remove SpeechBrain's redirects of old module names, if a test imported it.

    They import what they stand for when hypothesis looks for the file of a module, and later tests fail.
    """
    if "speechbrain" in sys.modules:
        from speechbrain.utils.importutils import LazyModule  # the base class of the redirects

        for name in [name for name, module in sys.modules.items() if issubclass(type(module), LazyModule)]:
            del sys.modules[name]
