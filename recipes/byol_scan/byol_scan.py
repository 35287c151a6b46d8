"""Train BYOL at several batch sizes, and compare the curves of loss and speaker probe with those at kappa 1.

This follows section 3.4 of Busbridge et al., "How to Scale Your EMA", at another scale and on speech.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from distance import REFERENCE, difference, interval
from parallel_runs import Devices, Run, newest
from scan_modes import MODES

from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.runs.curves import Curve
from asr_emapl.runs.reader import read_log
from asr_emapl.storage import write
from asr_emapl.terminal import run_script

# Points on each curve.
POINTS = 8
METRICS = ("loss", "speaker")


@dataclass(frozen=True)
class ByolScan:
    """All runs of a scan.

    Attributes:
        reference: the config at kappa 1, with teacher.rho.
        switch_share: share of the audio after which the progressive run goes to the next larger batch.
    """

    reference: RunConfig
    kappas: Sequence[float]
    seeds: int
    switch_share: float = 0.25

    def runs(self) -> Iterator[Run]:
        """All runs, those of one seed after those of another."""
        for seed in range(self.seeds):
            yield self._run(REFERENCE, 1.0, seed)
            for kappa in self.kappas:
                for mode, (is_scaled, more) in MODES.items():
                    unscaled = () if is_scaled else (f"teacher.half_life_factor={kappa!r}",)
                    yield self._run(f"{mode}-kappa{kappa:g}", kappa, seed, *more, *unscaled)
            larger = sorted(kappa for kappa in self.kappas if kappa > 1.0)
            if larger:
                seconds, hours = self.reference.batch.reference_seconds, self.reference.hours
                stages = [[(i + 1) * self.switch_share * hours, k * seconds] for i, k in enumerate(larger)]
                stages = [stage for stage in stages if stage[0] < hours]
                yield self._run("progressive", 1.0, seed, f"batch.progressive={stages}".replace(" ", ""))

    def _run(self, kind: str, kappa: float, seed: int, *more: str) -> Run:
        seconds = kappa * self.reference.batch.reference_seconds
        interval_hours = self.reference.hours / POINTS
        return Run(
            f"{kind}-seed{seed}",
            (
                f"seed={seed}",
                f"batch.seconds={seconds!r}",
                f"checkpoint.every_hours={interval_hours!r}",
                f"checkpoint.keep_every_hours={interval_hours!r}",
                *more,
            ),
        )


def loss_curve(run: Path, hours: float) -> Curve:
    """[(hours, mean loss)] in `POINTS` equal parts of the audio."""
    steps = [line for line in read_log(run / "log.jsonl") if line["event"] == "step"]
    at, loss = (np.array([step[name] for step in steps]) for name in ("hours", "loss"))
    part = np.minimum((at / hours * POINTS).astype(int), POINTS - 1)
    return [(hours * (i + 0.5) / POINTS, float(loss[part == i].mean())) for i in range(POINTS)]


def curves(run: Path, hours: float) -> dict[str, Curve]:
    """The curves of a trained and probed run, by metric."""
    return {"loss": loss_curve(run, hours), "speaker": json.loads((run / "probe.json").read_text())}


@dataclass(frozen=True)
class Row:
    """The runs of one kind, compared with those at kappa 1 of the same seeds.

    Attributes:
        end: value at the end, of each seed.
        last: difference at the end, of each seed.
        mean: difference, as the mean over the curve.
        distance: root mean square of the differences over the curve, mean over seeds.
    """

    kind: str
    metric: str
    end: list[float]
    last: list[float]
    mean: list[float]
    distance: float


def compare(runs: Mapping[str, list[dict[str, Curve]]]) -> list[Row]:
    """One row per kind and metric; `runs`: kind -> the curves of each seed."""
    rows = []
    for metric in METRICS:
        bases = [of[metric] for of in runs[REFERENCE]]
        for kind, seeds in runs.items():
            found = [of[metric] for of in seeds]
            apart = [difference(curve, base) for curve, base in zip(found, bases, strict=True)]
            rows.append(
                Row(
                    kind,
                    metric,
                    end=[curve[-1][1] for curve in found],
                    last=[float(points[-1]) for points in apart],
                    mean=[float(points.mean()) for points in apart],
                    distance=statistics.mean(float(np.sqrt(np.square(p).mean())) for p in apart),
                )
            )
    return rows


def print_tables(rows: Sequence[Row]) -> None:
    """Print one Markdown table per metric, and write all rows to distances.json."""
    for metric in METRICS:
        print(f"\n{metric}\n\n| run | at the end | end - kappa 1 | curve - kappa 1 | distance |")
        print("|---" * 5 + "|")
        for row in (row for row in rows if row.metric == metric):
            cells = [row.kind, f"{statistics.mean(row.end):.3f} +-{statistics.stdev(row.end):.3f}"]
            cells += ["-", "-"] if row.kind == REFERENCE else [interval(row.last), interval(row.mean)]
            print(f"| {' | '.join(cells)} | {row.distance:.3f} |")
    write("distances.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def train_and_probe(run: Run, devices: Devices, config: Path, overrides: Sequence[str]) -> None:
    """Start or resume a run; probe its checkpoints, unless that was done after the last one."""
    devices.train(run, config, "device.threads=1", *overrides)
    done, last = run.folder / "probe.json", newest(run.folder)
    if not done.exists() or done.stat().st_mtime < last.stat().st_mtime:
        program = Path(__file__).with_name("probe.py")
        with run.log.open("a") as log:
            devices.run([sys.executable, str(program), str(run.folder)], log, what="probe")


def main() -> None:
    """Train and probe all runs, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--kappas", default="0.25,4,16")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="only check the options")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    config = load_config(chosen.config, chosen.overrides)
    scan = ByolScan(config, [float(kappa) for kappa in chosen.kappas.split(",")], chosen.seeds)
    if chosen.seeds < 2:
        raise UserError("--seeds must be at least 2, for the intervals")
    if config.self_supervised.objective != "byol":
        raise UserError("self_supervised.objective must be byol")
    if chosen.check:
        return
    devices, runs = Devices(chosen.workers), list(scan.runs())
    with ThreadPoolExecutor(devices.workers) as pool:
        list(pool.map(lambda run: train_and_probe(run, devices, chosen.config, chosen.overrides), runs))
    found: dict[str, list[dict[str, Curve]]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(curves(run.folder, config.hours))
    print_tables(compare(found))


if __name__ == "__main__":
    run_script(main)
