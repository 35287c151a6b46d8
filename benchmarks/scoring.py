"""Speed of scoring on one core: error counts of many pairs of texts, compared with other packages.

    pip install kaldialign werpy meeteval              # packages that are not installed are skipped
    python benchmarks/scoring.py
    python benchmarks/scoring.py --manifest dev-clean.jsonl

Hypotheses are the references with 8 % of the words replaced, 2 % dropped and 2 % doubled. Without a manifest,
the references are 2,703 sentences of 20 words on average, with word frequencies as in English (Zipf). The
second table is for 100,000 pairs: the same references repeated, with other errors. All implementations in a
table are run alternately in one process and one thread. The tables show medians of processor time, which
depends less on other work on the machine than wall-clock time, and the ratio to this toolkit. Each
implementation converts texts to the counts of the corpus, and its number of errors is compared with ours.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from rapidfuzz.distance import Levenshtein

from asr_emapl.data.manifest import read_manifest
from asr_emapl.scoring.intervals import resampled_sums
from asr_emapl.scoring.nist.sclite import sclite_word_edits
from asr_emapl.scoring.wer import character_edits, word_edits

LARGE_PAIRS = 100_000
OURS = "asr_emapl word counts"
Texts = list[str]
Action = Callable[[], int | None]
"""Runs an implementation. Returns the minimum number of word errors, or None if it does not compute it."""


def sentences(count: int) -> Texts:
    """Random sentences of 2 to 38 words; the word of rank r has a frequency proportional to 1 / r."""
    chooser = random.Random(0)
    words = ["".join(chooser.choices("ETAOINSHRDLU", k=chooser.randint(2, 9))) for _ in range(9000)]
    weights = [1.0 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(chooser.choices(words, weights, k=chooser.randint(2, 38))) for _ in range(count)]


def garbled(texts: Texts) -> Texts:
    """The texts with errors in 12 % of their words."""
    chooser = random.Random(1)
    vocabulary = sorted({word for text in texts for word in text.split()})

    def heard(word: str) -> Texts:
        draw = chooser.random()
        if draw < 0.08:
            return [chooser.choice(vocabulary)]
        if draw < 0.10:
            return []
        return [word, word] if draw < 0.12 else [word]

    return [" ".join(part for word in text.split() for part in heard(word)) for text in texts]


def contestants(references: Texts, hypotheses: Texts) -> dict[str, Callable[[], Action]]:
    """Functions that build the timed actions, by name. One that raises ImportError is skipped."""

    def jiwer() -> Action:
        from jiwer import process_words

        def count() -> int:
            found = process_words(references, hypotheses)
            return found.substitutions + found.deletions + found.insertions

        return count

    def kaldialign() -> Action:
        from kaldialign import batch_error_rate

        return lambda: int(
            batch_error_rate([text.split() for text in references], [text.split() for text in hypotheses])[
                "total"
            ]
        )

    def werpy() -> Action:
        from werpy import wer

        # Returns only the rate.
        def rate() -> None:
            wer(references, hypotheses)

        return rate

    def meeteval() -> Action:
        from meeteval.wer.wer.siso import siso_word_error_rate

        return lambda: sum(
            siso_word_error_rate(*pair).errors for pair in zip(references, hypotheses, strict=True)
        )

    def floor() -> int:
        pairs = zip(references, hypotheses, strict=True)
        return sum(Levenshtein.distance(wanted.split(), given.split()) for wanted, given in pairs)

    def characters() -> None:
        character_edits(references, hypotheses)

    def sclite() -> None:
        sclite_word_edits(references, hypotheses)

    counts = word_edits(references, hypotheses)

    def resampled() -> None:
        resampled_sums(counts, None, 1000, 0)

    return {
        OURS: lambda: lambda: int(word_edits(references, hypotheses)[:, :3].sum()),
        "rapidfuzz alone, no sub/del/ins": lambda: floor,
        "kaldialign": kaldialign,
        "werpy, the rate alone": werpy,
        "jiwer": jiwer,
        "meeteval": meeteval,
        "asr_emapl character counts": lambda: characters,
        "asr_emapl word counts as sclite weighs": lambda: sclite,
        "asr_emapl 1,000 resamples of the counts": lambda: resampled,
    }


def table(references: Texts, hypotheses: Texts, rounds: int) -> None:
    """Run all implementations alternately, and print their medians."""
    actions: dict[str, Action] = {}
    for name, build in contestants(references, hypotheses).items():
        try:
            actions[name] = build()
        except ImportError as error:
            print(f"skipped: {name} ({error})")
    expected = actions[OURS]()
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.process_time()
            errors = action()
            seconds[name].append(time.process_time() - start)
            if errors not in (None, expected):
                raise SystemExit(f"{name} finds {errors} errors, asr_emapl {expected}")
    words = sum(len(text.split()) for text in references)
    print(f"\n{len(references):,} pairs, {words:,} words, {expected:,} errors; median of {rounds} rounds")
    ours = statistics.median(seconds[OURS])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:40}{1000 * median:10.1f} ms{median / ours:8.2f}")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", help="references (default: random sentences)")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--large-rounds", type=int, default=3)
    options = parser.parse_args()
    texts = sentences(2703)
    if options.manifest:
        texts = [utterance.text or "" for utterance in read_manifest(options.manifest, require_text=True)]
    table(texts, garbled(texts), options.rounds)
    many = (texts * (LARGE_PAIRS // len(texts) + 1))[:LARGE_PAIRS]
    table(many, garbled(many), options.large_rounds)


if __name__ == "__main__":
    main()
