"""Training runs in parallel, one per core or GPU, for recipes that compare many of them."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from asr_emapl.checkpoints.files import checkpoint_paths
from asr_emapl.checkpoints.origin import set_aside
from asr_emapl.errors import UserError
from asr_emapl.progress import LINE_EVERY_S

_TAIL_BYTES = 2000  # of the output of a command, which have its last line


@dataclass(frozen=True)
class Run:
    """One training run: its name, and its overrides of the config."""

    name: str
    overrides: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The name without the seed; repeats have the same kind."""
        return self.name.rpartition("-seed")[0]

    @property
    def seed(self) -> int:
        """The seed, the number at the end of the name."""
        return int(self.name.rpartition("-seed")[2])

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path("runs") / self.name

    def add_time(self, seconds: float) -> None:
        """Add the processor time of a start to processor_seconds.json, a list."""
        times = self.folder / "processor_seconds.json"
        earlier = json.loads(times.read_text()) if times.exists() else []
        self.folder.mkdir(parents=True, exist_ok=True)
        times.write_text(json.dumps([*earlier, round(seconds, 1)]) + "\n")

    def start_again_if_trained_further(self, seed: Run) -> None:
        """Move the run to runs/earlier/ if `seed` has another checkpoint since this run started from it."""
        place = set_aside(self.folder, seed.folder)
        if place is not None:
            print(f"{self.name}: starts again from {seed.name}; the earlier run is in {place}", flush=True)

    @property
    def log(self) -> Path:
        """What its commands print."""
        return self.folder.with_name(f"{self.name}.log")


class Devices:
    """The devices that runs share: visible GPUs, or CPU cores.

    SIGTERM, SIGINT and SIGUSR1 are passed on to the running commands, and no others are started.

    Args:
        workers: number of commands in parallel; 0: one per GPU, or one per core.
    """

    def __init__(self, workers: int) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        self.workers = workers or len(gpus) or torch.get_num_threads()
        self._free: queue.Queue[str] = queue.Queue()
        for i in range(self.workers):
            self._free.put(gpus[i % len(gpus)] if gpus else "")
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self._is_stopped = True
        for process in list(self._running):
            process.terminate()

    def run(
        self,
        command: Sequence[str],
        log: TextIO,
        used: Callable[[float], None] | None = None,
        what: str = "command",
    ) -> None:
        """Run a command as soon as a device is free, and print its progress: the last lines of its output.

        Args:
            log: file for its output.
            used: called with the processor time in seconds, also if the command failed or was stopped.
            what: short name of the command for messages, for example "train".

        Raises:
            UserError: the command failed, or the recipe was stopped.
        """
        gpu = self._free.get()
        if shutil.which("setpriv"):
            # Training saves and stops if this process dies for any reason.
            command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        try:
            self._require_running()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self._running.add(process)
            print(f"{Path(log.name).stem}: {what} started (output: {log.name})", flush=True)
            with _last_lines(Path(log.name)):
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self._running.discard(process)
            if used is not None:
                used(usage.ru_utime + usage.ru_stime)
            self._require_running()
        finally:
            self._free.put(gpu)
        if process.returncode:
            lines = Path(log.name).read_text().splitlines() or ["its log is empty"]
            raise UserError(f"{Path(log.name).stem} failed: {lines[-1]}")

    def _require_running(self) -> None:
        if self._is_stopped:
            raise UserError("stopped; rerun the same command to resume")

    def emapl(
        self, arguments: Sequence[object], log: Path, used: Callable[[float], None] | None = None
    ) -> None:
        """Run an asr-emapl command with its output appended to a file; see `run`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            self.run([sys.executable, "-m", "asr_emapl", *map(str, arguments)], file, used, str(arguments[0]))

    def train(self, run: Run, config: Path, *overrides: str) -> None:
        """Start or resume a training run; see `run`. Adds its processor time to RUN/processor_seconds.json.

        Args:
            overrides: for all runs; those of the run have priority.
        """
        changes = (*overrides, *run.overrides, f"run_dir={run.folder}")
        # A run can start from a seed model that was trained on other data.
        allow = () if checkpoint_paths(run.folder / "checkpoints") else ("--allow-changes",)
        self.emapl(["train", "--config", config, *changes, *allow], run.log, run.add_time)
        print(f"{run.name}: trained", flush=True)


@contextmanager
def _last_lines(log: Path) -> Iterator[None]:
    """Print the last line of a growing file now and then, with the name of the file."""
    ended = threading.Event()

    def show() -> None:
        shown = log.stat().st_size
        while not ended.wait(LINE_EVERY_S):
            if log.stat().st_size > shown:
                shown = log.stat().st_size
                print(f"{log.stem}: {_last_line(log)}", flush=True)

    thread = threading.Thread(target=show, name=log.stem, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def newest(run: Path) -> Path:
    """The newest checkpoint of a run."""
    return checkpoint_paths(run / "checkpoints")[-1]
