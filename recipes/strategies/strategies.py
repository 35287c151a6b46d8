"""Train the strategies of pseudo-labelling from the same seed model, on equal audio, and compare them.

For each amount A of labelled audio, the working directory has data/labelled-A.jsonl, and also
data/unlabelled-A.jsonl unless the config names the unlabelled audio. Runs are named A-SYSTEM-seedN.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from comparison import DECODED, WITH_LM, Table
from parallel_runs import Devices, Run, newest
from picture import draw_strategies

from asr_emapl.config import RunConfig, load_config
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import read_run_config
from asr_emapl.terminal import run_script

NGRAM_ORDER = 3
BASELINE = ("pseudo_labels.strategy=none", "data.unlabelled=[]")
_TUNING_GRID = ("--weights", "0.75,1,1.25,1.5", "--bonuses", "0,1,2,4")
# The comparison includes runs whose labels collapse: log the collapse, do not stop.
_FOR_ALL = ("checkpoint.keep=1", "device.threads=1", "pseudo_labels.on_collapse=warn")


@dataclass(frozen=True)
class Comparison:
    """The runs of one amount of labelled audio and one seed.

    Attributes:
        reference: the config with the overrides of the user.
        systems: settings of each system; "seed": those of the seed model, besides those of a supervised run.
        amount: labelled audio, as in the names of the manifests.
        hours: audio of each run after the seed model.
        given_lm: language model; None: one of the labelled transcripts.
        tuning: transcribed audio for the weights of the language model; None: they are calibrated without.
        hypotheses: labels of another recogniser; "": there are none.
        validations: number of them in each run after the seed model.
    """

    reference: RunConfig
    systems: Mapping[str, Mapping[str, Any]]
    amount: str
    seed: int
    hours: float
    given_lm: Path | None = None
    tuning: Path | None = None
    hypotheses: str = ""
    validations: int = 8

    @property
    def start(self) -> float:
        """Hours of the seed model."""
        return self.reference.pseudo_labels.start_hours

    @property
    def labelled(self) -> Path:
        """The manifest of labelled audio."""
        return Path(f"data/labelled-{self.amount}.jsonl")

    @property
    def unlabelled(self) -> list[str]:
        """The manifests of unlabelled audio."""
        own = Path(f"data/unlabelled-{self.amount}.jsonl")
        return [str(own)] if own.exists() else self.reference.data.unlabelled

    @property
    def lm(self) -> Path:
        """The language model of the systems that use one."""
        return self.given_lm or self.labelled.with_suffix(".arpa")

    @property
    def search(self) -> Path:
        """The weights of the language model for the seed model."""
        return Path(f"runs/{self.amount}-lm-seed{self.seed}.json")

    def seed_run(self) -> Run:
        """The supervised run that all systems start from."""
        own = self.systems.get("seed", {}).get("settings", ())
        return self._run("seed", f"hours={self.start!r}", *BASELINE, *own)

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
            f"validation.every_hours={self.hours / self.validations!r}",
            f"init.checkpoint={newest(self.seed_run().folder)}",
            f"data.unlabelled=[{','.join(self.unlabelled)}]",
            *(setting.format(**values) for setting in self.systems[system]["settings"]),
        )

    def _run(self, system: str, *overrides: str) -> Run:
        data = f"data.labelled=[{self.labelled}]"
        return Run(f"{self.amount}-{system}-seed{self.seed}", (f"seed={self.seed}", data, *overrides))


class _After:
    """Formats `{hour:H}` as the time H hours after the start."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __format__(self, hours: str) -> str:
        return f"{self.start + float(hours):g}"


