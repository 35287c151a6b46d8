"""Train at several batch sizes from one seed model, and compare the curves with those at the reference batch.

This follows section 3.3 of Busbridge et al., "How to Scale Your EMA" (pseudo-labels), and section 3.2
(averages of a supervised run), at another scale and with another model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from distance import REFERENCE, compare, print_tables, spread
from parallel_runs import Devices, Run, newest
from picture import draw_scan

from asr_emapl.checks.gradient_noise import summarise_noise
from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import read_log

# Points on each curve.
VALIDATIONS = 8

# Settings of a run with the teacher's pseudo-labels, and of a supervised run with an average.
SYSTEMS = {
    "ema": ("pseudo_labels.strategy=ema",),
    "supervised": ("pseudo_labels.strategy=none", "data.unlabelled=[]"),
}


@dataclass(frozen=True)
class Scan:
    """All runs of a scan.

    Attributes:
        reference: the config at kappa 1.
        hours: audio of each run after the seed model.
        seeds: number of runs at kappa 1.
        repeats: number of runs of each other kind.
    """

    reference: RunConfig
    hours: float
    kappas: Sequence[float]
    seeds: int
    repeats: int = 1

    @property
    def start_hours(self) -> float:
        """Hours of the seed run."""
        return self.reference.pseudo_labels.start_hours

    @property
    def longest(self) -> float:
        """Longest utterance, in seconds, that fits in every batch, so that all runs use the same ones."""
        smallest = min(1.0, *self.kappas) * self.reference.batch.reference_seconds
        return min(self.reference.data.max_seconds, self.reference.device.max_seconds, smallest)

    def half_life(self, kappa: float, scaled: bool) -> str:
        """The override of the teacher's half-life.

        With the rule, it is constant in hours of audio. An unscaled rho has kappa times the half-life.
        """
        seconds = self.reference.batch.reference_seconds
        hours = self.reference.teacher.half_life_seconds(seconds) / 3600.0
        return f"teacher.half_life_hours={hours * (1.0 if scaled else kappa)!r}"

    def seed(self) -> Run:
        """The supervised run that all others start from."""
        return Run("seed", (f"hours={self.start_hours!r}", *SYSTEMS["supervised"]))

    def references(self) -> Iterator[Run]:
        """Runs at kappa 1 with several seeds, which measure the gradient noise."""
        for system in SYSTEMS:
            for seed in range(self.seeds):
                noise = "optimizer.noise_every_steps=10"
                yield self._run(f"{system}-{REFERENCE}", system, 1.0, seed, noise)

    def others(self, noise_share: float) -> Iterator[Run]:
        """Runs at each other kappa in each mode, and the progressive runs; repeats come last."""
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
        """Stages at the two largest kappas after kappa 1, with equal audio: [from hours, seconds]."""
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


def train(run: Run, devices: Devices, config: Path, overrides: Sequence[str]) -> None:
    """Start or resume a training run at a constant learning rate, with output to runs/NAME.log."""
    constant = ("schedule.decay_from_hours=null", "checkpoint.keep=1", "device.threads=1")
    devices.train(run, config, *constant, *overrides)


def measured_noise(runs: Sequence[Run], config: RunConfig) -> float:
    """The noise share of the gradient at the reference batch, from the runs with pseudo-labels."""
    seconds = config.batch.reference_seconds
    steps = [
        step for run in runs if run.name.startswith("ema") for step in read_log(run.folder / "log.jsonl")
    ]
    return summarise_noise(steps, seconds, seconds).share


def report(references: Sequence[Run], others: Sequence[Run]) -> None:
    """Compare all runs with the references of their system, and plot one figure per system."""
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
    """Train all runs and report."""
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
        raise UserError("--seeds must be at least 2 (for the spread), and --repeats at least 1")
    if not scan.start_hours > 0.0:
        raise UserError("pseudo_labels.start_hours must be above 0, because the seed run ends there")
    devices = Devices(chosen.workers)

    def run_one(run: Run) -> None:
        train(run, devices, chosen.config, chosen.overrides)

    run_one(scan.seed())
    references = list(scan.references())
    with ThreadPoolExecutor(devices.workers) as pool:
        list(pool.map(run_one, references))
        share = measured_noise(references, config)
        print(f"noise share of the gradient at the reference batch: {share:.3f}", flush=True)
        others = list(scan.others(share))
        list(pool.map(run_one, others))
    report(references, others)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
