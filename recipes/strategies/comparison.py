"""Compare the systems that were trained: one table per amount of labelled audio."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from asr_emapl.runs.reader import read_log
from asr_emapl.scoring.comparison import compare
from asr_emapl.scoring.tally import ScoringConfig
from asr_emapl.scoring.transcripts import read_transcripts, read_utterances
from asr_emapl.scoring.wer import score

PARTS = ("dev-clean", "dev-other")
STANDARD = "ema"
_COLUMNS = ("seeds", *PARTS, f"{PARTS[-1]} - ema (95 %)", "gap closed", "label WER", "CPU min")
_LAST_HOURS = 0.5  # over which the WER of pseudo-labels is averaged


@dataclass(frozen=True)
class SystemRun:
    """A completed run of a system.

    Attributes:
        minutes: labelled audio.
        folder: the run directory, with decoded parts.
    """

    minutes: int
    system: str
    seed: int
    folder: Path

    def hypotheses(self, part: str) -> dict[str, str]:
        """Id -> text of the teacher."""
        return read_transcripts(self.folder / f"{part}.jsonl", role="hypothesis")

    @cached_property
    def wer(self) -> dict[str, float]:
        """WER of the teacher in percent, by part."""
        return {
            part: 100.0 * score(read_transcripts(f"data/{part}.jsonl"), self.hypotheses(part)).words.rate
            for part in PARTS
        }

    @cached_property
    def label_wer(self) -> float | None:
        """WER of the pseudo-labels in percent, over the last half hour of audio; None: not measured."""
        found = [
            r for r in read_log(self.folder / "log.jsonl") if r["event"] == "labels" and "label_wer" in r
        ]
        last = [r["label_wer"] for r in found if r["hours"] > found[-1]["hours"] - _LAST_HOURS]
        return statistics.mean(last) if last else None

    @cached_property
    def collapsed(self) -> bool:
        """Whether its labels collapsed."""
        return any(record["event"] == "alarm" for record in read_log(self.folder / "log.jsonl"))

    @cached_property
    def processor_minutes(self) -> float:
        """Processor time of training, validations included."""
        return sum(json.loads((self.folder / "processor_seconds.json").read_text())) / 60.0


def completed(runs: Path) -> list[SystemRun]:
    """The runs of systems that were trained and decoded, by amount, system and seed."""
    found = []
    for marker in runs.glob(f"*/{PARTS[-1]}.jsonl"):
        minutes, _, rest = marker.parent.name.partition("-")
        system, _, seed = rest.rpartition("-seed")
        found.append(SystemRun(int(minutes), system, int(seed), marker.parent))
    return sorted(found, key=lambda run: (run.minutes, run.system, run.seed))


def print_tables(runs: Path, titles: Mapping[str, str]) -> None:
    """Print one Markdown table per amount of labelled audio.

    Args:
        titles: name -> title of a system, in the order of the rows.
    """
    found = completed(runs)
    for minutes in sorted({run.minutes for run in found}):
        same = [run for run in found if run.minutes == minutes]
        systems = {name: [r for r in same if r.system == name] for name in titles}
        print(f"\n{minutes} min labelled\n")
        print(f"| system | {' | '.join(_COLUMNS)} |")
        print("|---" * (1 + len(_COLUMNS)) + "|")
        for name, title in titles.items():
            if systems[name]:
                print(f"| {title} | " + " | ".join(_cells(systems[name], systems)) + " |")


def _cells(runs: Sequence[SystemRun], systems: Mapping[str, Sequence[SystemRun]]) -> list[str]:
    collapsed = sum(run.collapsed for run in runs)
    return [
        f"{len(runs)}, {collapsed} collapsed" if collapsed else str(len(runs)),
        *(_spread([run.wer[part] for run in runs]) for part in PARTS),
        _difference(runs, systems[STANDARD]),
        _recovered(runs, systems["baseline"], systems["oracle"]),
        _spread([w for run in runs if (w := run.label_wer) is not None]),
        _spread([run.processor_minutes for run in runs]),
    ]


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "-"
    deviation = f" +-{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def _difference(runs: Sequence[SystemRun], standard: Sequence[SystemRun], part: str = PARTS[-1]) -> str:
    """The difference in WER to the standard system over common seeds, with its interval by speaker.

    A star marks a significant one (`asr_emapl.scoring.comparison`).
    """
    pairs = [(a, b) for a in standard for b in runs if a.seed == b.seed and a.system != b.system]
    if not pairs:
        return "-"
    reference = read_utterances(f"data/{part}.jsonl")
    entries = _by_seed(pairs, lambda pair: reference)
    first = _by_seed(pairs, lambda pair: pair[0].hypotheses(part))
    second = _by_seed(pairs, lambda pair: pair[1].hypotheses(part))
    found = compare(entries, first, second, (STANDARD, runs[0].system), ScoringConfig())
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
    part: str = PARTS[-1],
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
