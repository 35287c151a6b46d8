"""Automata of the texts that beam search can produce: any text, or lexicon words in every tokenization.

An automaton has numbered nodes; node 0 is the root, the state between words. A label is a transition from one
node to another. Some labels complete a unit, which the language model scores, or a word, to which the word
bonus applies.

Axes: C candidates (a node and a label each), N nodes, V labels (including the CTC blank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from asr_emapl.errors import UserError

Integers = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]

ROOT = 0
NONE = -1


@dataclass(frozen=True)
class Transitions:
    """Results of the candidates' transitions, each [C].

    Attributes:
        nodes: next nodes; -1 if the label is not allowed.
        units: unit completed by the transition, for the language model; -1 if none.
        words: number of words counted.
    """

    nodes: Integers
    units: Integers
    words: Integers


class FreeText:
    """Accepts any sequence of labels. Each label is a unit; a word is counted where it begins.

    Args:
        surfaces: the text that each label adds, see `Tokenizer.surfaces`.
    """

    size = 2  # outside and inside a word

    def __init__(self, surfaces: Sequence[str]) -> None:
        self.inner: Integers = np.zeros(0, np.int64)
        self.outer: Integers = np.arange(1, len(surfaces))
        self._nodes = np.empty((2, len(surfaces)), np.int64)
        self._words = np.zeros((2, len(surfaces)), np.int64)
        for label, surface in enumerate(surfaces):
            for node in (0, 1):
                is_open = bool(node)
                for character in surface:
                    self._words[node, label] += character != " " and not is_open
                    is_open = character != " "
                self._nodes[node, label] = is_open
        self.max_words = int(self._words.max())

    def lookahead(self, unit_scores: Floats) -> Floats:
        """Zeros, because no unit is ever open."""
        return np.zeros(self.size)

    def may_end(self, nodes: Integers) -> Booleans:
        """True everywhere."""
        return np.ones(len(nodes), bool)

    def inside(self, nodes: Integers, labels: Integers) -> Integers:
        """Required by the interface; never called, because there are no inner labels."""
        return self._nodes[nodes, labels]

    def across(self, nodes: Integers, labels: Integers) -> Transitions:
        """Transitions; every label is possible everywhere."""
        return Transitions(self._nodes[nodes, labels], labels, self._words[nodes, labels])

    def pending(self, nodes: Integers) -> Integers:
        """Return -1 everywhere: no unit is ever pending."""
        return np.full(len(nodes), NONE)


class LexiconTree:
    """Prefix tree of the characters of a lexicon's words.

    A label advances through the tree by all its characters, so every label sequence that spells a word is
    accepted. A word is a unit. A word is completed and counted by the next label that starts with a space, or
    by the end of the text.

    Args:
        words: unique words; the index of a word is its unit.
        surfaces: the text that each label adds, see `Tokenizer.surfaces`.

    Attributes:
        size: number of nodes.
        inner: labels that never complete a unit or a word.
        outer: labels that may complete a unit or a word.
        max_words: largest number of words that one label counts; 0, because words are counted where they end.

    Raises:
        UserError: a label has a space that is not its first character.
    """

    max_words = 0

    def __init__(self, words: Sequence[str], surfaces: Sequence[str]) -> None:
        self._labels = len(surfaces)
        by_surface: dict[str, list[int]] = {}
        outer = []
        for label, surface in enumerate(surfaces):
            if " " in surface[1:]:
                raise UserError(
                    f"beam search with a lexicon does not support the tokenizer's label {surface!r}, which "
                    "has a space after its first character; omit --lexicon"
                )
            if surface.startswith(" "):
                outer.append(label)
            elif surface:
                by_surface.setdefault(surface, []).append(label)
        self.inner: Integers = np.array(sorted(chain(*by_surface.values())), np.int64)
        self.outer: Integers = np.array(outer, np.int64)
        self._children: dict[tuple[int, str], int] = {}
        self._grow(words, by_surface)
        self._from_root = np.full(self._labels, NONE)
        self._from_root[outer] = [self._node_of(surfaces[label][1:]) for label in outer]

    def _grow(self, words: Sequence[str], by_surface: dict[str, list[int]]) -> None:
        """Build nodes and transitions.

        `_keys` holds the sorted keys node * n_labels + label, `_targets` the corresponding next nodes.
        """
        parents, words_at = [ROOT], [NONE]
        keys: list[int] = []
        targets: list[int] = []
        longest = max(map(len, by_surface), default=0)
        for number, word in enumerate(words):
            path = [ROOT]
            for depth, character in enumerate(word, start=1):
                node = self._children.get((path[-1], character))
                if node is None:
                    node = self._children[path[-1], character] = len(parents)
                    parents.append(path[-1])
                    words_at.append(NONE)
                    for start in range(max(0, depth - longest), depth):
                        for label in by_surface.get(word[start:depth], ()):
                            keys.append(path[start] * self._labels + label)
                            targets.append(node)
                path.append(node)
            words_at[path[-1]] = number
        self.size = len(parents)
        self._parents, self._words = np.array(parents), np.array(words_at)
        order = np.argsort(keys)
        self._keys, self._targets = np.array(keys, np.int64)[order], np.array(targets, np.int64)[order]

    def _node_of(self, characters: str) -> int:
        """Return the node reached from the root by `characters`, or -1 if no word starts with them."""
        node = ROOT
        for character in characters:
            if (node := self._children.get((node, character), NONE)) == NONE:
                break
        return node

    def lookahead(self, unit_scores: Floats) -> Floats:
        """The best score [N] of the words below each node, given scores of units without context.

        It is 0 at the root, where no word is open.
        """
        best = np.full(self.size, -np.inf)
        ends = np.flatnonzero(self._words >= 0)
        best[ends] = unit_scores[self._words[ends]]
        values, parents = best.tolist(), self._parents.tolist()
        # A node has a larger number than its parent.
        for node in range(self.size - 1, ROOT, -1):
            if values[node] > values[parents[node]]:
                values[parents[node]] = values[node]
        values[ROOT] = 0.0
        return np.array(values)

    def may_end(self, nodes: Integers) -> Booleans:
        """Whether the text or a word may end at each node."""
        return np.asarray((nodes == ROOT) | (self._words[nodes] >= 0))

    def inside(self, nodes: Integers, labels: Integers) -> Integers:
        """Next nodes of candidates with inner labels; -1: the label is not possible there."""
        keys = nodes * self._labels + labels
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._targets[at], NONE)

    def across(self, nodes: Integers, labels: Integers) -> Transitions:
        """Transitions of candidates with outer labels from the root, where the word before has ended.

        The next word starts with the characters after the label's leading space.
        """
        none = np.full(len(labels), NONE)
        return Transitions(self._from_root[labels], none, np.zeros(len(labels), np.int64))

    def pending(self, nodes: Integers) -> Integers:
        """The word (unit) that an outer label or the end of the text completes at each node; -1: none."""
        return self._words[nodes]


Automaton: TypeAlias = FreeText | LexiconTree
