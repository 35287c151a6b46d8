"""Train at several batch sizes from the same seed models, and compare the curves with those at kappa 1.

This follows section 3.3 of Busbridge et al., "How to Scale Your EMA" (pseudo-labels), and section 3.2
(averages of a supervised run), at another scale and with another model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from distance import REFERENCE, compare, print_tables
from parallel_runs import Devices, Run, newest
from picture import draw_scan
from scan_modes import MODES

from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.terminal import run_script

# Points on each curve.
VALIDATIONS = 8


@dataclass(frozen=True)
class Scan:
    """All runs of a scan.

    Attributes:
        reference: the config at kappa 1.
        hours: audio of each run after the seed model.
        seeds: number of runs of each kind; each seed has its own seed model.
        systems: ema: pseudo-labels; supervised: training on the transcripts of the unlabelled audio, so that
            the corpus is large compared with the largest batch.
    """

    reference: RunConfig
    hours: float
    kappas: Sequence[float]
    seeds: int
    systems: Sequence[str] = ("ema", "supervised")

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

    def seed_run(self, seed: int) -> Run:
        """The supervised run that all others of a seed start from."""
        settings = ("pseudo_labels.strategy=none", "data.unlabelled=[]", f"data.max_seconds={self.longest!r}")
        return Run(f"seed-seed{seed}", (f"seed={seed}", f"hours={self.start_hours!r}", *settings))

    def runs(self) -> Iterator[Run]:
        """All others, those of one seed after those of another."""
        for seed in range(self.seeds):
            for system in self.systems:
                yield self._run(f"{system}-{REFERENCE}", system, 1.0, seed)
                for kappa in self.kappas:
                    for mode, (rho, more) in MODES.items():
                        name = f"{system}-{mode}-kappa{kappa:g}"
                        yield self._run(name, system, kappa, seed, *more, rho_scaled=rho)
                if self._stages():
                    progressive = f"batch.progressive={self._stages()}".replace(" ", "")
                    yield self._run(f"{system}-progressive", system, 1.0, seed, progressive)

    def _stages(self) -> list[list[float]]:
        """Stages at the two largest kappas after kappa 1, with equal audio: [from hours, seconds]."""
        kappas = sorted(k for k in self.kappas if k > 1.0)[-2:]
        seconds, part = self.reference.batch.reference_seconds, self.hours / (len(kappas) + 1)
        return [[self.start_hours + (i + 1) * part, k * seconds] for i, k in enumerate(kappas)]

    def _settings(self, system: str) -> tuple[str, ...]:
        if system == "ema":
            return ("pseudo_labels.strategy=ema",)
        texts = ",".join(map(str, self.reference.data.unlabelled))
        return ("pseudo_labels.strategy=none", "data.unlabelled=[]", f"data.labelled=[{texts}]")

    def _run(
        self, kind: str, system: str, kappa: float, seed: int, *more: str, rho_scaled: bool = True
    ) -> Run:
        return Run(
            f"{kind}-seed{seed}",
            (
                f"seed={seed}",
                f"hours={self.start_hours + self.hours!r}",
                f"validation.every_hours={self.hours / VALIDATIONS!r}",
                *self._settings(system),
                f"batch.seconds={kappa * self.reference.batch.reference_seconds!r}",
                "teacher.rho=null",
                self.half_life(kappa, rho_scaled),
                "batch.progressive=[]",
                f"data.max_seconds={self.longest!r}",
                f"init.checkpoint={newest(self.seed_run(seed).folder)}",
                *more,
            ),
        )


def train(run: Run, devices: Devices, config: Path, overrides: Sequence[str]) -> None:
    """Start or resume a training run at a constant learning rate, with output to runs/NAME.log."""
    constant = ("schedule.decay_from_hours=null", "checkpoint.keep=1", "device.threads=1")
    devices.train(run, config, *constant, *overrides)


def report(scan: Scan) -> None:
    """Compare all runs with those at kappa 1 of the same seed, and plot one figure per system."""
    rows = []
    for system in scan.systems:
        kinds: dict[str, list[Path]] = {}
        for run in scan.runs():
            if run.kind.startswith(f"{system}-"):
                kinds.setdefault(run.kind.removeprefix(f"{system}-"), []).append(run.folder)
        base = kinds.pop(REFERENCE)
        rows += [
            row
            for kind, runs in {REFERENCE: base, **kinds}.items()
            for row in compare(system, kind, runs, base)
        ]
        draw_scan(base, kinds, Path(f"{system}.png"))
    print_tables(rows)


def main() -> None:
    """Train all runs and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--kappas", default="0.25,4,8")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--systems", default="ema,supervised")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="only check the options")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    config = load_config(chosen.config, chosen.overrides)
    kappas = [float(k) for k in chosen.kappas.split(",")]
    scan = Scan(config, chosen.hours, kappas, chosen.seeds, chosen.systems.split(","))
    if chosen.seeds < 2:
        raise UserError("--seeds must be at least 2, for the intervals")
    if not set(scan.systems) <= {"ema", "supervised"}:
        raise UserError(f"--systems {chosen.systems}: choose from ema and supervised")
    if not scan.start_hours > 0.0:
        raise UserError("pseudo_labels.start_hours must be above 0, because the seed run ends there")
    if chosen.check:
        return
    devices = Devices(chosen.workers)

    def run_one(run: Run) -> None:
        train(run, devices, chosen.config, chosen.overrides)

    with ThreadPoolExecutor(devices.workers) as pool:
        list(pool.map(run_one, [scan.seed_run(seed) for seed in range(scan.seeds)]))
        runs = list(scan.runs())
        for run in runs:
            run.start_again_if_trained_further(scan.seed_run(run.seed))
        list(pool.map(run_one, runs))
    report(scan)


if __name__ == "__main__":
    run_script(main)
