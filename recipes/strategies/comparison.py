"""Compare the systems that were trained: one table per amount of labelled audio and way to decode."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from asr_emapl.runs.reader import read_log
from asr_emapl.scoring.comparison import compare
from asr_emapl.scoring.tally import ScoringConfig
from asr_emapl.scoring.transcripts import read_transcripts, read_utterances
from asr_emapl.scoring.wer import score

WITH_LM = ".lm"
"""In the names of hypotheses that were decoded with the language model."""
DECODED = "decoded"
"""A file in the folder of a run all of whose parts are decoded."""
_LAST_HOURS = 0.5  # over which the WER of pseudo-labels is averaged


@dataclass(frozen=True)
class SystemRun:
    """A completed run of a system.

    Attributes:
        amount: labelled audio.
        folder: the run directory, with decoded parts.
        references: manifest of each part.
    """

    amount: str
    system: str
    seed: int
    folder: Path
    references: Mapping[str, str]

    def has(self, suffix: str) -> bool:
        """Whether all parts were decoded; `suffix`: of the names of the hypotheses."""
        return all(part + suffix in self.wer for part in self.references)

    def hypotheses(self, part: str) -> dict[str, str]:
        """Id -> text of the teacher; `part` may end in `WITH_LM`."""
        return read_transcripts(self.folder / f"{part}.jsonl", role="hypothesis")

    @cached_property
    def wer(self) -> dict[str, float]:
        """WER of the teacher in percent, by part; with `WITH_LM` after the name if it was decoded with it."""
        found = {}
        for part, manifest in self.references.items():
            for name in (part, part + WITH_LM):
                if (self.folder / f"{name}.jsonl").exists():
                    rate = score(read_transcripts(manifest), self.hypotheses(name)).words.rate
                    found[name] = 100.0 * rate
        return found

    @cached_property
    def student_wer(self) -> dict[str, float]:
        """WER of the student in percent, by part, at the end of training."""
        last = [r["wer"] for r in self._log if r["event"] == "validation"][-1]
        return {part: last[f"student/{part}"] for part in self.references}

    @cached_property
    def label_wer(self) -> float | None:
        """WER of the pseudo-labels in percent, over the last half hour of audio; None: not measured."""
        found = [r for r in self._log if r["event"] == "labels" and "label_wer" in r]
        last = [r["label_wer"] for r in found if r["hours"] > found[-1]["hours"] - _LAST_HOURS]
        return statistics.mean(last) if last else None

    @cached_property
    def collapsed(self) -> bool:
        """Whether its labels collapsed."""
        return any(record["event"] == "alarm" for record in self._log)

    @cached_property
    def processor_minutes(self) -> float:
        """Processor time of training, validations included."""
        return sum(json.loads((self.folder / "processor_seconds.json").read_text())) / 60.0

    @cached_property
    def _log(self) -> list[dict[str, Any]]:
        return read_log(self.folder / "log.jsonl")


class Table:
    """The completed runs of all systems.

    Args:
        titles: name -> title of a system, in the order of the rows.
        references: manifest of each part; the last one is the harder one.
        unit: of the amounts of labelled audio.
        standard: the system that the others are compared with.
    """

    def __init__(
        self,
        runs: Path,
        titles: Mapping[str, str],
        references: Mapping[str, str],
        unit: str,
        standard: str = "ema",
    ) -> None:
        self.titles, self.references, self.unit, self.standard = titles, references, unit, standard
        self.parts = list(references)
        self.runs: list[SystemRun] = []
        for marker in sorted(runs.glob(f"*/{DECODED}")):
            amount, _, rest = marker.parent.name.partition("-")
            system, _, seed = rest.rpartition("-seed")
            self.runs.append(SystemRun(amount, system, int(seed), marker.parent, references))

    @property
    def amounts(self) -> list[str]:
        """The amounts of labelled audio, ascending."""
        return sorted({run.amount for run in self.runs}, key=float)

    def print(self) -> None:
        """Print Markdown tables per amount of labelled audio, decoded without and with language model."""
        for amount in self.amounts:
            same = [run for run in self.runs if run.amount == amount]
            systems = {
                name: [r for r in same if r.system == name] for name in dict.fromkeys(("seed", *self.titles))
            }
            self._print_one(f"{amount} {self.unit} labelled", systems)
            with_lm = {name: [r for r in runs if r.has(WITH_LM)] for name, runs in systems.items()}
            if any(with_lm.values()):
                self._print_one(
                    f"{amount} {self.unit} labelled, decoded with the language model", with_lm, WITH_LM
                )

    def _print_one(self, title: str, systems: Mapping[str, Sequence[SystemRun]], suffix: str = "") -> None:
        columns = ["seeds", *self.parts, *(f"{part} - {self.standard} (95 %)" for part in self.parts)]
        columns += [f"gap closed {part}" for part in self.parts]
        if not suffix:
            columns += [*(f"student {part}" for part in self.parts), "label WER", "CPU min"]
        print(f"\n{title}\n")
        print(f"| system | {' | '.join(columns)} |")
        print("|---" * (1 + len(columns)) + "|")
        for name, runs in systems.items():
            if runs:
                cells = [*self._rates(runs, systems, suffix), *([] if suffix else self._training(runs))]
                print(f"| {self.titles.get(name, 'seed model')} | {' | '.join(cells)} |")

    def _rates(
        self, runs: Sequence[SystemRun], systems: Mapping[str, Sequence[SystemRun]], suffix: str
    ) -> list[str]:
        """Seeds, and what was decoded with the teacher; `suffix`: of the names of the hypotheses."""
        collapsed = sum(run.collapsed for run in runs)
        bounds = (systems["baseline"], systems["oracle"])
        return [
            f"{len(runs)}, {collapsed} collapsed" if collapsed else str(len(runs)),
            *(_spread([run.wer[part + suffix] for run in runs]) for part in self.parts),
            *(_difference(runs, systems.get(self.standard, []), part, suffix) for part in self.parts),
            *(_recovered(runs, *bounds, part + suffix) for part in self.parts),
        ]

    def _training(self, runs: Sequence[SystemRun]) -> list[str]:
        """The student, the labels and the processor time."""
        return [
            *(_spread([run.student_wer[part] for run in runs]) for part in self.parts),
            _spread([w for run in runs if (w := run.label_wer) is not None]),
            _spread([run.processor_minutes for run in runs]),
        ]


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    deviation = f" +-{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def _difference(runs: Sequence[SystemRun], standard: Sequence[SystemRun], part: str, suffix: str) -> str:
    """The difference in WER to the standard system over common seeds, with its interval by speaker.

    A star marks a significant one (`asr_emapl.scoring.comparison`).
    """
    pairs = [(a, b) for a in standard for b in runs if a.seed == b.seed and a.system != b.system]
    if not pairs:
        return "-"
    reference = read_utterances(runs[0].references[part])
    entries = _by_seed(pairs, lambda pair: reference)
    first = _by_seed(pairs, lambda pair: pair[0].hypotheses(part + suffix))
    second = _by_seed(pairs, lambda pair: pair[1].hypotheses(part + suffix))
    found = compare(entries, first, second, (standard[0].system, runs[0].system), ScoringConfig())
    interval = found.by_speaker or found.by_utterance
    text = f"{100 * found.difference:+.1f}"
    if interval is not None:
        text += f" ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
    return text + ("*" if found.is_significant else "")


_Pair = tuple[SystemRun, SystemRun]
_Value = TypeVar("_Value")


def _by_seed(pairs: Sequence[_Pair], values: Callable[[_Pair], Mapping[str, _Value]]) -> dict[str, _Value]:
    """The values of all pairs, with the seed in the id."""
    return {f"{pair[0].seed}/{id_}": value for pair in pairs for id_, value in values(pair).items()}


def _recovered(
    runs: Sequence[SystemRun],
    baseline: Sequence[SystemRun],
    oracle: Sequence[SystemRun],
    part: str,
) -> str:
    """The share of the gap between baseline and oracle that is closed, over common seeds."""
    seeds = set.intersection(*({run.seed for run in group} for group in (runs, baseline, oracle)))
    if not seeds:
        return "-"
    own, low, high = (
        statistics.mean(run.wer[part] for run in group if run.seed in seeds)
        for group in (runs, baseline, oracle)
    )
    return f"{100 * (low - own) / (low - high):.0f} %" if low > high else "-"
