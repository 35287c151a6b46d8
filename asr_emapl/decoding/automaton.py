"""The texts that a beam search may write: any text, or the words of a lexicon in all spellings by labels.

An automaton has numbered nodes; at node 0, the root, no word is open. A label leads from a node to another.
Some labels complete a unit, which the language model scores, and count words, which earn the bonus.

Axes: C candidates (a node and a label each), N nodes, V labels (blank included).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from asr_emapl.errors import UserError

Integers = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]

ROOT = 0
NONE = -1


@dataclass(frozen=True)
class Step:
    """Where candidates lead, each [C].

    Attributes:
        nodes: next nodes; -1: the label cannot be written there.
        units: completed units, for the language model; -1: none.
        words: number of words that are counted.
    """

    nodes: Integers
    units: Integers
    words: Integers


class Automaton(Protocol):
    """What the search asks.

    Attributes:
        size: number of nodes.
        inner: labels that complete nothing.
        outer: labels that may complete a unit or a word.
        most_words: words that one label counts at most.
    """

    size: int
    inner: Integers
    outer: Integers
    most_words: int

    def lookahead(self, alone: Floats) -> Floats:
        """For each node [N], the best score of a unit that is open there, given each unit's score alone."""

    def may_end(self, nodes: Integers) -> Booleans:
        """Whether the text, or a word, may end at nodes."""

    def inside(self, nodes: Integers, labels: Integers) -> Integers:
        """Next nodes of candidates with inner labels; -1: the label cannot be written there."""

    def across(self, nodes: Integers, labels: Integers) -> Step:
        """The step of candidates with outer labels, from nodes where a word may end."""

    def pending(self, nodes: Integers) -> Integers:
        """The units, each one word, that the end of the text completes at nodes; -1: none."""


class FreeText:
    """Any sequence of labels. Each label is a unit; a word is counted where it begins.

    Args:
        surfaces: what each label adds to a text, as `Tokenizer.surfaces` has it.
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
        self.most_words = int(self._words.max())

    def lookahead(self, alone: Floats) -> Floats:
        """Zeros: a unit is never open."""
        return np.zeros(self.size)

    def may_end(self, nodes: Integers) -> Booleans:
        """Always."""
        return np.ones(len(nodes), bool)

    def inside(self, nodes: Integers, labels: Integers) -> Integers:
        """Not asked, since there are no inner labels."""
        return self._nodes[nodes, labels]

    def across(self, nodes: Integers, labels: Integers) -> Step:
        """Every label is possible everywhere."""
        return Step(self._nodes[nodes, labels], labels, self._words[nodes, labels])

    def pending(self, nodes: Integers) -> Integers:
        """None."""
        return np.full(len(nodes), NONE)


class LexiconTree:
    """The words of a lexicon as a prefix tree of characters; a label moves by all its characters at once.

    So every sequence of labels that spells a word is a spelling of it. A word is a unit; it is completed and
    counted by the next label that begins with a space, or by the end of the text.

    Args:
        words: each once; their positions are the units.
        surfaces: what each label adds to a text, as `Tokenizer.surfaces` has it.

    Raises:
        UserError: a label has a space elsewhere than at its beginning.
    """

    most_words = 1

    def __init__(self, words: Sequence[str], surfaces: Sequence[str]) -> None:
        self._labels = len(surfaces)
        inner: dict[str, list[int]] = {}
        outer = []
        for label, surface in enumerate(surfaces):
            if " " in surface[1:]:
                raise UserError(
                    f"the tokenizer's label {surface!r} has a space that is not at its beginning, which a "
                    "search with a lexicon does not support; leave --lexicon out"
                )
            if surface.startswith(" "):
                outer.append(label)
            elif surface:
                inner.setdefault(surface, []).append(label)
        self.inner: Integers = np.array(sorted(i for same in inner.values() for i in same), np.int64)
        self.outer: Integers = np.array(outer, np.int64)
        tree = _Tree(words, inner, self._labels)
        self._parents, self._words = np.array(tree.parents), np.array(tree.words)
        self.size = len(tree.parents)
        order = np.argsort(tree.keys)
        self._keys = np.array(tree.keys, np.int64)[order]
        self._targets = np.array(tree.targets, np.int64)[order]
        self._from_root = np.full(self._labels, NONE)
        self._from_root[outer] = [tree.node(surfaces[label][1:]) for label in outer]

    def lookahead(self, alone: Floats) -> Floats:
        """The best of the words below each node; 0 at the root, where none is open."""
        best = np.full(self.size, -np.inf)
        ends = np.flatnonzero(self._words >= 0)
        best[ends] = alone[self._words[ends]]
        values, parents = best.tolist(), self._parents.tolist()
        # A node has a larger number than its parent.
        for node in range(self.size - 1, ROOT, -1):
            if values[node] > values[parents[node]]:
                values[parents[node]] = values[node]
        values[ROOT] = 0.0
        return np.array(values)

    def may_end(self, nodes: Integers) -> Booleans:
        """Where a word is whole, and at the root."""
        return np.asarray((nodes == ROOT) | (self._words[nodes] >= 0))

    def inside(self, nodes: Integers, labels: Integers) -> Integers:
        """Further into the tree."""
        keys = nodes * self._labels + labels
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._targets[at], NONE)

    def across(self, nodes: Integers, labels: Integers) -> Step:
        """Complete the word, and begin another with what follows the label's space."""
        units = self._words[nodes]
        return Step(self._from_root[labels], units, (units >= 0).astype(np.int64))

    def pending(self, nodes: Integers) -> Integers:
        """The word that is whole at each node."""
        return self._words[nodes]


class _Tree:
    """Grows the prefix tree, in plain lists.

    Attributes:
        parents: of each node.
        words: the word that ends at each node; -1: none.
        keys, targets: for each move by an inner label, node * labels + label and the node that it leads to.
    """

    def __init__(self, words: Sequence[str], inner: Mapping[str, Sequence[int]], labels: int) -> None:
        self.parents, self.words = [ROOT], [NONE]
        self.keys: list[int] = []
        self.targets: list[int] = []
        self._children: dict[tuple[int, str], int] = {}
        longest = max(map(len, inner), default=0)
        for number, word in enumerate(words):
            way = [ROOT]
            for depth, character in enumerate(word, start=1):
                node = self._children.get((way[-1], character))
                if node is None:
                    node = self._children[way[-1], character] = len(self.parents)
                    self.parents.append(way[-1])
                    self.words.append(NONE)
                    for start in range(max(0, depth - longest), depth):
                        for label in inner.get(word[start:depth], ()):
                            self.keys.append(way[start] * labels + label)
                            self.targets.append(node)
                way.append(node)
            self.words[way[-1]] = number

    def node(self, characters: str) -> int:
        """The node that characters lead to from the root; -1: no word begins so."""
        node = ROOT
        for character in characters:
            if (node := self._children.get((node, character), NONE)) == NONE:
                break
        return node
