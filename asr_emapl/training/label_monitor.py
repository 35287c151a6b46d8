"""What becomes of pseudo-labels over audio: how much they change, and their WER where transcripts are known.

The labels of a sample of utterances are compared with those of their previous pass. If the unlabelled
manifest has transcripts, they serve as references; they are not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asr_emapl.data.utterance import Utterance
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import similarity
from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.scoring.wer import word_edits
from asr_emapl.text.tokenizer import Tokenizer

SAMPLE = 2000
"""Maximum number of utterances that are compared."""

# The step at which a label was seen, its utterance, and its tokens.
_Seen = tuple[int, int, list[int]]


class LabelMonitor:
    """Compares the labels of a sample of utterances with earlier labels and with transcripts.

    Args:
        utterances: the unlabelled corpus.
    """

    def __init__(self, utterances: Sequence[Utterance], tokenizer: Tokenizer) -> None:
        self.utterances, self.tokenizer = utterances, tokenizer
        # Evenly spaced rows, so that each corpus of several is represented.
        rows = np.linspace(0, len(utterances) - 1, min(SAMPLE, len(utterances)), dtype=int)
        self._sample = set(rows.tolist())
        self._references: dict[int, str] = {}
        self._previous = LabelTable(len(utterances))
        self._seen: list[_Seen] = []

    def observe(self, step: int, labels: Mapping[int, Label]) -> None:
        """Note the labels of this process in a step, before filters."""
        self._seen += [(step, row, label.tokens) for row, label in labels.items() if row in self._sample]

    def collect(self, world: ProcessGroup) -> dict[str, float]:
        """Compare the labels that all processes noted since the last call; the same on all processes.

        Returns:
            utterances: number of labels; changed: mean share of the tokens that changed since the previous
            pass, of `revisited` labels; label_wer: WER in percent of labels with a transcript. Empty without
            labels.
        """
        seen, self._seen = self._merged(world), []
        changes, references, texts = [], [], []
        for _, row, tokens in seen:
            if row in self._previous:
                changes.append(1.0 - similarity(self._previous.get(row).tokens, tokens))
            self._previous.update({row: Label(tokens)})
            reference = self._reference(row)
            if reference:
                references.append(reference)
                texts.append(self.tokenizer.decode(tokens))
        found: dict[str, float] = {"utterances": len(seen)} if seen else {}
        if changes:
            found |= {"revisited": len(changes), "changed": sum(changes) / len(changes)}
        if references:
            edits = word_edits(references, texts).sum(0)
            found["label_wer"] = 100.0 * float(edits[:3].sum() / edits[3])
        return found

    def state_dict(self, world: ProcessGroup) -> dict[str, Any]:
        """What a resume needs; call it on all processes."""
        seen = self._merged(world)
        self._seen = seen if world.is_first else []
        return {"previous": self._previous.state_dict(), "seen": seen}

    def load_state_dict(self, state: dict[str, Any], world: ProcessGroup) -> None:
        """The inverse of `state_dict`."""
        self._previous.load_state_dict(state["previous"])
        self._seen = [(step, row, tokens) for step, row, tokens in state["seen"]] if world.is_first else []

    def _merged(self, world: ProcessGroup) -> list[_Seen]:
        """The notes of all processes, in the order of steps and rows."""
        return sorted(seen for of_rank in world.gather(self._seen) for seen in of_rank)

    def _reference(self, row: int) -> str:
        """The transcript, if it is spelled as the labels are."""
        if row not in self._references:
            text = self.utterances[row].text or ""
            try:
                self.tokenizer.encode(text)
            except UserError:
                text = ""
            self._references[row] = text
        return self._references[row]
