"""Beam search with an n-gram language model: flashlight-text's (Kahn et al. 2022), in the extra `lm`.

With a lexicon the text is made of its words, and the language model is one of words. Without one it is one
of tokens (letters or pieces), and anything can be written. Language models are KenLM's, ARPA (.gz too) or
binary.

Axes: T frames, V labels (blank included).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_emapl.decoding.lexicon import read_words, spell
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import BLANK, SENTENCEPIECE_SPACE, Tokenizer

# Hypotheses that are this much worse than the best (in nats) are dropped.
_BEAM_THRESHOLD = 50.0
# Of each frame, so many of the most probable labels are tried: all letters, but not a thousand pieces.
_FRAME_TOKENS = 40
_IMPOSSIBLE = -1e4  # log-probability; flashlight's sums may not become infinite


@dataclass(frozen=True)
class BeamConfig:
    """Of the search: what is maximised is log p(tokens) + lm_weight * log p(text) + word_bonus * words.

    Attributes:
        beam: hypotheses that are kept from frame to frame.
        lm: language model file; "": none.
        lexicon: words that may be written, as `read_words` reads them; "": any.
        lm_weight: of the (natural) logarithm of the language model's probability.
        word_bonus: for each word; negative: a penalty.
    """

    beam: int = 100
    lm: str = ""
    lexicon: str = ""
    lm_weight: float = 1.0
    word_bonus: float = 0.0

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"a beam of {self.beam} keeps nothing: take 1 or more")
        for name in ("lm", "lexicon"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise UserError(f"--{name} {path}: no such file")


class BeamSearch:
    """The search for one tokenizer. Building it reads the language model.

    Attributes:
        strange: words of the lexicon that the tokenizer cannot spell, which are never written.
        unknown: words (without a lexicon: tokens) that the language model does not know.

    Raises:
        UserError: flashlight-text is not installed; a file is broken; language model and lexicon do not
            belong together.
    """

    strange: list[str]
    unknown: list[str]

    def __init__(self, tokenizer: Tokenizer, config: BeamConfig) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._labels = tokenizer.vocabulary_size
        surfaces = tokenizer.surfaces
        self._space = _separator(surfaces)
        # Where no label parts words, a column of its own stands for the last label said again.
        self._rest = self._space if self._space is not None else self._labels
        self.strange, self.unknown = [], []
        if not config.lexicon and config.word_bonus and self._space is None:
            raise UserError("a word bonus without a lexicon needs a tokenizer of letters: name a --lexicon")
        if config.lexicon:
            spelled, self.strange = spell(read_words(Path(config.lexicon)), tokenizer, config.lexicon)
            units = list(spelled)
        else:
            units = [token_name(surface) or f"<{label}>" for label, surface in enumerate(surfaces)]
        self._lm, scores = self._read_lm(units)
        self._trie = self._make_trie(list(spelled.values()), scores) if config.lexicon else None
        self._decoder = self._make_decoder()

    def weighted(self, lm_weight: float, word_bonus: float) -> BeamSearch:
        """The same search with other weights; nothing is read again."""
        twin = object.__new__(BeamSearch)
        twin.__dict__.update(self.__dict__)
        twin.config = replace(self.config, lm_weight=lm_weight, word_bonus=word_bonus)
        twin._decoder = twin._make_decoder()
        return twin

    @property
    def has_word_bonus(self) -> bool:
        """Whether words can be told in the search, so that a bonus for each has a meaning."""
        return self._trie is not None or self._space is not None

    def __call__(self, log_probs_TV: Tensor) -> Tensor:
        """The label of each frame, long [T], on the best path; all blanks if no text was found.

        Args:
            log_probs_TV: float [T, V], in main memory, without padding.
        """
        if log_probs_TV.dim() != 2 or log_probs_TV.shape[1] != self._labels:
            raise ValueError(f"expected log_probs [T, {self._labels}], got {list(log_probs_TV.shape)}")
        frames = len(log_probs_TV)
        if frames == 0:
            return torch.zeros(0, dtype=torch.long)
        emissions = self._emissions(log_probs_TV.numpy())
        found = self._decoder.decode(emissions.ctypes.data, *emissions.shape)
        if not found:
            return torch.full((frames,), BLANK, dtype=torch.long)
        # The search brackets the frames with a token of its own.
        path = np.array(found[0].tokens[1 : 1 + frames], dtype=np.int64)
        for t in np.flatnonzero(path == self._labels):
            path[t] = path[t - 1] if t else BLANK
        return torch.from_numpy(path)

    def text(self, log_probs_TV: Tensor) -> str:
        """The best text; "" if there is none."""
        return self._tokenizer.decode(self(log_probs_TV).unique_consecutive().tolist())

    def _emissions(self, log_probs_TV: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What flashlight is given: float32, finite, with what the lexicon's search needs."""
        emissions = np.maximum(log_probs_TV, _IMPOSSIBLE).astype(np.float32)
        if self._trie is None:
            return np.ascontiguousarray(emissions)
        if self._space is None:
            # The search may not stay at the last token of a word; on the frames where the model does, the
            # column for it may be taken in its place. Nothing keeps other hypotheses from taking it too.
            best = emissions.argmax(axis=1)
            again = np.full((len(emissions), 1), _IMPOSSIBLE, np.float32)
            stays = np.flatnonzero((best[1:] == best[:-1]) & (best[1:] != BLANK)) + 1
            again[stays, 0] = emissions[stays, best[stays]]
            return np.ascontiguousarray(np.concatenate([emissions, again], axis=1))
        # Each word ends with a space, which the model does not write after the last one: one is added.
        end = np.full((1, self._labels), _IMPOSSIBLE, np.float32)
        end[0, self._space] = 0.0
        return np.ascontiguousarray(np.concatenate([emissions, end]))

    def _read_lm(self, units: list[str]) -> tuple[Any, list[float]]:
        """The language model, and its score of each unit alone."""
        config = self.config
        if not config.lm:
            return _flashlight().ZeroLM(), [0.0] * len(units)
        lm, scores = read_kenlm(config.lm, units)
        self.unknown = [unit for unit, score in zip(units, scores, strict=False) if score == scores[-1]]
        if len(self.unknown) == len(units):
            kind, remedy = (
                ("words", "take one of words, or spell the lexicon as it does")
                if config.lexicon
                else ("tokens", "name a --lexicon if it is one of words")
            )
            raise UserError(f"{config.lm}: knows none of the {kind} ({remedy})")
        return lm, scores[:-1]

    def _make_trie(self, spellings: list[list[int]], scores: list[float]) -> Any:
        flashlight = _flashlight()
        trie = flashlight.Trie(self._labels + 1, self._rest)
        for word, (labels, score) in enumerate(zip(spellings, scores, strict=True)):
            trie.insert(labels if self._space is None else [*labels, self._space], word, score)
        trie.smear(flashlight.SmearingMode.MAX)
        return trie

    def _make_decoder(self) -> Any:
        flashlight = _flashlight()
        config = self.config
        shared = {
            "beam_size": config.beam,
            "beam_size_token": min(self._labels + 1, _FRAME_TOKENS),
            "beam_threshold": _BEAM_THRESHOLD,
            "lm_weight": config.lm_weight * math.log(10.0),  # KenLM's logarithms are those
            "log_add": False,
            "criterion_type": flashlight.CriterionType.CTC,
        }
        if self._trie is None:
            options = flashlight.LexiconFreeDecoderOptions(**shared, sil_score=config.word_bonus)
            return flashlight.LexiconFreeDecoder(options, self._lm, self._rest, BLANK, [])
        options = flashlight.LexiconDecoderOptions(
            **shared, word_score=config.word_bonus, unk_score=-np.inf, sil_score=0.0
        )
        unknown_word = -1
        return flashlight.LexiconDecoder(
            options, self._trie, self._lm, self._rest, BLANK, unknown_word, [], False
        )


