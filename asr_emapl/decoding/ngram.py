"""N-gram language models, read and queried by KenLM (Heafield 2011), in the extra `lm`.

Axes: C candidates, U units (words or tokens).
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
from asr_emapl.errors import UserError, require_package
from asr_emapl.storage import unpacked

_MIN_SCORE = -100.0  # score KenLM assigns to unknown words if the model has no <unk> entry


class NgramModel:
    """A language model with numbered contexts. Scores are log10 probabilities, as in KenLM.

    Args:
        path: ARPA (plain, .gz or .xz), or a KenLM binary.
        units: words or tokens to score, addressed by index.

    Attributes:
        unknown: units not in the model, in the order of `units`.
        unit_scores: score of each unit without context, at least -100, float64 [U].

    Raises:
        UserError: KenLM is not installed, or the file is invalid.
    """

    def __init__(self, path: str, units: Sequence[str]) -> None:
        self._model = load_kenlm(path)
        import kenlm

        self._units = units
        self._new_state = kenlm.State
        self.unknown = [unit for unit in units if unit not in self._model]
        empty, after = kenlm.State(), kenlm.State()
        self._model.NullContextWrite(empty)
        scores = [self._model.BaseScore(empty, unit, after) for unit in units]
        self.unit_scores: Floats = np.maximum(scores, _MIN_SCORE)

    def knows(self, unit: str) -> bool:
        """Whether the model has a probability for the unit."""
        return unit in self._model

    def start(self) -> int:
        """Return the start-of-sentence context. Invalidates all context numbers returned before."""
        begin = self._new_state()
        self._model.BeginSentenceWrite(begin)
        self._states = [begin]
        self._number_of = {begin: 0}
        self._cache: dict[tuple[int, int], tuple[int, float]] = {}
        return 0

    def score(self, contexts: Integers, units: Integers) -> tuple[Integers, Floats]:
        """The next contexts [C], and the scores [C] of units in contexts."""
        found = [self._score(pair) for pair in zip(contexts.tolist(), units.tolist(), strict=True)]
        return np.array([number for number, _ in found], np.int64), np.array([score for _, score in found])

    def finish(self, contexts: Integers) -> Floats:
        """The scores [C] of the end of the sentence in contexts."""
        after = self._new_state()
        score = self._model.BaseScore
        return np.array([score(self._states[context], "</s>", after) for context in contexts.tolist()])

    def _score(self, pair: tuple[int, int]) -> tuple[int, float]:
        cached = self._cache.get(pair)
        if cached is None:
            state = self._new_state()
            score = self._model.BaseScore(self._states[pair[0]], self._units[pair[1]], state)
            number = self._number_of.setdefault(state, len(self._states))
            if number == len(self._states):
                self._states.append(state)
            cached = self._cache[pair] = number, score
        return cached


def load_kenlm(path: str) -> Any:
    """Check a language model file, and load it as a `kenlm.Model`.

    Raises:
        UserError: KenLM is not installed, or the file is invalid.
    """
    require_package("kenlm", "lm")
    import kenlm

    check_language_model(Path(path))
    config = kenlm.Config()
    config.show_progress = False
    config.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        with _plain(path) as place:
            return kenlm.Model(place, config)
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        # For some files, KenLM's message contains raw bytes or is empty.
        lines = [] if isinstance(error, UnicodeDecodeError) else str(error).strip().splitlines()
        last = lines[-1] if lines and lines[-1].isprintable() else "not a language model"
        raise UserError(f"{path}: KenLM cannot read this language model ({last})") from error


@contextlib.contextmanager
def _plain(path: str) -> Iterator[str]:
    """Yield a path to an uncompressed copy of the file, because not every KenLM build can decompress."""
    with unpacked(path) as file:
        if isinstance(file, io.BufferedReader):  # not compressed
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=".arpa") as plain:
            shutil.copyfileobj(file, plain, 1 << 20)
            plain.flush()
            yield plain.name
