"""Error counts of whole files equal sclite's: random stm and ctm pairs, and NIST's test files.

SCTK_SOURCE names a checkout of NIST's SCTK, whose test files are then compared too.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asr_emapl.scoring.evaluation import evaluate
from asr_emapl.scoring.normalisation import Normalisation
from asr_emapl.scoring.tally import ScoringConfig

FOLDER = os.environ.get("SCTK", "/usr/lib/sctk/bin")
SCLITE = shutil.which("sclite", path=f"{FOLDER}:{os.environ.get('PATH', '')}")
SOURCE = os.environ.get("SCTK_SOURCE")
pytestmark = pytest.mark.skipif(SCLITE is None, reason="no sclite: apt install sctk, or set SCTK=its folder")

Errors = tuple[int, ...]
LOWER = Normalisation("lower", "lower case", str.lower)
GAP = "IGNORE_TIME_SEGMENT_IN_SCORING"


def sclite(folder: Path, reference: Path, hypothesis: Path, form: tuple[str, str], *options: str) -> Errors:
    """Return the substitutions, deletions and insertions that sclite counts."""
    assert SCLITE is not None
    files = ("-r", reference, form[0], "-h", hypothesis, form[1])
    command = [SCLITE, *files, *options, "-D", "-o", "pra", "-O", folder, "-n", "theirs"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]
    text = (folder / "theirs.pra").read_text(errors="replace")
    rows = re.findall(r"Scores: \(#C #S #D #I\) \d+ (\d+) (\d+) (\d+)", text)
    return tuple(sum(int(row[k]) for row in rows) for k in range(3))


def counted(reference: Path, hypothesis: Path) -> Errors:
    config = ScoringConfig(allow_missing=True, weights="sclite", resamples=0)
    words = evaluate([str(reference), str(hypothesis)], config, LOWER).total.score.words
    return words.substitutions, words.deletions, words.insertions


def spoken(chooser: random.Random, alternatives: bool) -> str:
    word = chooser.choice("abcdef")
    kind = chooser.random() if alternatives else 1.0
    if kind < 0.1:
        return f"{{ {word} / {chooser.choice('abc')} {chooser.choice('abc')} / @ }}"
    if kind < 0.15:
        return f"{{{word}/{chooser.choice('def')}}}"
    if kind < 0.25:
        return f"({word})"
    return word


def pair(folder: Path, seed: int, alternatives: bool) -> tuple[Path, Path]:
    """Write two channels and two recordings, with gaps and overlaps of segments; some are not scored."""
    chooser = random.Random(seed)
    stm: list[str] = [";; a comment"]
    ctm: list[str] = []
    for place in ("r1 A", "r1 B", "r2 A"):
        time = 0.0
        for number in range(12):
            time = max(0.0, time + chooser.choice([0.0, 0.5, 2.0, -0.7]))
            words = [spoken(chooser, alternatives) for _ in range(chooser.randint(0, 8))]
            end = time + chooser.uniform(1.0, 4.0)
            text = GAP if chooser.random() < 0.1 else " ".join(words)
            stm.append(f"{place} s{number % 3} {time:.2f} {end:.2f} <o,f{number % 2}> {text}")
            time = end
        moments = sorted(chooser.uniform(0.0, time + 2.0) for _ in range(60))
        for moment in moments:
            word = chooser.choice("abcdef") + chooser.choice(["", "", "", ";tag", "*"])
            ctm.append(f"{place.lower()} {moment:.2f} {chooser.uniform(0.05, 0.4):.2f} {word} 0.5")
    # sclite requires segments in the order of their begins.
    stm[1:] = sorted(stm[1:], key=lambda line: (line.split()[:2], float(line.split()[3])))
    paths = folder / "r.stm", folder / "h.ctm"
    for path, lines in zip(paths, (stm, ctm), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("alternatives", [False, True])
def test_random_pairs(tmp_path: Path, seed: int, alternatives: bool) -> None:
    reference, hypothesis = pair(tmp_path, seed, alternatives)
    assert counted(reference, hypothesis) == sclite(tmp_path, reference, hypothesis, ("stm", "ctm"))


TESTDATA, SUITE = "src/sclite/testdata", "src/test_suite"
NIST = [
    *(
        (TESTDATA, f"lvc_{a}.stm", f"lvc_{b}.ctm")
        for a, b in (("ref", "hyp"), ("refe", "hyp"), ("ref", "hypc"))
    ),
    *((TESTDATA, f"lvc_ref{kind}.stm", f"lvc_hyp{kind}.ctm") for kind in "rm"),
    *(
        (TESTDATA, "stm2ctm_missing.ref.stm", f"stm2ctm_missing.hyp{kind}.ctm")
        for kind in (
            *("", "-missall", "-missfile1", "-missfile1chanA", "-missfile1chanb"),
            *("-missfile2", "-missfile2chanA", "-missfile2chanB"),
        )
    ),
    (TESTDATA, "test.cantonese.stm", "test.cantonese.ctm"),
    *(
        (SUITE, f"lvc_refe{a}.stm", f"lvc_hyp{b}.ctm")
        for a in ("", ".notag", ".notag.noat")
        for b in ("", ".notag", "2", "2.notag")
    ),
    (SUITE, "test.arb2004.txt.stm", "test.arb2004.txt.ctm"),
    *((TESTDATA, f"{name}.ref", f"{name}.hyp") for name in ("csrnab", "csrnab1", "tests", "test.turkish")),
    (TESTDATA, "test.ukranian.ref", "test.ukranian.hyp"),
    (TESTDATA, "test.vietnamese.ref.trn", "test.vietnamese.hyp.trn"),
    *((TESTDATA, f"tests.ref.utf8-{n}bytes", f"tests.hyp.utf8-{n}bytes") for n in range(1, 5)),
]


@pytest.mark.skipif(SOURCE is None, reason="set SCTK_SOURCE to a checkout of NIST's SCTK")
@pytest.mark.parametrize(("folder", "reference", "hypothesis"), NIST)
def test_files_of_nist(tmp_path: Path, folder: str, reference: str, hypothesis: str) -> None:
    assert SOURCE is not None
    form = ("stm", "ctm") if reference.endswith(".stm") else ("trn", "trn")
    paths = []
    for name in (reference, hypothesis):
        # sclite matches ids in any case, and its lower case depends on the locale.
        paths.append(tmp_path / (name if form[0] == "stm" else f"{name}.trn"))
        paths[-1].write_text((Path(SOURCE) / folder / name).read_text("utf-8").lower(), "utf-8")
    options = ("-e", "utf-8", "-s") if form[0] == "stm" else ("-e", "utf-8", "-s", "-i", "spu_id")
    if all(path.read_bytes().isascii() for path in paths):
        options = options[2:]
    assert counted(*paths) == sclite(tmp_path, *paths, form, *options)
