"""Several processes of which one is killed, hangs or fails: the run goes on, or says once why it does not."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny import make_corpus, write_tiny_config

QUICK = ("validation.every_hours=null", "checkpoint.best_by=null", "model.options.layerdrop=0.2")
EMA = ("pseudo_labels.strategy=ema", "pseudo_labels.start_hours=0.01")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    make_corpus(root)
    return root


class Launch:
    """torchrun on the tiny corpus, in the background, its output in a file."""

    def __init__(self, corpus: Path, run: Path, *overrides: str, torchrun: tuple[str, ...] = ()) -> None:
        self.run = run
        self.output = run.with_suffix(f".{time.monotonic_ns()}.out")
        command = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.1"]
        command += torchrun or ("--standalone", "--nproc-per-node", "2")
        command += ["--shutdown-timeout", "1", "-m", "asr_emapl", "train"]
        command += ["--config", str(write_tiny_config(corpus, *overrides)), f"run_dir={run}", *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)

    @property
    def text(self) -> str:
        return self.output.read_text()

    def workers(self) -> list[int]:
        """Process ids by rank."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        ranks = {}
        for pid in map(int, found.stdout.split()):
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
            except OSError:
                continue
            ranks.update({int(e[5:]): pid for e in environment if e.startswith("RANK=")})
        return [pid for _, pid in sorted(ranks.items())]

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 120
        while not what() and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert what(), self.text

    def end(self) -> int:
        try:
            return self.process.wait(timeout=240)
        finally:
            self.process.kill()


def steps(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "step"]


def saved(run: Path, count: int = 1) -> bool:
    return len(list((run / "checkpoints").glob("step-*.pt"))) >= count


def test_a_killed_process_costs_an_interval_and_changes_nothing(corpus, tmp_path):
    overrides = (*QUICK, *EMA, "hours=0.03")
    whole = Launch(corpus, tmp_path / "whole", *overrides)
    two = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    cut = Launch(corpus, tmp_path / "cut", *overrides, torchrun=two)
    cut.until(lambda: saved(cut.run, 2))
    os.kill(cut.workers()[1], signal.SIGKILL)
    assert cut.end() == 0, cut.text
    assert whole.end() == 0, whole.text
    starts = [line for line in cut.text.splitlines() if "teacher half-life" in line]
    assert len(starts) == 2
    assert "from 0.000 h" not in starts[1]
    assert (cut.run / "log.jsonl").read_text() == (whole.run / "log.jsonl").read_text()


def test_a_stopped_process_is_named_and_ends_the_run(corpus, tmp_path):
    launch = Launch(corpus, tmp_path / "run", *QUICK, "hours=100", "device.timeout_seconds=12")
    launch.until(lambda: saved(launch.run))
    pid = launch.workers()[1]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    launch.until(lambda: "error: " in launch.text)
    assert launch.end() != 0
    assert time.monotonic() - began < 60
    (line,) = [line for line in launch.text.splitlines() if line.startswith("error: ")]
    assert "no heartbeat from process 1" in line
    assert f"pid {pid}" in line
    assert "process 0" not in line
    assert "/asr_emapl/" not in launch.text  # no traceback but torchrun's own


DIES_ONCE = """
import os
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.process_group import DeviceConfig, ProcessGroup

world = ProcessGroup.join(DeviceConfig(name="cpu"))
with Heartbeat(world, 600.0):
    world.barrier()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and world.rank == 1:
        os._exit(3)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
        assert world.all_reduce_sum([1.0]) == [2.0]
        print("together", flush=True)
    world.barrier()
world.close()
"""


