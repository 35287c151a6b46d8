"""What recipes/environment.sh prints while it installs, with stand-ins for python, pip and sleep."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "environment.sh"
# The base python makes a .venv whose python does as if the package were installed.
BASE = """#!/bin/bash
if [[ $1 == -m ]]; then mkdir -p "${@: -1}/bin"; cp "$FAKES/python-of-venv" "${@: -1}/bin/python"; fi
"""
OF_VENV = """#!/bin/bash
case $* in
    *"-m pip"*) exec /bin/sleep "$PIP_SECONDS$([[ -z $PIP_FAILS ]] || echo x)" ;;
    *get_path*) echo "$FAKES" ;;
    *executable*) echo "$0" ;;
    *__file__*) echo "$CHECKOUT" ;;
esac
"""
FAKES = {
    "python": "#!/bin/sh\nexit 1\n",
    "python3": "#!/bin/sh\nexit 1\n",
    "python3.13": BASE,
    "python-of-venv": OF_VENV,
    "asr-emapl": "#!/bin/sh\n",
    "sleep": "#!/bin/sh\nexec /bin/sleep 0.01\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the script alone, in a folder with the stand-ins."""
    for name, text in FAKES.items():
        path = tmp_path / "fakes" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    root = tmp_path / "checkout"
    (root / "recipes").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "recipes")
    (root / "setup.cfg").write_text("")
    return root


def source(checkout: Path, *, pip_seconds: float, pip_fails: bool = False) -> subprocess.Popen[str]:
    fakes = checkout.parent / "fakes"
    variables = {
        "PATH": f"{fakes}:/usr/bin:/bin",
        "FAKES": str(fakes),
        "CHECKOUT": str(checkout),
        "PIP_SECONDS": str(pip_seconds),
        "PIP_FAILS": "1" if pip_fails else "",
    }
    return subprocess.Popen(
        ["bash", "-c", "set -euo pipefail; source recipes/environment.sh; echo ready"],
        cwd=checkout,
        env=os.environ | variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_an_installation_says_every_minute_that_it_goes_on(checkout):
    process = source(checkout, pip_seconds=3)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "ready\n")
    assert "installing: 1 min so far\n" in err
    assert err.endswith("installed in 1 min\n")
    again = source(checkout, pip_seconds=3)
    assert again.communicate(timeout=30) == ("ready\n", "")


def test_a_failed_installation_is_an_error(checkout):
    process = source(checkout, pip_seconds=0, pip_fails=True)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "error: pip cannot install asr_emapl" in err
    assert "installed in" not in err


def test_an_interrupted_installation_leaves_no_process(checkout):
    process = source(checkout, pip_seconds=60)
    assert process.stderr is not None
    assert any("1 min so far" in line for line in process.stderr)
    os.killpg(process.pid, signal.SIGINT)
    # The pipes are open as long as a process has them.
    process.communicate(timeout=20)
    assert process.returncode != 0
