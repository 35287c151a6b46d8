"""Choose language model weight and word bonus by WER on held-out speech, over a grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from asr_emapl.ctc import greedy
from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.errors import UserError
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.scoring import score
from asr_emapl.storage import read_object, write
from asr_emapl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class GridPoint:
    """The WER (in %) for one pair of weights."""

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
    """Yield the WER for each (language model weight, word bonus) pair; language model weights vary fastest.

    Args:
        log_probs: id -> float [T, V] on the CPU.
        references: id -> text.
    """
    for bonus in bonuses:
        for weight in weights:
            weighted = search.weighted(weight, bonus)
            hypotheses = {id_: weighted.text(x_TV) for id_, x_TV in log_probs.items()}
            yield GridPoint(weight, bonus, 100.0 * score(references, hypotheses).words.rate)


def greedy_wer(log_probs: Mapping[str, Tensor], references: Mapping[str, str], tokenizer: Tokenizer) -> float:
    """The WER in % without beam search; arguments as for `grid`."""
    hypotheses = {}
    for id_, x_TV in log_probs.items():
        (tokens,) = greedy(x_TV[None], torch.tensor([len(x_TV)])).to_lists()
        hypotheses[id_] = tokenizer.decode(tokens)
    return 100.0 * score(references, hypotheses).words.rate


def best(points: Sequence[GridPoint]) -> GridPoint:
    """Return the point with the lowest WER.

    Ties go to the smallest weight, then to the bonus closest to 0.
    """
    return min(points, key=lambda p: (p.wer, p.lm_weight, abs(p.word_bonus)))


def write_config(path: Path, config: BeamConfig, point: GridPoint) -> None:
    """Write a search and its weights as JSON, with absolute paths, for `read_config`.

    Raises:
        UserError: the file cannot be written.
    """
    chosen = replace(config, lm_weight=point.lm_weight, word_bonus=point.word_bonus)
    content = asdict(chosen) | {"wer_percent": round(point.wer, 3)}
    for name in ("lm", "lexicon"):
        content[name] = str(Path(content[name]).absolute()) if content[name] else ""
    write(path, json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> BeamConfig:
    """Read a beam search configuration written by `write_config`.

    Raises:
        UserError: the file cannot be read or is invalid, or a file it refers to is missing.
    """
    content = read_object(path, "the output of asr-emapl tune-lm")
    for setting in fields(BeamConfig):
        kinds = (int, float) if isinstance(setting.default, float) else type(setting.default)
        if not isinstance(content.get(setting.name), kinds):
            raise UserError(f"{path}: invalid {setting.name}; expected the output of asr-emapl tune-lm")
    return BeamConfig(**{setting.name: content[setting.name] for setting in fields(BeamConfig)})


def draw(points: Sequence[GridPoint], out: Path) -> None:
    """Plot the WER over the language model weight, one curve per word bonus.

    Raises:
        UserError: `out` does not end in .png or .svg, or cannot be written.
    """
    check_ending(out)
    with new_figure(7.0, 4.4) as figure:
        axes = figure.subplots()
        for i, bonus in enumerate(dict.fromkeys(p.word_bonus for p in points)):
            curve = sorted((p.lm_weight, p.wer) for p in points if p.word_bonus == bonus)
            style, colour = ("-", "--", ":")[i // len(COLOURS) % 3], COLOURS[i % len(COLOURS)]
            axes.plot(*zip(*curve, strict=True), style, marker="o", color=colour, label=f"{bonus:g}")
        chosen = best(points)
        place = chosen.lm_weight, chosen.wer
        axes.plot(*place, "o", markersize=14, fillstyle="none", color="black")
        axes.annotate(f"{chosen.wer:.2f}", place, (0, -18), textcoords="offset points", ha="center")
        axes.set_xlabel("language model weight")
        axes.set_ylabel("WER (%)")
        axes.margins(y=0.15)
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(title="word bonus", loc="outside right center", frameon=False)
        write_plot(figure, out)
