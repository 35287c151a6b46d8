"""Choose language model weight and word bonus by WER on held-out speech, over a grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.errors import UserError
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.scoring import score
from asr_emapl.storage import read_object, write

_KINDS: dict[str, type | tuple[type, ...]] = {
    "tokenizer": str,
    "beam": int,
    "lm": str,
    "lexicon": str,
    "lm_weight": (int, float),
    "word_bonus": (int, float),
}


@dataclass(frozen=True)
class GridPoint:
    """Two weights, and the WER (in %) with them."""

    lm_weight: float
    word_bonus: float
    wer: float


def grid(
    search: BeamSearch,
    log_probs: Mapping[str, Tensor],
    references: Mapping[str, str],
    weights: Sequence[float],
    bonuses: Sequence[float],
) -> Iterator[GridPoint]:
    """The WER for each pair of weights, in the order given.

    Args:
        log_probs: id -> float [T, V] in main memory.
        references: id -> text.
    """
    for bonus in bonuses:
        for weight in weights:
            weighted = search.weighted(weight, bonus)
            hypotheses = {id_: weighted.text(x_TV) for id_, x_TV in log_probs.items()}
            yield GridPoint(weight, bonus, 100.0 * score(references, hypotheses).words.rate)


def best(points: Sequence[GridPoint]) -> GridPoint:
    """The lowest WER; of equal ones, the smallest weight, then the bonus nearest 0."""
    return min(points, key=lambda p: (p.wer, p.lm_weight, abs(p.word_bonus)))


def write_config(path: Path, config: BeamConfig, point: GridPoint) -> None:
    """Write a search with its weights as JSON, for `read_config`; files are named by absolute paths.

    Raises:
        UserError: it cannot be written.
    """
    chosen = replace(config, lm_weight=point.lm_weight, word_bonus=point.word_bonus)
    content = asdict(chosen) | {"wer_percent": round(point.wer, 3)}
    for name in ("lm", "lexicon"):
        content[name] = str(Path(content[name]).absolute()) if content[name] else ""
    write(path, json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> BeamConfig:
    """What `write_config` wrote.

    Raises:
        UserError: it cannot be read, or is something else; a file that it names is absent.
    """
    content = read_object(path, "what asr-emapl tune-lm writes")
    wrong = [key for key, kind in _KINDS.items() if not isinstance(content.get(key), kind)]
    if wrong:
        raise UserError(f"{path}: not what asr-emapl tune-lm writes (no valid {wrong[0]!r})")
    values = {key: content[key] for key in _KINDS}
    return BeamConfig(**values)


def draw(points: Sequence[GridPoint], out: Path) -> None:
    """Draw the grid: WER over language model weight, a curve for each word bonus.

    Raises:
        UserError: `out` does not end in .png or .svg, or cannot be written.
    """
    check_ending(out)
    with new_figure(7.0, 4.4) as figure:
        axes = figure.subplots()
        for i, bonus in enumerate(dict.fromkeys(p.word_bonus for p in points)):
            curve = sorted((p.lm_weight, p.wer) for p in points if p.word_bonus == bonus)
            style = ("-", "--", ":")[i // len(COLOURS) % 3]
            axes.plot(
                *zip(*curve, strict=True),
                style,
                marker="o",
                color=COLOURS[i % len(COLOURS)],
                label=f"{bonus:g}",
            )
        chosen = best(points)
        axes.plot(chosen.lm_weight, chosen.wer, "o", markersize=14, fillstyle="none", color="black")
        axes.annotate(
            f"{chosen.wer:.2f}",
            (chosen.lm_weight, chosen.wer),
            (0, -18),
            textcoords="offset points",
            ha="center",
        )
        axes.set_xlabel("language model weight")
        axes.set_ylabel("WER (%)")
        axes.margins(y=0.15)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(title="word bonus", loc="outside right center", frameon=False)
        write_plot(figure, out)