def token_name(surface: str) -> str:
    """What a language model of tokens calls a token, in which a space would part two."""
    return "|" if surface == " " else surface.replace(" ", SENTENCEPIECE_SPACE)


def read_kenlm(path: str, units: list[str]) -> tuple[Any, list[float]]:
    """A language model in which units go by their positions, and the log10 probability of each alone.

    One more, at the end, is that of what the model does not know, which no unit that it knows should share.

    Raises:
        UserError: flashlight-text is not installed, or the file is no language model.
    """
    _flashlight()
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    known = Dictionary([*units, "<unk>"])
    try:
        lm = KenLM(path, known)
    except (RuntimeError, UnicodeDecodeError) as error:
        # Of a file that is something else the message may quote bytes, or be empty.
        lines = [] if isinstance(error, UnicodeDecodeError) else str(error).strip().splitlines()
        last = lines[-1] if lines and lines[-1].isprintable() else "not one at all"
        raise UserError(f"{path}: no language model that KenLM reads ({last})") from error
    start = lm.start(False)
    return lm, [lm.score(start, i)[1] for i in range(len(units) + 1)]


def _separator(surfaces: list[str]) -> int | None:
    """The label that alone parts words, as letters have it; None where tokens begin with their space."""
    spaced = [label for label, surface in enumerate(surfaces) if " " in surface]
    return spaced[0] if len(spaced) == 1 and surfaces[spaced[0]] == " " else None


def _flashlight() -> Any:
    try:
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise UserError("flashlight-text is not installed: pip install 'asr_emapl[lm]'") from error
    return decoder
