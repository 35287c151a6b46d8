"""Runs at several batches from one seed, and how far their curves leave that of the reference batch.

After section 3.3 of Busbridge et al., "How to Scale Your EMA" (pseudo-labels), and section 3.2 (averages of a
supervised run), at another scale and with another model.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TextIO

import torch
from distance import REFERENCE, compare, print_tables, spread
from picture import draw_scan

from asr_emapl.checkpoints.files import checkpoint_paths
from asr_emapl.checks.gradient_noise import summarise_noise
from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import read_log

# Points on each curve.
VALIDATIONS = 8

# Settings of a student with its teacher's pseudo-labels, and of a supervised one with its average.
SYSTEMS = {
    "ema": ("pseudo_labels.strategy=ema",),
    "supervised": ("pseudo_labels.strategy=none", "data.unlabelled=[]"),
}


@dataclass(frozen=True)
class Run:
    """One training run: what it is called, and what it changes in the config."""

    name: str
    overrides: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Its name without the seed: what is repeated."""
        return self.name.rpartition("-seed")[0]

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return Path("runs") / self.name


@dataclass(frozen=True)
class Scan:
    """All runs of a scan. `reference` is the config at kappa 1, `hours` the audio of a run after the seed.

    `seeds` counts the runs at kappa 1, `repeats` those of every other kind.
    """

    reference: RunConfig
    hours: float
    kappas: Sequence[float]
    seeds: int
    repeats: int = 1

    @property
    def start_hours(self) -> float:
        """Where the seed ends."""
        return self.reference.pseudo_labels.start_hours

    @property
    def longest(self) -> float:
        """Seconds of the longest utterance that fits every batch: all runs learn from the same ones."""
        smallest = min(1.0, *self.kappas) * self.reference.batch.reference_seconds
        return min(self.reference.data.max_seconds, self.reference.device.max_seconds, smallest)

    def half_life(self, kappa: float, scaled: bool) -> str:
        """The teacher's half-life: kept in audio, which is the rule, or in steps.

        A rho that stays as it was at kappa times the audio has kappa times the half-life.
        """
        seconds = self.reference.batch.reference_seconds
        hours = self.reference.teacher.half_life_seconds(seconds) / 3600.0
        return f"teacher.half_life_hours={hours * (1.0 if scaled else kappa)!r}"

    def seed(self) -> Run:
        """The supervised run that all others start from."""
        return Run("seed", (f"hours={self.start_hours!r}", *SYSTEMS["supervised"]))

    def references(self) -> Iterator[Run]:
        """Kappa 1, several seeds, with the noise of the gradient measured."""
        for system in SYSTEMS:
            for seed in range(self.seeds):
                noise = "optimizer.noise_every_steps=10"
                yield self._run(f"{system}-{REFERENCE}", system, 1.0, seed, noise)

    def others(self, noise_share: float) -> Iterator[Run]:
        """Every other kappa in every mode, and the progressive run; a whole scan before any repeat."""
        modes = {
            "full": (True, ()),
            "noise": (True, (f"optimizer.noise_share={noise_share!r}",)),
            "optimizer": (False, ()),
            "nothing": (False, ("optimizer.rule=none",)),
        }
        for seed, system in product(range(self.repeats), SYSTEMS):
            for kappa, (mode, (rho, more)) in product(self.kappas, modes.items()):
                yield self._run(f"{system}-{mode}-kappa{kappa:g}", system, kappa, seed, *more, rho_scaled=rho)
            if self._stages():
                progressive = f"batch.progressive={self._stages()}".replace(" ", "")
                yield self._run(f"{system}-progressive", system, 1.0, seed, progressive)

    def _stages(self) -> list[list[float]]:
        """From kappa 1 to the two largest kappas, in equal parts of the audio: [from hours, seconds]."""
        kappas = sorted(k for k in self.kappas if k > 1.0)[-2:]
        seconds, part = self.reference.batch.reference_seconds, self.hours / (len(kappas) + 1)
        return [[self.start_hours + (i + 1) * part, k * seconds] for i, k in enumerate(kappas)]

    def _run(
        self, kind: str, system: str, kappa: float, seed: int, *more: str, rho_scaled: bool = True
    ) -> Run:
        return Run(
            f"{kind}-seed{seed}",
            (
                f"seed={seed}",
                f"hours={self.start_hours + self.hours!r}",
                f"validation.every_hours={self.hours / VALIDATIONS!r}",
                *SYSTEMS[system],
                f"batch.seconds={kappa * self.reference.batch.reference_seconds!r}",
                "teacher.rho=null",
                self.half_life(kappa, rho_scaled),
                "batch.progressive=[]",
                f"data.max_seconds={self.longest!r}",
                f"init.checkpoint={newest(Path('runs/seed'))}",
                *more,
            ),
        )


