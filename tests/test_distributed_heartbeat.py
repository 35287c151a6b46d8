"""The heartbeat names the stalled or dead rank and ends the other processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed as dist

from asr_emapl.distributed import heartbeat as module
from asr_emapl.distributed.heartbeat import Heartbeat, RankStatus, diagnosis
from asr_emapl.distributed.process_group import ProcessGroup


def status(rank: int, beats: int = 9, progress: int = 5, is_waiting: bool = True) -> RankStatus:
    return RankStatus(beats, progress, is_waiting, f"process {rank}", f"training, step 3 (file.py:{rank})")


def told(now: dict[int, RankStatus], earlier_beats: int = 4) -> str:
    earlier = {rank: s._replace(beats=earlier_beats) for rank, s in now.items()}
    return diagnosis(earlier, now, 60.0, 3)


def test_one_that_no_longer_says_anything_is_named():
    text = told({0: status(0), 1: status(1, beats=4), 2: status(2)})
    assert text.startswith("no heartbeat from process 1 for 30 s")


def test_one_that_never_said_anything_is_named():
    assert told({0: status(0), 1: status(1)}).startswith("no heartbeat from process 2 ")


def test_one_that_is_behind_is_named_with_where_it_stands():
    text = told({0: status(0), 1: status(1), 2: status(2, progress=4, is_waiting=False)})
    assert text.endswith("other processes wait for process 2: training, step 3 (file.py:2)")
    assert "process 1" not in text


def test_of_several_at_the_same_point_the_one_that_does_not_wait():
    text = told({0: status(0), 1: status(1, is_waiting=False), 2: status(2)})
    assert text.endswith("other processes wait for process 1: training, step 3 (file.py:1)")


@pytest.mark.parametrize("waits", [False, True])
def test_where_none_stands_out_all_are_told(waits):
    text = told({rank: status(rank, is_waiting=waits) for rank in range(3)})
    assert text.startswith("no process made progress for 60 s")
    assert all(f"process {rank}" in text for rank in range(3))
    assert "\n" not in text


def test_a_process_alone_is_not_watched():
    watch = Heartbeat(ProcessGroup(0, 1, torch.device("cpu")), 0.01)
    with pytest.raises(KeyError), watch:
        raise KeyError


@pytest.fixture
def pair(monkeypatch):
    """Two processes' watches on one store, what ended them, and a clock to set."""
    store, ends, clock = dist.HashStore(), [], [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    watches = []
    for rank in range(2):
        watch = Heartbeat(ProcessGroup(rank, 2, torch.device("cpu")), 600.0)
        watch._store = store
        monkeypatch.setattr(
            watch, "_abort", lambda text, status, rank=rank: ends.append((rank, text, status))
        )
        watches.append(watch)
    return watches, ends, clock


def test_one_that_falls_silent_is_missed_long_before_the_timeout(pair):
    (first, second), ends, clock = pair
    for _ in range(3):
        first._beat()
        second._beat()
    for clock[0] in (30.0, 89.0):  # at 30 s the last beat is heard
        first._beat()
    assert ends == []
    clock[0] = 91.0
    first._beat()
    ((rank, text, status),) = ends
    assert (rank, status) == (0, 1)
    assert text.startswith("no heartbeat from process 1 (")
    assert "for 60 s" in text


def test_one_that_is_not_yet_there_is_not_missed(pair):
    (first, second), ends, clock = pair
    for clock[0] in (0.0, 100.0, 200.0):
        first._beat()
    second._beat()
    for clock[0] in (240.0, 250.0):
        first._beat()
    assert ends == []


@pytest.mark.parametrize(("device", "waits"), [("cpu", True), ("cuda", False)])
def test_a_backward_pass_waits_for_others_on_cpus_only(device, waits):
    watch = Heartbeat(ProcessGroup(0, 2, torch.device(device)), 60.0)
    statuses = []

    def look(gradient: torch.Tensor) -> None:
        thread = threading.Thread(target=lambda: statuses.append(watch._status()))
        thread.start()
        thread.join()

    y = 2.0 * torch.ones(1, requires_grad=True)
    y.register_hook(look)
    torch.autograd.backward(y)
    assert statuses[0].is_waiting is waits


# One of two processes that met, and what becomes of them; "cuda" stands for NCCL, which is not used. Whoever
# comes as far as to leave the others waits for ever.
LEAVING = """
import sys, time, torch
from asr_emapl.terminal import print_log
from asr_emapl.errors import UserError
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.process_group import ProcessGroup
what, rank = sys.argv[1], int(sys.argv[2])
print_log()
try:
    with Heartbeat(ProcessGroup(rank, 2, torch.device("cuda")), 60.0) as watch:
        watch.before_exit = lambda: print("saved", flush=True)
        if rank == 1 and what == "mend":
            raise UserError("mend this")
        if rank == 1 and what == "memory":
            raise MemoryError("CUDA out of memory")
        if rank == 0 and what == "store":
            import os
            os._exit(7)
        time.sleep(600)
finally:
    time.sleep(600)
"""


def leave(what: str) -> list[tuple[int, str, str]]:
    """Status, output and errors of both processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LEAVING, what, str(rank)],
            env=environment | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]


def test_on_gpus_an_error_is_told_and_no_process_parts_from_the_others_in_peace():
    (other, _, silent), (status, saved, told) = leave("mend")
    assert (status, told) == (2, "[rank 1] error: mend this\n")
    assert saved == "saved\n"
    assert (other, silent) == (2, "")


def test_on_gpus_an_error_of_the_program_comes_with_its_place():
    (other, _, silent), (status, _, told) = leave("memory")
    assert status == 1
    assert told.startswith("Traceback")
    assert told.endswith("MemoryError: CUDA out of memory\n")
    assert (other, silent) == (2, "")


def test_the_end_of_the_process_where_all_had_met_ends_the_others():
    (first, _, _), (status, _, told) = leave("store")
    assert (first, status) == (7, 1)
    assert "error: the process with the rendezvous store" in told.splitlines()[-1]
