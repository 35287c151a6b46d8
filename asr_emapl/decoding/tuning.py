"""Weights of a beam search: by WER on transcribed speech or, without transcripts, by words per second."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from asr_emapl.ctc import greedy
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.errors import UserError
from asr_emapl.plotting import COLOURS, check_ending, new_figure, write_plot
from asr_emapl.scoring import score
from asr_emapl.storage import read_object, write
from asr_emapl.text.tokenizer import Tokenizer

MAX_BONUS = 32.0
"""Largest absolute word bonus, in nats, that `matching_bonus` tries."""

_WRITTEN_BY = "the output of asr-emapl tune-lm or calibrate-lm"
_BONUS_STEP = 1 / 16  # precision of the word bonus, in nats
MOST_SEARCHES = 3 + math.ceil(math.log2(MAX_BONUS / _BONUS_STEP))
"""Maximum number of word bonuses with which `matching_bonus` searches."""


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


@dataclass(frozen=True)
class WordRate:
    """Words per second of labelled speech, and how far other speech may be from it.

    Attributes:
        words_per_second: of all labelled utterances.
        tolerance: twice the standard error of the difference to the rate of the other speech.
    """

    words_per_second: float
    tolerance: float

    @staticmethod
    def of(labelled: Sequence[Utterance], others: Sequence[Utterance]) -> WordRate:
        """The rate of labelled utterances, which differs between speakers; `others` need no transcripts.

        If speakers are not known, each utterance counts as one of its own.
        """
        rates = [_words_per_second(part) for part in _by_speaker(labelled)]
        spread = statistics.stdev(rates) if len(rates) > 1 else rates[0]
        error = spread * math.sqrt(1.0 / len(rates) + 1.0 / len(_by_speaker(others)))
        return WordRate(_words_per_second(labelled), 2.0 * error)


def _by_speaker(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        found.setdefault(utterance.speaker or f"utterance {utterance.id}", []).append(utterance)
    return list(found.values())


def _words_per_second(utterances: Sequence[Utterance]) -> float:
    return sum(len((u.text or "").split()) for u in utterances) / sum(u.duration for u in utterances)


def matching_bonus(
    search: BeamSearch,
    log_probs: Sequence[Tensor],
    seconds: float,
    wanted: WordRate,
    advance: Callable[[], object] = lambda: None,
) -> tuple[float, float]:
    """The word bonus nearest to 0 at which the texts have as many words per second as labelled speech.

    A language model prefers short texts, so that its pseudo-labels lose words. Without transcripts, the rate
    of words in labelled speech of the same kind shows how many, up to a tolerance: the bonus changes the rate
    so little that the difference between speakers would otherwise decide on it. The words of the best text
    never decrease with the bonus, so the bonus is found by bisection between -MAX_BONUS and MAX_BONUS.

    Args:
        search: with the weight of the language model to use.
        log_probs: float [T, V] on the CPU, of each utterance.
        seconds: audio of the utterances in all.
        advance: called after each search with another bonus.

    Returns:
        The bonus in nats, and the words per second with it. They are the nearest that the search can reach.
    """

    def rate(bonus: float) -> float:
        weighted = search.weighted(search.config.lm_weight, bonus)
        words = sum(len(weighted.text(x_TV).split()) for x_TV in log_probs)
        advance()
        return words / seconds

    plain = rate(0.0)
    excess = plain - wanted.words_per_second
    if abs(excess) <= wanted.tolerance:
        return 0.0, plain
    target = wanted.words_per_second + math.copysign(wanted.tolerance, excess)
    low, high = (-MAX_BONUS, 0.0) if excess > 0.0 else (0.0, MAX_BONUS)
    while high - low > _BONUS_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < target else (low, middle)
    found = {bonus: rate(bonus) for bonus in (low, high)}
    chosen = min(found, key=lambda bonus: abs(found[bonus] - target))
    return chosen, found[chosen]


def write_config(path: Path, config: BeamConfig, **measured: float) -> None:
    """Write a search and its weights as JSON, with absolute paths, for `read_config`.

    Args:
        measured: what was measured with these weights, by name, for the reader of the file.

    Raises:
        UserError: the file cannot be written.
    """
    content = asdict(config) | {name: round(value, 3) for name, value in measured.items()}
    for name in ("lm", "lexicon"):
        content[name] = str(Path(content[name]).absolute()) if content[name] else ""
    write(path, json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> BeamConfig:
    """Read a beam search configuration written by `write_config`.

    Raises:
        UserError: the file cannot be read or is invalid, or a file it refers to is missing.
    """
    content = read_object(path, _WRITTEN_BY)
    for setting in fields(BeamConfig):
        kinds = (int, float) if isinstance(setting.default, float) else type(setting.default)
        if not isinstance(content.get(setting.name), kinds):
            raise UserError(f"{path}: invalid {setting.name}; expected {_WRITTEN_BY}")
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
