"""Helper processes end with their parent, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from support.processes import is_alive

from asr_emapl.processes import kill

# A helper sleeps as one that decodes would work: without listening to its parent.
PARENT = """
import multiprocessing, signal, sys, time
from asr_emapl.processes import serve_parent

def helper(connection):
    serve_parent(signal.SIGTERM, signal.SIGINT)
    connection.send(True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    mine, theirs = context.Pipe()
    processes = [context.Process(target=helper, args=(theirs,)) for _ in range(2)]
    for process in processes:
        process.start()
        mine.recv()
    print(*(process.pid for process in processes), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_helper_ends_when_its_parent_is_killed(tmp_path, method):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = list(map(int, parent.stdout.readline().split()))
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # is ignored
    time.sleep(0.1)
    assert all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_killed_processes_have_ended():
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=time.sleep, args=(seconds,)) for seconds in (0.0, 600.0)]
    for process in processes:
        process.start()
    processes[0].join()
    kill(processes)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
