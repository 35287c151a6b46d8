"""Train the strategies of pseudo-labelling from the same seed model, on equal audio, and compare them.

Runs are named MINUTES-SYSTEM-seedN; the settings of systems are in systems.yaml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from comparison import print_tables
from parallel_runs import Devices, Run, newest
from picture import draw_strategies

from asr_emapl.config import RunConfig, load_config
from asr_emapl.data.manifest import read_manifest
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.errors import UserError

SYSTEMS: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "systems.yaml").read_text())
PARTS = ("dev-clean", "dev-other")
NGRAM_ORDER = 3
# The comparison includes runs whose labels collapse: log the collapse, do not stop.
_FOR_ALL = ("checkpoint.keep=1", "device.threads=1", "pseudo_labels.on_collapse=warn")


@dataclass(frozen=True)
class Comparison:
    """The runs of one amount of labelled audio and one seed.

    Attributes:
        reference: the quickstart's config with the overrides of the user.
        minutes: labelled audio.
        hours: audio of each run after the seed model.
        hypotheses: labels of another recogniser; "": there are none.
    """

    reference: RunConfig
    minutes: int
    seed: int
    hours: float
    hypotheses: str = ""

    @property
    def start(self) -> float:
        """Hours of the seed model."""
        return self.reference.pseudo_labels.start_hours

    @property
    def labelled(self) -> Path:
        """The manifest of labelled audio."""
        return Path(f"data/labelled-{self.minutes}.jsonl")

    @property
    def lm(self) -> Path:
        """The language model of the labelled transcripts."""
        return self.labelled.with_suffix(".arpa")

    @property
    def search(self) -> Path:
        """The weights of the language model, calibrated for the seed model."""
        return Path(f"runs/{self.minutes}-lm-seed{self.seed}.json")

    def seed_run(self) -> Run:
        """The supervised run that all systems start from."""
        return self._run("seed", f"hours={self.start!r}", *SYSTEMS["baseline"]["settings"])

    def run(self, system: str) -> Run:
        """A system, with the decay of the learning rate at the same part of it as in the quickstart."""
        values = {
            "start": self.start,
            "lm": self.search,
            "hypotheses": self.hypotheses,
            "hour": _After(self.start),
        }
        whole, decay = self.reference.hours - self.start, self.reference.schedule.decay_from_hours
        decay = self.start if decay is None else self.start + (decay - self.start) * self.hours / whole
        return self._run(
            system,
            f"hours={self.start + self.hours!r}",
            f"schedule.decay_from_hours={round(decay, 3)!r}",
            f"validation.every_hours={self.hours / 8!r}",
            f"init.checkpoint={newest(self.seed_run().folder)}",
            *(setting.format(**values) for setting in SYSTEMS[system]["settings"]),
        )

    def _run(self, system: str, *overrides: str) -> Run:
        data = f"data.labelled=[{self.labelled}]"
        return Run(f"{self.minutes}-{system}-seed{self.seed}", (f"seed={self.seed}", data, *overrides))


class _After:
    """Formats `{hour:H}` as the time H hours after the start."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __format__(self, hours: str) -> str:
        return f"{self.start + float(hours):g}"


def write_labelled(minutes: int, longest: int) -> None:
    """Write the manifest of `minutes` of labelled audio: the first utterances of each speaker.

    Args:
        longest: minutes of data/train-labelled.jsonl.
    """
    out = Path(f"data/labelled-{minutes}.jsonl")
    if out.exists():
        return
    utterances = read_manifest("data/train-labelled.jsonl")
    speakers = {u.speaker for u in utterances}
    limit, used, kept = 60.0 * minutes / len(speakers), dict.fromkeys(speakers, 0.0), []
    for utterance in utterances:
        if used[utterance.speaker] < limit or minutes == longest:
            kept.append(utterance)
            used[utterance.speaker] += utterance.duration
    write_manifest(out, kept)


class Work:
    """Trains, decodes and measures; completed work is not repeated."""

    def __init__(self, devices: Devices, config: Path, overrides: Sequence[str]) -> None:
        self.devices, self.config, self.overrides = devices, config, overrides

    def seed(self, comparison: Comparison) -> None:
        """Train the seed model, and calibrate a language model of the labelled transcripts for it."""
        run, lm, out = comparison.seed_run(), comparison.lm, comparison.search
        labelled = comparison.labelled
        if not lm.exists():
            self.emapl(run, "lm", "--text", labelled, "--order", NGRAM_ORDER, "--out", lm)
        if not out.exists():
            self.train(run)
            data = ("--manifest", "data/train-unlabelled.jsonl", "--transcripts", labelled)
            model = ("--checkpoint", run.folder, "--lm", lm, "--lexicon", lm)
            self.emapl(run, "calibrate-lm", *model, *data, "--out", out)

    def system(self, run: Run) -> None:
        """Train a system and decode both parts with its teacher."""
        pending = [part for part in PARTS if not (run.folder / f"{part}.jsonl").exists()]
        if pending:
            self.train(run)
        for part in pending:
            source = ("--checkpoint", run.folder, "--manifest", f"data/{part}.jsonl")
            self.emapl(run, "decode", *source, "--out", run.folder / f"{part}.jsonl")

    def train(self, run: Run) -> None:
        """Start or resume a training run."""
        self.devices.train(run, self.config, *_FOR_ALL, *self.overrides)

    def emapl(self, run: Run, *arguments: object) -> None:
        """Run a command for a run."""
        self.devices.emapl(arguments, run.log)


def train_all(work: Work, comparisons: Sequence[Comparison], systems: Sequence[str]) -> None:
    """Train seeds, then systems, each as soon as its seed is there."""
    with ThreadPoolExecutor(work.devices.workers) as pool:
        seeds = [pool.submit(work.seed, comparison) for comparison in comparisons]
        futures = list(seeds)
        for comparison, seed in zip(comparisons, seeds, strict=True):
            futures += [pool.submit(_after, seed, work, comparison, name) for name in systems]
        for future in futures:
            future.result()


def _after(seed: Future[None], work: Work, comparison: Comparison, system: str) -> None:
    seed.result()
    work.system(comparison.run(system))


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--minutes", default="4")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", default="")
    parser.add_argument("--external", default="")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("overrides", nargs="*")
    chosen = parser.parse_args()
    systems = _systems(chosen.systems, chosen.external)
    minutes = [int(m) for m in chosen.minutes.split(",")]
    config = load_config(chosen.config, chosen.overrides)
    comparisons = [
        Comparison(config, amount, seed, chosen.hours, chosen.external)
        for amount in minutes
        for seed in range(chosen.seeds)
    ]
    if not chosen.table:
        for amount in minutes:
            write_labelled(amount, 12)
        train_all(Work(Devices(chosen.workers), chosen.config, chosen.overrides), comparisons, systems)
    titles = {name: str(system["title"]) for name, system in SYSTEMS.items()}
    print_tables(Path("runs"), titles)
    draw_strategies(Path("runs"), titles, Path("strategies.png"))


def _systems(names: str, external: str) -> list[str]:
    """The systems that were asked for; without --external, all but `external`.

    Raises:
        UserError: there is no such system.
    """
    wanted = names.split(",") if names else [name for name in SYSTEMS if name != "external" or external]
    unknown = [name for name in wanted if name not in SYSTEMS]
    if unknown:
        raise UserError(f"--systems: unknown system {unknown[0]!r}; choose from {', '.join(SYSTEMS)}")
    if "external" in wanted and not external:
        raise UserError("system external requires --external, a file of hypotheses")
    return wanted


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
