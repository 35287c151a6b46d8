"""Beam search with an n-gram language model and a lexicon, over the best CTC path of each text.

With a lexicon the text consists of its words, in any spelling that the tokenizer's labels allow, and the
language model is one of words. Without one any text is possible, and the language model is one of tokens
(characters or pieces).

Axes: T frames, V labels (blank included), H hypotheses, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr_emapl.decoding.automaton import NONE, Automaton, Floats, FreeText, Integers, LexiconTree
from asr_emapl.decoding.hypotheses import Hypotheses, joined
from asr_emapl.decoding.lexicon import read_words, spellable
from asr_emapl.decoding.ngram import NgramModel
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import BLANK, SENTENCEPIECE_SPACE, Tokenizer

MAX_BEAM = 10_000
"""Hypotheses that a search keeps at most; each frame compares this many times the number of labels."""

MAX_WEIGHT = 1_000_000
"""Limit of the language model's weight and, in nats, of the word bonus."""

_LN_10 = math.log(10.0)  # KenLM's logarithms have base 10


@dataclass(frozen=True)
class BeamConfig:
    """Settings of a search; see `BeamSearch` for the score that they are part of.

    Attributes:
        beam: hypotheses that are kept from frame to frame, 1 to `MAX_BEAM`.
        lm: language model file; "": none.
        lexicon: file of the words that may be written, as `read_words` reads it; "": any text.
        lm_weight: weight of the language model, 0 to `MAX_WEIGHT`.
        word_bonus: added for each word, in nats, at most `MAX_WEIGHT`; negative: a penalty.
        tokenizer: fingerprint of the tokenizer that the weights were chosen for; "": not known.

    Raises:
        UserError: a value out of its range, or a file that is missing.
    """

    beam: int = 100
    lm: str = ""
    lexicon: str = ""
    lm_weight: float = 1.0
    word_bonus: float = 0.0
    tokenizer: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.beam <= MAX_BEAM:
            raise UserError(f"a beam of {self.beam}: choose 1 to {MAX_BEAM:,} hypotheses, 100 for example")
        if not 0.0 <= self.lm_weight <= MAX_WEIGHT:
            raise UserError(f"a language model weight of {self.lm_weight:g}: choose 0 to {MAX_WEIGHT:,}")
        if not abs(self.word_bonus) <= MAX_WEIGHT:
            raise UserError(f"a word bonus of {self.word_bonus:g}: choose {-MAX_WEIGHT:,} to {MAX_WEIGHT:,}")
        for name in ("lm", "lexicon"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                what = "not a regular file" if Path(path).exists() else "no such file"
                raise UserError(f"--{name} {path}: {what}")


class BeamSearch:
    """The search for one tokenizer. Building it reads the language model.

    It maximises, over all CTC paths (one label for each frame) and so over all texts,

        log p(path) + lm_weight * ln p_LM(text) + word_bonus * words(text)

    log p(path) is the sum of the frames' log-probabilities: the best path counts, not the sum over the paths
    of a text. The language model scores, after the beginning of the sentence, each unit once and then the
    end of the sentence. With a lexicon, the units are the words, and spaces cost nothing. Without one, they
    are the labels of the collapsed path, spaces at the beginning included. words(text) counts the text's
    words, separated by spaces.

    The search is exact where the beam is never full. Otherwise the best hypotheses of each frame are kept;
    those in the middle of a word are compared with the best word (without context) that they may become.

    Attributes:
        strange: words of the lexicon that the tokenizer cannot spell, which are never written.
        words: number of words in the lexicon that it can spell; 0 without a lexicon.
        unknown: words (without a lexicon: tokens) that the language model does not know.

    Raises:
        UserError: KenLM is not installed; a file is invalid; language model, lexicon, and tokenizer do not
            belong together.
    """

    strange: list[str]
    unknown: list[str]
    words: int

    def __init__(self, tokenizer: Tokenizer, config: BeamConfig) -> None:
        if config.tokenizer and config.tokenizer != tokenizer.fingerprint:
            raise UserError(
                f"the weights were chosen with another tokenizer ({config.tokenizer[:12]}..., the model has "
                f"{tokenizer.fingerprint[:12]}...); run tune-lm with this model"
            )
        self.config = config
        self._tokenizer = tokenizer
        surfaces = tokenizer.surfaces
        self.strange, self.unknown, self.words = [], [], 0
        if config.lexicon:
            units, self.strange = spellable(read_words(Path(config.lexicon)), tokenizer, config.lexicon)
            self.words = len(units)
            self._automaton: Automaton = LexiconTree(units, surfaces)
        else:
            units = [token_name(surface) or f"<{label}>" for label, surface in enumerate(surfaces)]
            self._automaton = FreeText(surfaces)
        self._lm = NgramModel(config.lm, units) if config.lm else None
        alone = np.zeros(len(units))
        if self._lm is not None:
            self.unknown = self._lm.unknown
            _check_fit(self._lm, config, surfaces, units)
            alone = self._lm.alone
        self._lookahead = self._automaton.lookahead(alone)

    def weighted(self, lm_weight: float, word_bonus: float) -> BeamSearch:
        """The same search with other weights; nothing is read again."""
        twin = object.__new__(BeamSearch)
        twin.__dict__.update(self.__dict__)
        twin.config = replace(self.config, lm_weight=lm_weight, word_bonus=word_bonus)
        return twin

    def __call__(self, log_probs_TV: Tensor) -> Tensor:
        """The label of each frame, long [T], on the best path; all blanks if no text is possible.

        Args:
            log_probs_TV: float [T, V], in main memory, without padding.
        """
        labels = self._tokenizer.vocabulary_size
        if log_probs_TV.dim() != 2 or log_probs_TV.shape[1] != labels:
            raise ValueError(f"expected log_probs [T, {labels}], got {list(log_probs_TV.shape)}")
        return torch.from_numpy(self._best_path(log_probs_TV.double().numpy()))

    def text(self, log_probs_TV: Tensor) -> str:
        """The best text; "" if there is none."""
        return self._tokenizer.decode(self(log_probs_TV).unique_consecutive().tolist())

    def _best_path(self, log_probs_TV: Floats) -> Integers:
        if self._lm is not None:
            self._lm.start()
        beam = Hypotheses.first()
        history = [beam]
        for frame in log_probs_TV:
            beam = self._advance(beam, frame)
            history.append(beam)
        scores = self._finished(beam)
        path = np.full(len(log_probs_TV), BLANK)
        if scores.max(initial=-np.inf) > -np.inf:
            row = int(scores.argmax())
            for t in range(len(path) - 1, -1, -1):
                path[t] = history[t + 1].labels[row]
                row = int(history[t + 1].parents[row])
        return path

    def _advance(self, beam: Hypotheses, frame: Floats) -> Hypotheses:
        """The best hypotheses after one more frame."""
        nodes, labels = self._automaton.size, self._tokenizer.vocabulary_size
        rows = np.arange(len(beam))
        again = rows[beam.labels != BLANK]
        kept = joined(
            beam.moved(rows, np.full(len(beam), BLANK), frame),
            beam.moved(again, beam.labels[again], frame),
        ).merged(nodes, labels)
        # A hypothesis that is worse than `beam` distinct candidates cannot be among the best.
        width = self.config.beam
        cutoff = -np.inf if len(kept) < width else np.partition(kept.scores, -width)[-width]
        inside, across = self._inside(beam, frame, cutoff), self._across(beam, frame, cutoff)
        return joined(kept, inside, across).merged(nodes, labels).best(width)

    def _inside(self, beam: Hypotheses, frame: Floats, cutoff: float) -> Hypotheses:
        """Candidates with a new label that completes nothing."""
        every = np.arange(len(beam))
        new = _new(beam, every, self._automaton.inner, frame, np.full(len(beam), cutoff))
        nodes = self._automaton.inside(new.nodes, new.labels)
        weight = self.config.lm_weight * _LN_10
        scores = new.scores + weight * (self._lookahead[nodes] - self._lookahead[new.nodes])
        moved = replace(new, nodes=nodes, scores=scores)
        return moved.taken((nodes != NONE) & (scores >= cutoff))

    def _across(self, beam: Hypotheses, frame: Floats, cutoff: float) -> Hypotheses:
        """Candidates with a new label that may complete a unit."""
        weight, bonus = self.config.lm_weight * _LN_10, self.config.word_bonus
        ends = np.flatnonzero(self._automaton.may_end(beam.nodes))
        # What a candidate gains at most: the language model gives a probability of 1 at most.
        most = max(0.0, bonus * self._automaton.most_words) - weight * self._lookahead[beam.nodes[ends]]
        new = _new(beam, ends, self._automaton.outer, frame, cutoff - most)
        step = self._automaton.across(new.nodes, new.labels)
        look = self._lookahead[step.nodes] - self._lookahead[new.nodes]
        scores = new.scores + weight * look + bonus * step.words
        possible = (step.nodes != NONE) & (scores >= cutoff)
        moved = replace(new, nodes=step.nodes, scores=scores).taken(possible)
        contexts, lm_scores = self._scored(moved.contexts, step.units[possible])
        return replace(moved, contexts=contexts, scores=moved.scores + weight * lm_scores)

    def _scored(self, contexts: Integers, units: Integers) -> tuple[Integers, Floats]:
        """Contexts after units, and their scores (log10); where there is no unit, the same and 0."""
        scores = np.zeros(len(units))
        if self._lm is not None:
            at = np.flatnonzero(units != NONE)
            contexts = contexts.copy()
            contexts[at], scores[at] = self._lm.score(contexts[at], units[at])
        return contexts, scores

    def _finished(self, beam: Hypotheses) -> Floats:
        """Scores of hypotheses as whole texts; -inf where a word is not whole."""
        weight = self.config.lm_weight * _LN_10
        units = self._automaton.pending(beam.nodes)
        whole = self._automaton.may_end(beam.nodes)
        contexts, scores = self._scored(beam.contexts, np.where(whole, units, NONE))
        if self._lm is not None:
            scores = scores + self._lm.finish(contexts)
        scores = beam.scores + weight * (scores - self._lookahead[beam.nodes])
        return np.where(whole, scores + self.config.word_bonus * (units != NONE), -np.inf)


def _new(beam: Hypotheses, rows: Integers, labels: Integers, frame: Floats, cutoffs: Floats) -> Hypotheses:
    """Candidates of rows with each of the labels that differs from their last one, from cutoffs [rows] on."""
    scores = beam.scores[rows, None] + frame[labels]
    at, columns = np.nonzero(scores >= cutoffs[:, None])
    rows, labels = rows[at], labels[columns]
    is_new = beam.labels[rows] != labels
    return beam.moved(rows[is_new], labels[is_new], frame)


def _check_fit(lm: NgramModel, config: BeamConfig, surfaces: list[str], units: list[str]) -> None:
    """Pass where the language model knows most of what will be written.

    Raises:
        UserError: it does not; the message says what to give instead.
    """
    tokens = [surface for surface in surfaces if surface]
    # A space alone decides: without it, words cannot be told apart.
    spaces = [surface for surface in tokens if " " in surface]
    knows_tokens = not any(_mostly_unknown(lm, map(token_name, group)) for group in (tokens, spaces))
    if config.lexicon and _mostly_unknown(lm, units):
        remedy = (
            "it is one of tokens: leave --lexicon out, or give a language model of words"
            if knows_tokens
            else "give one of words, spelled as the lexicon is, or make a smaller lexicon"
        )
        raise UserError(
            f"{config.lm}: does not know {len(lm.unknown):,} of the lexicon's {len(units):,} words, "
            f"such as {lm.unknown[0]!r}; {remedy}"
        )
    if not config.lexicon and not knows_tokens:
        unknown = [name for name in map(token_name, spaces + tokens) if not lm.knows(name)]
        raise UserError(
            f"{config.lm}: does not know {len(set(unknown)):,} of the tokenizer's {len(tokens):,} tokens, "
            f"such as {unknown[0]!r}; give a --lexicon if it is a language model of words, or make one of "
            "tokens with asr-emapl lm --tokenizer"
        )


def _mostly_unknown(lm: NgramModel, units: Iterable[str]) -> bool:
    known = [lm.knows(unit) for unit in units]
    return 2 * sum(known) < len(known)


def token_name(surface: str) -> str:
    """What a language model of tokens calls a token, in which a space would separate two."""
    return "|" if surface == " " else surface.replace(" ", SENTENCEPIECE_SPACE)