class Work:
    """Trains, decodes and measures; completed work is not repeated.

    Args:
        validation: name -> manifest of the parts to decode.
        with_lm: also decode with the language model.
    """

    def __init__(
        self,
        devices: Devices,
        config: Path,
        overrides: Sequence[str],
        validation: Mapping[str, str],
        *,
        with_lm: bool,
    ) -> None:
        self.devices, self.config, self.overrides = devices, config, overrides
        self.validation, self.with_lm = validation, with_lm

    def seed(self, comparison: Comparison) -> None:
        """Train the seed model, and choose the weights of the language model for it."""
        run, lm, out = comparison.seed_run(), comparison.lm, comparison.search
        if not lm.exists():
            self.emapl(run, "lm", "--text", comparison.labelled, "--order", NGRAM_ORDER, "--out", lm)
        trained = read_run_config(run.folder) or {}
        if not out.exists() or trained.get("hours") != comparison.start:
            self.train(run)
            self._forget_decoded(run)
            out.unlink(missing_ok=True)
            self.weigh_lm(run, comparison, out)
        self.decode(run, comparison, out)

    def system(self, comparison: Comparison, system: str) -> None:
        """Train a system from its seed model and decode all parts with its teacher."""
        run = comparison.run(system)
        run.start_again_if_trained_further(comparison.seed_run())
        if not (run.folder / DECODED).exists():
            self.train(run)
        self.decode(run, comparison, run.folder / "lm.json")

    def decode(self, run: Run, comparison: Comparison, search: Path) -> None:
        """Decode all parts with the newest teacher of a run; `search`: its weights of the language model."""
        for part, manifest in self.validation.items():
            source = ("--checkpoint", run.folder, "--manifest", manifest)
            for name, options in (("", ()), (WITH_LM, ("--lm-config", search))):
                out = run.folder / f"{part}{name}.jsonl"
                if out.exists() or (name and not self.with_lm):
                    continue
                if name and not search.exists():
                    self.weigh_lm(run, comparison, search)
                self.emapl(run, "decode", *source, *options, "--out", out)
        (run.folder / DECODED).touch()

    def weigh_lm(self, run: Run, comparison: Comparison, out: Path) -> None:
        """Choose the weights of the language model for the newest teacher of a run.

        They are tuned on held-out transcripts; without, the word bonus is calibrated on unlabelled audio.
        """
        model = ("--checkpoint", run.folder, "--lm", comparison.lm, "--lexicon", comparison.lm, "--out", out)
        if comparison.tuning is not None:
            self.emapl(run, "tune-lm", *model, "--manifest", comparison.tuning, *_TUNING_GRID)
        else:
            data = ("--manifest", comparison.unlabelled[0], "--transcripts", comparison.labelled)
            self.emapl(run, "calibrate-lm", *model, *data)

    def _forget_decoded(self, run: Run) -> None:
        """Remove what an earlier checkpoint of a run decoded."""
        for path in [DECODED, *(f"{part}{name}.jsonl" for part in self.validation for name in ("", WITH_LM))]:
            (run.folder / path).unlink(missing_ok=True)

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
    work.system(comparison, system)


def main() -> None:
    """Train what is missing and print the tables."""
    chosen = _arguments()
    systems: dict[str, dict[str, Any]] = yaml.safe_load(chosen.systems_file.read_text())
    names = _chosen(chosen.systems, systems, chosen.external)
    config = load_config(chosen.config, chosen.overrides)
    if chosen.check:
        return
    if not chosen.table:
        comparisons = [
            Comparison(
                config,
                systems,
                amount,
                seed,
                chosen.hours,
                given_lm=chosen.lm,
                tuning=chosen.tuning,
                hypotheses=chosen.external,
                validations=chosen.validations,
            )
            for seed in range(chosen.seeds)
            for amount in chosen.amounts.split(",")
        ]
        devices, parts = Devices(chosen.workers), config.data.validation
        work = Work(devices, chosen.config, chosen.overrides, parts, with_lm=chosen.decode_with_lm)
        train_all(work, comparisons, names)
    titles = {name: str(system["title"]) for name, system in systems.items()}
    table = Table(Path("runs"), titles, config.data.validation, chosen.unit, chosen.standard)
    table.print()
    draw_strategies(table, Path("strategies.png"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--systems-file", type=Path, default=Path(__file__).parent / "systems.yaml")
    parser.add_argument("--amounts", required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--standard", default="ema")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", default="")
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--tuning", type=Path, help="transcribed audio for the weights of the language model")
    parser.add_argument("--external", default="")
    parser.add_argument("--decode-with-lm", action="store_true")
    parser.add_argument("--validations", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--check", action="store_true", help="only check the options")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


def _chosen(names: str, systems: Mapping[str, object], external: str) -> list[str]:
    """The systems that were asked for; without --external, all but `external`.

    Raises:
        UserError: there is no such system.
    """
    known = [name for name in systems if name != "seed"]
    wanted = names.split(",") if names else [name for name in known if name != "external" or external]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise UserError(f"--systems: unknown system {unknown[0]!r}; choose from {', '.join(known)}")
    if "external" in wanted and not external:
        raise UserError("system external requires --external, a file of hypotheses")
    return wanted


if __name__ == "__main__":
    run_script(main)