def newest(run: Path) -> Path:
    """A run's last checkpoint."""
    return checkpoint_paths(run / "checkpoints")[-1]


class Devices:
    """What runs take turns on: the visible GPUs, one run each at a time; or the CPU's cores."""

    def __init__(self, workers: int) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        self.workers = workers or len(gpus) or torch.get_num_threads()
        self._free: queue.Queue[str] = queue.Queue()
        for i in range(self.workers):
            self._free.put(gpus[i % len(gpus)] if gpus else "")
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def stop(self, *_: object) -> None:
        """Have the running commands end, and start no other; a handler of signals."""
        self._is_stopped = True
        for process in list(self._running):
            process.terminate()

    def run(self, command: Sequence[str], log: TextIO) -> int:
        """Run a command on one of them, once there is one free; its exit status.

        Raises:
            UserError: the scan was stopped.
        """
        gpu = self._free.get()
        if shutil.which("setpriv"):
            # A trainer saves and ends when this process ends, however it does.
            command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        try:
            if self._is_stopped:
                raise UserError("stopped; rerun the same command to resume")
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            self._running.add(process)
            code = process.wait()
            self._running.discard(process)
            if self._is_stopped:
                raise UserError("stopped; rerun the same command to resume")
            return code
        finally:
            self._free.put(gpu)


def train(run: Run, devices: Devices, config: Path, overrides: Sequence[str]) -> None:
    """Train, or go on, or find that there is nothing to do; what it says goes to runs/NAME.log.

    Raises:
        UserError: it failed; with the last line of its log.
    """
    Path("runs").mkdir(exist_ok=True)
    log = run.folder.with_suffix(".log")
    constant = ("schedule.decay_from_hours=null", "checkpoint.keep=1", "device.threads=1")
    changes = (*constant, *overrides, *run.overrides, f"run_dir={run.folder}")
    command = [sys.executable, "-m", "asr_emapl", "train", "--config", str(config), *changes]
    # Repeats go on from the one seed run, with other seeds.
    command.append("--allow-changes")
    with log.open("a") as file:
        code = devices.run(command, file)
    if code:
        lines = log.read_text().splitlines() or ["no word of why"]
        raise UserError(f"run {run.name} failed: {lines[-1]}")
    print(f"{run.name}: done", flush=True)


def measured_noise(runs: Sequence[Run], config: RunConfig) -> float:
    """The share of noise in the gradient at the reference batch, from the runs with pseudo-labels."""
    seconds = config.batch.reference_seconds
    steps = [
        step for run in runs if run.name.startswith("ema") for step in read_log(run.folder / "log.jsonl")
    ]
    return summarise_noise(steps, seconds, seconds).share


def report(references: Sequence[Run], others: Sequence[Run]) -> None:
    """Each run against the references of its system, these against each other; a picture a system."""
    runs, seeds = [], []
    for system in SYSTEMS:
        base = [r.folder for r in references if r.kind.startswith(system)]
        seeds += spread(f"{system}-{REFERENCE}", base)
        kinds: dict[str, list[Path]] = {}
        for run in others:
            if run.kind.startswith(system):
                runs += compare(run.kind, run.folder, base)
                kinds.setdefault(run.kind.removeprefix(f"{system}-"), []).append(run.folder)
        draw_scan(base, kinds, Path(f"{system}.png"))
    print_tables(runs, seeds)


def main() -> None:
    """Train all, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--kappas", default="0.5,2,4,8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    config = load_config(chosen.config, chosen.overrides)
    kappas = [float(k) for k in chosen.kappas.split(",")]
    scan = Scan(config, chosen.hours, kappas, chosen.seeds, chosen.repeats)
    if chosen.seeds < 2 or chosen.repeats < 1:
        raise UserError("--seeds: 2 at least, for the spread; --repeats: 1 at least")
    if not scan.start_hours > 0.0:
        raise UserError("pseudo_labels.start_hours must be above 0: it is where the seed ends")
    devices = Devices(chosen.workers)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, devices.stop)

    def run_one(run: Run) -> None:
        train(run, devices, chosen.config, chosen.overrides)

    run_one(scan.seed())
    references = list(scan.references())
    with ThreadPoolExecutor(devices.workers) as pool:
        list(pool.map(run_one, references))
        share = measured_noise(references, config)
        print(f"noise is {share:.3f} of the gradient's mean square at the reference batch", flush=True)
        others = list(scan.others(share))
        list(pool.map(run_one, others))
    report(references, others)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
