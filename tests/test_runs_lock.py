"""Only one run at a time uses a run directory; others name the process and change nothing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.runs import finish, launch

from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.runs import lock as module
from asr_emapl.runs.lock import NAME, run_lock

WORLD = ProcessGroup(0, 1, torch.device("cpu"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_is_refused_and_touches_nothing(corpus, tmp_path):
    """Of one process and of two."""
    run = tmp_path / "run"
    first = launch(corpus, run, "hours=100", "validation.every_hours=null", start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoints/step-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGSTOP)  # so that the directory stays as it is
        (run / "checkpoints" / ".step-1.pt.part").write_bytes(b"being written")
        before = contents(run)
        others = [launch(corpus, run, "seed=7", "hours=0.003", processes=n) for n in (1, 2)]
        for other in others:
            output, _ = other.communicate(timeout=120)
            assert other.returncode != 0
            (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
            assert f"process {first.pid} on '{socket.gethostname()}'" in line
            assert "asr_emapl/training" not in output  # no traceback but torchrun's own
        assert contents(run) == before
    finally:
        first.kill()
        first.communicate()
    # The lock ended with its process.
    output = finish(launch(corpus, run, "hours=0.001"))
    assert "nothing to do" in output
    assert not (run / NAME).exists()


HOLDS = """
import sys, time
from pathlib import Path
import torch
from asr_emapl.runs.lock import run_lock
from asr_emapl.distributed.process_group import ProcessGroup

with run_lock(Path(sys.argv[1]), ProcessGroup(0, 1, torch.device("cpu"))):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_when_its_process_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on"), run_lock(tmp_path, WORLD):
        pass
    assert json.loads((tmp_path / NAME).read_text())["pid"] == holder.pid
    holder.kill()
    holder.communicate()
    with run_lock(tmp_path, WORLD):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_forked_child_does_not_keep_it(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    with run_lock(tmp_path, WORLD):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        with pytest.raises(UserError, match="in use"), run_lock(tmp_path, WORLD):
            pass
    try:
        with run_lock(tmp_path, WORLD):
            pass
    finally:
        child.kill()
        child.join()


def test_what_it_created_goes_if_nothing_else_came(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path / "runs" / "a", WORLD):
            assert (tmp_path / "runs" / "a" / NAME).exists()
        assert list(tmp_path.iterdir()) == []
    with run_lock(tmp_path / "runs" / "a", WORLD):
        (tmp_path / "runs" / "a" / "log.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["log.jsonl"]


def test_a_lock_file_replaced_meanwhile_is_not_the_lock(tmp_path, monkeypatch):
    """The holder removes its file as it ends, between the other's opening it and locking it."""
    flock, calls = module.fcntl.flock, []

    def late(file, operation):
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / NAME).unlink()
        flock(file, operation)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with run_lock(tmp_path, WORLD):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert len(calls) == 2


def test_no_locks_on_this_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with run_lock(tmp_path, WORLD):
        pass
    assert "does not support locks (No locks available)" in caplog.text


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    run = tmp_path / "file" / "run"
    with pytest.raises(UserError, match=f"run_dir {run} cannot be written"), run_lock(run, WORLD):
        pass