@pytest.mark.parametrize("meet", ["--standalone", "--master-port={}"])
def test_restarts_on_one_node_need_no_environment(tmp_path, free_port, meet):
    """Whichever way torchrun's processes meet: by default torchrun keeps what those before had told."""
    script = tmp_path / "dies_once.py"
    script.write_text(DIES_ONCE)
    command = [sys.executable, "-m", "torch.distributed.run", meet.format(free_port), "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}
    done = subprocess.run(
        [*command, "--max-restarts=1", "--monitor-interval=0.1", str(script)],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("together") == 2
    assert "warning" not in done.stdout


FAILS = """
import sys
from asr_emapl.errors import UserError
from asr_emapl.distributed.heartbeat import Heartbeat
from asr_emapl.distributed.process_group import DeviceConfig, ProcessGroup

world = ProcessGroup.join(DeviceConfig(name="cpu"))
try:
    with Heartbeat(world, 600.0):
        if world.rank == 1:
            raise UserError("the reason")
        world.barrier()
except UserError as error:
    sys.exit(f"error: {error}")
"""


def test_an_error_of_one_process_ends_all_with_one_line(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode != 0
    assert done.stderr.count("error: the reason") == 1
    assert 'fails.py", line' not in done.stderr  # no traceback but torchrun's own


@pytest.mark.slow
def test_an_agent_lost_leaves_a_smaller_world_and_the_same_teacher(corpus, tmp_path, free_port):
    """Two nodes of which one dies: batch and kappa shrink with batch.seconds=auto, the half-life stays."""
    meet = ("--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d")
    meet += ("--rdzv-endpoint", f"127.0.0.1:{free_port}", "--rdzv-id", "tiny")
    # Where the rendezvous lives is not the one to die: with it, all end, and the same command goes on.
    patience = "last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3,is_host="
    overrides = (*QUICK, "hours=0.06", "batch.seconds=auto", "device.max_seconds=6")
    first = Launch(corpus, tmp_path / "run", *overrides, torchrun=(*meet, "--rdzv-conf", f"{patience}1"))
    other = Launch(corpus, tmp_path / "run", *overrides, torchrun=(*meet, "--rdzv-conf", f"{patience}0"))
    first.until(lambda: saved(first.run, 2))
    for pid in (other.process.pid, *other.workers()):
        os.kill(pid, signal.SIGKILL)
    other.end()
    assert first.end() == 0, first.text
    assert "2 x cpu, batch 12 s, kappa 2" in first.text + other.text
    assert "1 x cpu, batch 6 s, kappa 1" in first.text
    seen, before = set(), 0.0
    for line in steps(first.run):
        seconds = 3600.0 * (line["hours"] - before)
        seen.add(seconds > 6.0)
        assert line["rho"] == pytest.approx(0.5 ** (seconds / (3600.0 * 0.005)), rel=1e-6)
        before = line["hours"]
    assert seen == {True, False}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(corpus, tmp_path):
    overrides = (*QUICK, *EMA, "hours=0.25")
    whole = Launch(corpus, tmp_path / "whole", *overrides)
    assert whole.end() == 0, whole.text
    draw, kills, reached = random.Random(0), 0, 0
    restarts = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "20")
    cut = Launch(corpus, tmp_path / "cut", *overrides, torchrun=restarts)
    while kills < 20:
        kills += 1
        cut.until(lambda: cut.text.count("teacher half-life") >= kills)  # noqa: B023
        time.sleep(draw.uniform(0.0, 0.4))
        newest = max((cut.run / "checkpoints").glob("step-*.pt"), default=None)
        os.kill(draw.choice(cut.workers()), signal.SIGKILL)
        # What is on the disk when a process dies is where the run goes on, or later.
        at = 0 if newest is None else int(newest.stem[5:])
        assert at >= reached
        reached = at
    assert cut.end() == 0, cut.text
    starts = [line for line in cut.text.splitlines() if "teacher half-life" in line]
    assert len(starts) == 21
    assert (cut.run / "log.jsonl").read_text() == (whole.run / "log.jsonl").read_text()


@pytest.mark.slow
def test_kills_and_other_world_sizes_leave_the_loss_over_audio(corpus, tmp_path):
    overrides = (*QUICK, "hours=0.06", "device.max_seconds=3")
    whole = Launch(corpus, tmp_path / "whole", *overrides)
    assert whole.end() == 0, whole.text
    draw = random.Random(1)
    for processes in (1, 2, 1, 3):
        launch = ("--standalone", "--nproc-per-node", str(processes))
        cut = Launch(corpus, tmp_path / "cut", *overrides, torchrun=launch)
        cut.until(lambda: "teacher half-life" in cut.text)  # noqa: B023
        time.sleep(draw.uniform(0.0, 0.3))
        os.kill(draw.choice(cut.workers()), signal.SIGKILL)
        assert cut.end() != 0
    last = Launch(corpus, tmp_path / "cut", *overrides)
    assert last.end() == 0, last.text
    mine, theirs = steps(cut.run), steps(whole.run)
    assert [line["hours"] for line in mine] == [line["hours"] for line in theirs]
    assert [line["loss"] for line in mine] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
