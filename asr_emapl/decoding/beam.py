"""CTC beam search with an optional n-gram language model and lexicon. Texts have Viterbi scores.

With a lexicon, texts are sequences of lexicon words in any tokenization, and the language model is
word-level. Without one, any text is possible, and the language model is token-level (characters or subwords).

Axes: T frames, V labels (including the CTC blank), H hypotheses, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_emapl.decoding.automaton import NONE, ROOT, Automaton, Floats, FreeText, Integers, LexiconTree
from asr_emapl.decoding.lexicon import read_words, spellable
from asr_emapl.decoding.ngram import NgramModel
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import BLANK, SENTENCEPIECE_SPACE, Tokenizer

MAX_BEAM = 10_000
"""Maximum beam size. The cost per frame is proportional to beam size times number of labels."""

MAX_WEIGHT = 1_000_000
"""Maximum language model weight, and maximum absolute word bonus in nats."""

_LN_10 = math.log(10.0)  # KenLM's logarithms have base 10


@dataclass(frozen=True)
class BeamConfig:
    """Beam search settings; see `BeamSearch` for the scoring function.

    Attributes:
        beam: number of hypotheses kept per frame, 1 to `MAX_BEAM`.
        lm: language model file; "": none.
        lexicon: file with the allowed words, as `read_words` reads it; "": any text.
        lm_weight: weight of the language model, 0 to `MAX_WEIGHT`.
        word_bonus: added for each word, in nats, at most `MAX_WEIGHT`; negative: a penalty.
        tokenizer: fingerprint of the tokenizer for which the weights were tuned, or "" if unknown.

    Raises:
        UserError: a value is out of range, or a file is missing.
    """

    beam: int = 100
    lm: str = ""
    lexicon: str = ""
    lm_weight: float = 1.0
    word_bonus: float = 0.0
    tokenizer: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= MAX_BEAM:
            raise UserError(f"beam size {self.beam} is out of range; use 1 to {MAX_BEAM:,}, for example 100")
        if not 0.0 <= self.lm_weight <= MAX_WEIGHT:
            raise UserError(
                f"language model weight {self.lm_weight:g} is out of range; use 0 to {MAX_WEIGHT:,}"
            )
        if not abs(self.word_bonus) <= MAX_WEIGHT:
            raise UserError(
                f"word bonus {self.word_bonus:g} is out of range; use {-MAX_WEIGHT:,} to {MAX_WEIGHT:,}"
            )
        for name in ("lm", "lexicon"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                what = "not a regular file" if Path(path).exists() else "no such file"
                raise UserError(f"--{name} {path}: {what}")


@dataclass(frozen=True)
class _Hypotheses:
    """Partial hypotheses, one per node, context and last label. Each attribute has shape [H].

    Attributes:
        scores: higher is better.
        nodes: nodes of the automaton.
        contexts: contexts of the language model.
        labels: labels of the last frame.
        parents: rows in the hypotheses of the previous frame.
    """

    scores: Floats
    nodes: Integers
    contexts: Integers
    labels: Integers
    parents: Integers

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def columns(self) -> tuple[Any, ...]:
        return self.scores, self.nodes, self.contexts, self.labels, self.parents

    def select(self, rows: np.ndarray[Any, Any]) -> _Hypotheses:
        """The hypotheses with the given indices, in the given order."""
        return _Hypotheses(*(column[rows] for column in self.columns))

    def advance(self, rows: Integers, labels: Integers, frame: Floats) -> _Hypotheses:
        """Extend hypotheses `rows` [C] by labels [C] of the next frame [V], keeping node and context."""
        scores = self.scores[rows] + frame[labels]
        return _Hypotheses(scores, self.nodes[rows], self.contexts[rows], labels, rows)

    def new_label(self, rows: Integers, labels: Integers, frame: Floats, cutoffs: Floats) -> _Hypotheses:
        """Extend hypotheses `rows` by all labels but their last one; keep scores of at least `cutoffs`."""
        scores = self.scores[rows, None] + frame[labels]
        at, columns = np.nonzero(scores >= cutoffs[:, None])
        rows, labels = rows[at], labels[columns]
        is_new = self.labels[rows] != labels
        return self.advance(rows[is_new], labels[is_new], frame)

    def merge(self, nodes: int, labels: int) -> _Hypotheses:
        """Keep the best hypothesis per (node, context, last label) and remove impossible ones.

        Args:
            nodes: number of nodes of the automaton.
            labels: number of labels.
        """
        keys = (self.contexts * nodes + self.nodes) * labels + self.labels
        order = np.lexsort((-self.scores, keys))  # by key, the best first
        order = order[self.scores[order] > -np.inf]
        keys = keys[order]
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        return self.select(order[is_first])

    def best(self, count: int) -> _Hypotheses:
        """The `count` hypotheses with the highest scores."""
        return self if len(self) <= count else self.select(np.argpartition(-self.scores, count)[:count])


def _concatenate(*parts: _Hypotheses) -> _Hypotheses:
    return _Hypotheses(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))


class BeamSearch:
    """Beam search for one tokenizer. The constructor reads the language model.

    It maximises, over all CTC paths (one label per frame) and therefore over all texts,

        log p(path) + lm_weight * ln p_LM(text) + word_bonus * words(text)

    log p(path) is the sum of the frames' log-probabilities: the score of a text is that of its best path, not
    the sum over its paths. The language model scores each unit once, starting from the beginning of the
    sentence, and then the end of the sentence. With a lexicon, the units are the words, and spaces are not
    scored by the language model. Without one, the units are the labels of the collapsed path, including
    spaces at the beginning. words(text) counts the words of the text.

    The search is exact as long as the beam is never full. Otherwise it keeps the best hypotheses of each
    frame; an unfinished word contributes the best unigram score of the words it can still become
    (look-ahead).

    Attributes:
        unspellable: words of the lexicon that the tokenizer cannot encode; they are never produced.
        words: number of the lexicon's other words; 0 without a lexicon.
        unknown: words (without a lexicon: tokens) that the language model does not know.

    Raises:
        UserError: KenLM is not installed; a file is invalid; language model, lexicon and tokenizer do not
            match.
    """

    def __init__(self, tokenizer: Tokenizer, config: BeamConfig) -> None:
        if config.tokenizer and config.tokenizer != tokenizer.fingerprint:
            raise UserError(
                f"the weights were chosen with another tokenizer ({config.tokenizer[:12]}..., the model has "
                f"{tokenizer.fingerprint[:12]}...); run tune-lm with this model"
            )
        self.config = config
        self._tokenizer = tokenizer
        surfaces = tokenizer.surfaces
        self.unspellable: list[str] = []
        self.unknown: list[str] = []
        self.words = 0
        if config.lexicon:
            units, self.unspellable = spellable(read_words(Path(config.lexicon)), tokenizer, config.lexicon)
            self.words = len(units)
            self._automaton: Automaton = LexiconTree(units, surfaces)
        else:
            units = [token_name(surface) or f"<{label}>" for label, surface in enumerate(surfaces)]
            self._automaton = FreeText(surfaces)
        self._lm = NgramModel(config.lm, units) if config.lm else None
        unit_scores = np.zeros(len(units))
        if self._lm is not None:
            self.unknown = self._lm.unknown
            _check_match(self._lm, config, surfaces, units)
            unit_scores = self._lm.unit_scores
        self._lookahead = self._automaton.lookahead(unit_scores)

    def weighted(self, lm_weight: float, word_bonus: float) -> BeamSearch:
        """Return a copy of the search with other weights, without rereading files."""
        twin = object.__new__(BeamSearch)
        twin.__dict__.update(self.__dict__)
        twin.config = replace(self.config, lm_weight=lm_weight, word_bonus=word_bonus)
        return twin

    def __call__(self, log_probs_TV: Tensor) -> Tensor:
        """The label of each frame, long [T], on the best path; all blanks if no text is possible.

        Args:
            log_probs_TV: float [T, V] on the CPU, without padding.
        """
        labels = self._tokenizer.vocabulary_size
        if log_probs_TV.dim() != 2 or log_probs_TV.shape[1] != labels:
            raise ValueError(f"expected log_probs [T, {labels}], got {list(log_probs_TV.shape)}")
        return torch.from_numpy(self._best_path(log_probs_TV.double().numpy()))

    def text(self, log_probs_TV: Tensor) -> str:
        """The best text; "" if no text is possible."""
        return self._tokenizer.decode(self(log_probs_TV).unique_consecutive().tolist())

    def _best_path(self, log_probs_TV: Floats) -> Integers:
        if self._lm is not None:
            self._lm.start()
        zero = np.array([0])
        history = [_Hypotheses(np.zeros(1), np.array([ROOT]), zero, np.array([BLANK]), zero)]
        for frame in log_probs_TV:
            history.append(self._advance(history[-1], frame))
        scores = self._final_scores(history[-1])
        path = np.full(len(log_probs_TV), BLANK)
        if scores.max(initial=-np.inf) > -np.inf:
            row = int(scores.argmax())
            for t in range(len(path) - 1, -1, -1):
                path[t] = history[t + 1].labels[row]
                row = int(history[t + 1].parents[row])
        return path

    def _advance(self, beam: _Hypotheses, frame: Floats) -> _Hypotheses:
        """The best hypotheses after one more frame."""
        nodes, labels = self._automaton.size, self._tokenizer.vocabulary_size
        rows = np.arange(len(beam))
        repeated = rows[beam.labels != BLANK]
        kept = _concatenate(
            beam.advance(rows, np.full(len(beam), BLANK), frame),
            beam.advance(repeated, beam.labels[repeated], frame),
        ).merge(nodes, labels)
        # A hypothesis that is worse than `width` distinct candidates cannot be among the best.
        width = self.config.beam
        cutoff = -np.inf if len(kept) < width else np.partition(kept.scores, -width)[-width]
        inside, across = self._inside(beam, frame, cutoff), self._across(beam, frame, cutoff)
        return _concatenate(kept, inside, across).merge(nodes, labels).best(width)

    def _inside(self, beam: _Hypotheses, frame: Floats, cutoff: float) -> _Hypotheses:
        """Candidates extended by a label that completes no unit."""
        rows = np.arange(len(beam))
        new = beam.new_label(rows, self._automaton.inner, frame, np.full(len(beam), cutoff))
        nodes = self._automaton.inside(new.nodes, new.labels)
        weight = self.config.lm_weight * _LN_10
        scores = new.scores + weight * (self._lookahead[nodes] - self._lookahead[new.nodes])
        return replace(new, nodes=nodes, scores=scores).select((nodes != NONE) & (scores >= cutoff))

    def _across(self, beam: _Hypotheses, frame: Floats, cutoff: float) -> _Hypotheses:
        """Candidates with a new label that may complete a unit."""
        weight, bonus = self.config.lm_weight * _LN_10, self.config.word_bonus
        # The open unit ends first, once for all labels.
        rows = np.flatnonzero(self._automaton.may_end(beam.nodes))
        ended = self._end_units(beam.select(rows))
        # Upper bound on a candidate's score gain, because language model log-probabilities are at most 0.
        gain = max(0.0, bonus * self._automaton.max_words)
        new = ended.new_label(
            np.arange(len(rows)), self._automaton.outer, frame, np.full(len(rows), cutoff - gain)
        )
        moves = self._automaton.across(new.nodes, new.labels)
        scores = new.scores + weight * self._lookahead[moves.nodes] + bonus * moves.words
        possible = (moves.nodes != NONE) & (scores >= cutoff)
        moved = replace(new, nodes=moves.nodes, scores=scores, parents=rows[new.parents]).select(possible)
        contexts, lm_scores = self._lm_scores(moved.contexts, moves.units[possible])
        return replace(moved, contexts=contexts, scores=moved.scores + weight * lm_scores)

    def _end_units(self, beam: _Hypotheses) -> _Hypotheses:
        """The hypotheses with their open unit completed, where a unit may end."""
        weight = self.config.lm_weight * _LN_10
        units = self._automaton.pending(beam.nodes)
        is_open = units != NONE
        contexts, scores = self._lm_scores(beam.contexts, units)
        scores = (
            beam.scores + weight * (scores - self._lookahead[beam.nodes]) + self.config.word_bonus * is_open
        )
        return replace(beam, nodes=np.where(is_open, ROOT, beam.nodes), contexts=contexts, scores=scores)

    def _lm_scores(self, contexts: Integers, units: Integers) -> tuple[Integers, Floats]:
        """Return the contexts after `units` and the log10 scores.

        Without a unit, the same context and score 0.
        """
        scores = np.zeros(len(units))
        if self._lm is not None:
            at = np.flatnonzero(units != NONE)
            contexts = contexts.copy()
            contexts[at], scores[at] = self._lm.score(contexts[at], units[at])
        return contexts, scores

    def _final_scores(self, beam: _Hypotheses) -> Floats:
        """Scores of hypotheses as complete texts; -inf where a word is incomplete."""
        rows = np.flatnonzero(self._automaton.may_end(beam.nodes))
        ended = self._end_units(beam.select(rows))
        scores = np.full(len(beam), -np.inf)
        scores[rows] = ended.scores
        if self._lm is not None:
            scores[rows] += self.config.lm_weight * _LN_10 * self._lm.finish(ended.contexts)
        return scores


def _check_match(lm: NgramModel, config: BeamConfig, surfaces: list[str], units: list[str]) -> None:
    """Check that the language model knows at least half of the units.

    Raises:
        UserError: most units are unknown; the message suggests a remedy.
    """
    tokens = [surface for surface in surfaces if surface]
    # Tokens with a space are also checked separately, because without them words cannot be separated.
    spaces = [surface for surface in tokens if " " in surface]
    knows_tokens = not any(_mostly_unknown(lm, map(token_name, group)) for group in (tokens, spaces))
    if config.lexicon and _mostly_unknown(lm, units):
        remedy = (
            "it is a model of tokens: omit --lexicon, or use a model of words"
            if knows_tokens
            else "use a model of words spelled like the lexicon, or a smaller lexicon"
        )
        raise UserError(
            f"{config.lm}: does not know {len(lm.unknown):,} of the lexicon's {len(units):,} words, "
            f"such as {lm.unknown[0]!r}; {remedy}"
        )
    if not config.lexicon and not knows_tokens:
        unknown = [name for name in map(token_name, spaces + tokens) if not lm.knows(name)]
        raise UserError(
            f"{config.lm}: does not know {len(set(unknown)):,} of the tokenizer's {len(tokens):,} tokens, "
            f"such as {unknown[0]!r}; pass --lexicon if it is a model of words, or build a model of tokens "
            "with asr-emapl lm --tokenizer"
        )


def _mostly_unknown(lm: NgramModel, units: Iterable[str]) -> bool:
    known = [lm.knows(unit) for unit in units]
    return 2 * sum(known) < len(known)


def token_name(surface: str) -> str:
    """The name of a token in a language model, without spaces, which separate tokens there."""
    return "|" if surface == " " else surface.replace(" ", SENTENCEPIECE_SPACE)
