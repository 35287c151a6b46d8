"""N-gram language models, read and queried by KenLM (Heafield 2011), in the extra `lm`.

Axes: C candidates, U units (words, or tokens).
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_emapl.decoding.arpa import check_language_model
from asr_emapl.decoding.automaton import Floats, Integers
from asr_emapl.errors import UserError
from asr_emapl.storage import unpacked

_LEAST = -100.0  # KenLM's own score of words where the model has none for unknown ones


class NgramModel:
    """A language model whose contexts are numbers. Scores are log10 probabilities, as KenLM's are.

    Args:
        path: ARPA (plain, .gz or .xz), or a binary of KenLM's.
        units: what is scored, by position.

    Attributes:
        unknown: units that the model does not know, in their order.
        alone: score of each unit without context, -100 at the least, float64 [U].

    Raises:
        UserError: KenLM is not installed, or the file is invalid.
    """

    def __init__(self, path: str, units: Sequence[str]) -> None:
        kenlm = _kenlm()
        self._model = load_kenlm(path)
        self._units = units
        self._new_state = kenlm.State
        self.unknown = [unit for unit in units if unit not in self._model]
        empty, after = kenlm.State(), kenlm.State()
        self._model.NullContextWrite(empty)
        alone = [self._model.BaseScore(empty, unit, after) for unit in units]
        self.alone: Floats = np.maximum(alone, _LEAST)

    def knows(self, unit: str) -> bool:
        """Whether the model has a probability of the unit's own."""
        return unit in self._model

    def start(self) -> int:
        """The context at the beginning of a sentence; the numbers of earlier contexts become invalid."""
        begin = self._new_state()
        self._model.BeginSentenceWrite(begin)
        self._states = [begin]
        self._number_of = {begin: 0}
        self._known: dict[tuple[int, int], tuple[int, float]] = {}
        return 0

    def score(self, contexts: Integers, units: Integers) -> tuple[Integers, Floats]:
        """The next contexts [C], and the scores [C] of units in contexts."""
        found = [self._score(pair) for pair in zip(contexts.tolist(), units.tolist(), strict=True)]
        if not found:
            return np.zeros(0, np.int64), np.zeros(0)
        numbers, scores = zip(*found, strict=True)
        return np.array(numbers, np.int64), np.array(scores)

    def finish(self, contexts: Integers) -> Floats:
        """The scores [C] of the end of the sentence in contexts."""
        after = self._new_state()
        score = self._model.BaseScore
        return np.array([score(self._states[context], "</s>", after) for context in contexts.tolist()])

    def _score(self, pair: tuple[int, int]) -> tuple[int, float]:
        known = self._known.get(pair)
        if known is None:
            state = self._new_state()
            score = self._model.BaseScore(self._states[pair[0]], self._units[pair[1]], state)
            number = self._number_of.setdefault(state, len(self._states))
            if number == len(self._states):
                self._states.append(state)
            known = self._known[pair] = number, score
        return known


def load_kenlm(path: str) -> Any:
    """A `kenlm.Model`, of a file that was checked before.

    Raises:
        UserError: KenLM is not installed, or the file is invalid.
    """
    kenlm = _kenlm()
    check_language_model(Path(path))
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        with _plain(path) as place:
            return kenlm.Model(place, config)
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        # Of some files the message quotes bytes, or is empty.
        lines = [] if isinstance(error, UnicodeDecodeError) else str(error).strip().splitlines()
        last = lines[-1] if lines and lines[-1].isprintable() else "not a language model"
        raise UserError(f"{path}: KenLM cannot read this language model ({last})") from error


@contextlib.contextmanager
def _plain(path: str) -> Iterator[str]:
    """A path at which KenLM reads the file unpacked, since not every build of it unpacks."""
    with unpacked(path) as file:
        # Of a plain file, `file` is the one that was opened.
        if isinstance(file, io.BufferedReader):
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=".arpa") as plain:
            shutil.copyfileobj(file, plain, 1 << 20)
            plain.flush()
            yield plain.name


def _kenlm() -> Any:
    try:
        import kenlm
    except ImportError as error:
        raise UserError("KenLM is not installed: pip install 'asr_emapl[lm]'") from error
    return kenlm
