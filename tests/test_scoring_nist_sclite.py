"""sclite's alignments: costs against a plain search, and equality with sclite where it is installed."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.scoring.alignment import align
from asr_emapl.scoring.alignment_files import pra
from asr_emapl.scoring.nist.matched_pairs import matched_pairs, segment_differences
from asr_emapl.scoring.nist.sclite import sclite_word_edits
from asr_emapl.scoring.wer import word_edits

SENTENCE = st.lists(st.sampled_from("ABC"), max_size=8).map(" ".join)
# Debian's package sctk puts its programs here; elsewhere they are on the PATH.
FOLDER = os.environ.get("SCTK", "/usr/lib/sctk/bin")
SCLITE = shutil.which("sclite", path=f"{FOLDER}:{os.environ.get('PATH', '')}")
needs_sclite = pytest.mark.skipif(
    SCLITE is None, reason="no sclite: apt install sctk, or set SCTK=its folder"
)


def least_cost(reference: list[str], hypothesis: list[str]) -> int:
    @cache
    def cost(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 3 * (i + j)
        diagonal = cost(i - 1, j - 1) + (0 if reference[i - 1] == hypothesis[j - 1] else 4)
        return min(diagonal, cost(i - 1, j) + 3, cost(i, j - 1) + 3)

    return cost(len(reference), len(hypothesis))


@settings(deadline=None)
@given(reference=SENTENCE, hypothesis=SENTENCE)
def test_counts_and_alignments_have_the_least_cost_and_agree(reference: str, hypothesis: str) -> None:
    substitutions, deletions, insertions, length = sclite_word_edits([reference], [hypothesis])[0].tolist()
    words, spoken = reference.split(), hypothesis.split()
    assert 4 * substitutions + 3 * (deletions + insertions) == least_cost(words, spoken)
    assert length == len(words)
    assert insertions - deletions == len(spoken) - len(words)
    alignment = align(reference, hypothesis, weights="sclite")
    assert (alignment.reference, alignment.hypothesis) == (words, spoken)
    counts = alignment.counts
    assert [counts.substitutions, counts.deletions, counts.insertions] == [
        substitutions,
        deletions,
        insertions,
    ]
    assert substitutions + deletions + insertions >= word_edits([reference], [hypothesis])[0, :3].sum()


def test_weights_can_cause_more_errors() -> None:
    # Five substitutions cost 20, three deletions and three insertions 18.
    pair = (["P Q R A B"], ["A B X Y Z"])
    assert sclite_word_edits(*pair)[0].tolist() == [0, 3, 3, 5]
    assert word_edits(*pair)[0].tolist() == [5, 0, 0, 5]
    assert sclite_word_edits(["A B"], ["B C"])[0].tolist() == [0, 1, 1, 2]
    assert word_edits(["A B"], ["B C"])[0].tolist() == [2, 0, 0, 2]


def corpus(vocabulary: int, rate: float, seed: int) -> list[str]:
    """300 sentences, the same for all error rates, with errors at this rate."""
    words = [f"w{i}" for i in range(vocabulary)]
    truth, chooser = random.Random(0), random.Random(seed)
    sentences = []
    for _ in range(300):
        sentence = []
        for word in truth.choices(words, k=truth.randint(1, 25)):
            draw = chooser.random()
            if draw < rate:
                sentence.append(chooser.choice(words))
            elif draw >= 1.5 * rate:
                sentence += [word, chooser.choice(words)] if draw < 2 * rate else [word]
        sentences.append(" ".join(sentence))
    return sentences


def run(folder: Path, program: str, *arguments: str, given: str | None = None) -> None:
    assert SCLITE is not None
    path = Path(SCLITE).with_name(program)
    subprocess.run([path, *arguments], cwd=folder, check=True, capture_output=True, text=True, input=given)


def sclite(folder: Path, **systems: list[str]) -> None:
    """Run sclite on each system with the references `ref`, to write .pra and .sgml files."""
    for name, texts in systems.items():
        lines = (f"{text} (s{u % 7}-{u:04})\n" for u, text in enumerate(texts))
        (folder / f"{name}.trn").write_text("".join(lines))
    for name in systems.keys() - {"ref"}:
        files = ("-r", "ref.trn", "trn", "-h", f"{name}.trn", "trn", "-i", "spu_id")
        run(folder, "sclite", "-s", *files, "-o", "pra", "sgml", "-O", ".", "-n", name)


@needs_sclite
@pytest.mark.parametrize("vocabulary", [3, 10, 3000])
@pytest.mark.parametrize("rate", [0.08, 0.4])
def test_equals_sclite(tmp_path: Path, vocabulary: int, rate: float) -> None:
    references, hypotheses = corpus(vocabulary, 0.0, 0), corpus(vocabulary, rate, 1)
    sclite(tmp_path, ref=references, a=hypotheses)
    theirs = (tmp_path / "a.pra").read_text()
    scores = re.findall(r"id: \(s\d-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", theirs)
    assert len(scores) == 300
    ours = sclite_word_edits(references, hypotheses)
    for name, correct, *errors in scores:
        assert ours[int(name), :3].tolist() == [int(count) for count in errors]
        assert ours[int(name), 3] == int(correct) + int(errors[0]) + int(errors[1])
    # Speaker by speaker, as sclite sorts them.
    rows = sorted(range(300), key=lambda u: (u % 7, u))
    alignments = [
        align(references[u], hypotheses[u], f"s{u % 7}-{u:04}", f"s{u % 7}", "sclite") for u in rows
    ]
    assert lines(pra(alignments, "a.trn")) == lines(theirs.split("\n"))


def lines(file) -> list[str]:
    """The lines that are not empty, without spaces at their ends."""
    return [line.rstrip() for line in file if line.strip()]


@needs_sclite
def test_matched_pairs_equal_sc_stats(tmp_path: Path) -> None:
    references, first, second = (corpus(50, rate, seed) for seed, rate in enumerate((0.0, 0.1, 0.08)))
    sclite(tmp_path, ref=references, a=first, b=second)
    both = (tmp_path / "a.sgml").read_text() + (tmp_path / "b.sgml").read_text()
    run(tmp_path, "sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "both", given=both)
    found = re.search(
        r"MTCH_PR_RESULTS .*# segs: (\d+)\).*mean: (\S+)\) \(std dev: (\S+)\) \(Z Stat: (\S+)\)",
        (tmp_path / "both.stats.mapsswe").read_text(),
    )
    assert found is not None
    systems = (
        [align(*pair, weights="sclite") for pair in zip(references, texts, strict=True)]
        for texts in (first, second)
    )
    ours = matched_pairs([d for a, b in zip(*systems, strict=True) for d in segment_differences(a, b)])
    assert ours.segments == int(found[1])
    assert ours.z is not None
    numbers = (ours.mean, ours.deviation, ours.z)
    assert numbers == pytest.approx([float(found[i]) for i in (2, 3, 4)], abs=6e-4)
