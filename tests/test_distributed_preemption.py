"""SIGTERM and the first Ctrl-C request a stop; a second Ctrl-C ends the process at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.runs import launch
from support.tiny import make_corpus, tiny_config

from asr_emapl.distributed.preemption import StopRequest
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.training.trainer import train

WORLD = ProcessGroup(0, 1, torch.device("cpu"))


@pytest.fixture
def handlers():
    """Of SIGTERM and SIGINT; put back afterwards."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_a_signal_handlers_are_put_back(handlers):
    with StopRequest(WORLD):
        pass
    assert {one: signal.getsignal(one) for one in handlers} == handlers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_named(number, capfd, handlers):
    with StopRequest(WORLD) as stop:
        assert not stop.poll()
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.poll()
        assert stop.signal == number
    # The process is about to end: a launcher's second SIGTERM must not turn that into a failure.
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]
    told = capfd.readouterr().err.splitlines()
    assert len(told) == (number == signal.SIGINT)
    assert all("a second SIGINT ends this process immediately" in line for line in told)


# In a wait that Python's handlers do not interrupt, as that for another process.
WAITS = """
import ctypes, torch
from asr_emapl.distributed.preemption import StopRequest
from asr_emapl.distributed.process_group import ProcessGroup

with StopRequest(ProcessGroup(0, 1, torch.device("cpu"))) as stop:
    print("ready", flush=True)
    while not stop.poll():
        pass
    print("made", flush=True)
    libc = ctypes.PyDLL(None)
    while True:
        libc.pause()
"""


def test_a_second_interrupt_ends_at_once(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, str(script)], text=True, **pipes)
    assert process.stdout is not None
    for line in ("ready\n", "made\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert told.count("SIGINT") == 2  # in one line
    assert len(told.splitlines()) == 1


def test_an_interrupted_run_is_saved_and_goes_on(tmp_path):
    """Ctrl-C reaches the whole process group: decoding processes get it too."""
    make_corpus(tmp_path)
    run = tmp_path / "run"
    overrides = ("hours=0.3", "checkpoint.every_hours=null", "validation.every_hours=null", "data.workers=2")
    process = launch(tmp_path, run, *overrides, start_new_session=True)
    log = run / "speed.jsonl"
    deadline = time.monotonic() + 120
    while (
        not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "SIGINT: saving, then exiting" in output
    assert "stopped as requested at " in output
    (saved,) = (run / "checkpoints").glob("step-*.pt")
    steps = int(saved.stem[5:])
    assert len(Path(run / "log.jsonl").read_text().splitlines()) == steps
    train(tiny_config(tmp_path, f"run_dir={run}", *overrides, "hours=0.001"))
    assert len(Path(run / "log.jsonl").read_text().splitlines()) == steps
