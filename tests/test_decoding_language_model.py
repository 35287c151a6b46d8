"""Language models from text: probabilities that sum to 1, compressed texts, tokens, perplexity, errors."""

from __future__ import annotations

import gzip
import importlib.util
import lzma
import math
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding import language_model
from asr_emapl.decoding.language_model import BuiltModel, NgramConfig, build_arpa, perplexity, sentences
from asr_emapl.decoding.lexicon import read_words
from asr_emapl.decoding.ngram import NgramModel
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import CharacterTokenizer

needs_extra = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("kenlm", "kaldingram"))), reason="needs the extra lm"
)
LINES = ["ADA SAW  BOB", "", "BOB SAW ADA", "ADA SAW A DOG", "A DOG SAW BOB", "BOB RAN"]


@needs_extra
@pytest.mark.parametrize("prune", [0.0, 1e-3])
def test_probabilities_sum_to_one(tmp_path, prune):
    (tmp_path / "text").write_text("\n".join(LINES))
    out = tmp_path / "new" / "lm.arpa"
    assert build_arpa([tmp_path / "text"], out, NgramConfig(2, prune), None) == BuiltModel(5, 0, 0)
    assert [path.name for path in out.parent.iterdir()] == ["lm.arpa"]
    words = read_words(out)
    assert sorted(words) == ["A", "ADA", "BOB", "DOG", "RAN", "SAW"]
    lm = NgramModel(str(out), words)
    every = np.arange(len(words))
    begin = lm.start()
    contexts = [begin, *lm.score(np.full(len(words), begin), every)[0].tolist()]
    for context in contexts:
        here = np.full(len(words), context)
        scores = [*lm.score(here, every)[1], *lm.finish(here[:1])]
        assert sum(10.0**score for score in scores) == pytest.approx(1.0, abs=1e-4)


@needs_extra
def test_compressed_and_several_texts_are_one(tmp_path):
    (tmp_path / "a").write_text("\n".join(LINES))
    (tmp_path / "b.gz").write_bytes(gzip.compress("\n".join(LINES[:3]).encode()))
    (tmp_path / "c.xz").write_bytes(lzma.compress("\n".join(LINES[3:]).encode()))
    for name, texts in (("1.arpa", ["a"]), ("2.arpa", ["b.gz", "c.xz"])):
        build_arpa([tmp_path / text for text in texts], tmp_path / name, NgramConfig(), None)
    assert (tmp_path / "1.arpa").read_bytes() == (tmp_path / "2.arpa").read_bytes()


@needs_extra
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_command_leaves_no_files(tmp_path, number, status):
    rng = random.Random(0)
    lines = (" ".join(rng.choices("ABCDEFGH", k=20)) for _ in range(100_000))
    (tmp_path / "text").write_text("\n".join(lines))
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "asr_emapl", "lm", "--text", str(tmp_path / "text")]
    # In its own process group, like a foreground job; only this process gets the signal, as from a scheduler.
    process = subprocess.Popen(
        [*command, "--out", str(out / "lm.arpa")],
        start_new_session=True,
        # SIGINT is ignored in tests run in the background, and in their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any(out.glob(".lm.*/whole.arpa")) and not any(out.glob(".lm.*/text")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert list(out.iterdir()) == []


@needs_extra
@pytest.mark.parametrize("tokenizer", [None, CharacterTokenizer()], ids=["words", "tokens"])
def test_excluded_sentences_do_not_enter_the_model(tmp_path, tokenizer):
    """The model with exclusions is that of the other lines; a part of a sentence is no sentence."""
    lines = [*LINES, "ADA  RAN UNSEEN", "UNSEEN ADA RAN AND SAW", *LINES]
    (tmp_path / "text").write_text("\n".join(lines))
    (tmp_path / "rest").write_text("\n".join([*LINES, "UNSEEN ADA RAN AND SAW", *LINES]))
    write_manifest(tmp_path / "unlabelled.jsonl", [Utterance("u", "a.wav", 1.0, "ada ran unseen".upper())])
    config = NgramConfig(2, 0.0)
    excluded = [tmp_path / "unlabelled.jsonl"]
    built = build_arpa([tmp_path / "text"], tmp_path / "a.arpa", config, tokenizer, excluded)
    rest = build_arpa([tmp_path / "rest"], tmp_path / "b.arpa", config, tokenizer)
    assert (built.lines, built.excluded) == (rest.lines, 1)
    assert sorted((tmp_path / "a.arpa").open()) == sorted((tmp_path / "b.arpa").open())
    with pytest.raises(UserError, match="not excluded"):
        build_arpa([tmp_path / "text"], tmp_path / "c.arpa", config, tokenizer, [tmp_path / "text"])


@needs_extra
def test_a_model_of_tokens(tmp_path):
    (tmp_path / "text").write_text("\n".join(LINES))
    tokenizer = CharacterTokenizer()
    assert next(sentences([tmp_path / "text"], tokenizer)) == "A D A | S A W | B O B"
    build_arpa([tmp_path / "text"], tmp_path / "lm.arpa", NgramConfig(3, 0.0), tokenizer)
    assert set(read_words(tmp_path / "lm.arpa")) == set("|ABDGNORSW")


@needs_extra
def test_n_grams_without_probability_are_counted(tmp_path):
    """Similar sentences have too few different n-grams to estimate rare ones."""
    middles = (f"{a} {b}" for a in ("ONE", "TWO", "RED") for b in ("DOG", "CAT", "OWL", "FOX"))
    (tmp_path / "text").write_text("\n".join(f"BRING {middle} SIX" for middle in middles))
    built = build_arpa([tmp_path / "text"], tmp_path / "lm.arpa", NgramConfig(5, 0.0), CharacterTokenizer())
    probabilities = [
        line.split("\t")[:2] for line in (tmp_path / "lm.arpa").read_text().splitlines() if "\t" in line
    ]
    impossible = [ngram for p, ngram in probabilities if float(p) <= -99.0 and ngram not in ("<s>", "<unk>")]
    assert built == BuiltModel(12, 0, len(impossible))
    assert impossible


@needs_extra
def test_perplexity_by_hand_and_unknown_words_apart(tmp_path):
    (tmp_path / "lm.arpa").write_text(
        "\n\\data\\\nngram 1=4\nngram 2=1\n\n\\1-grams:\n-99\t<s>\t0\n-1\t</s>\n-2\tA\t0\n-9\t<unk>\n\n"
        "\\2-grams:\n-0.5\tA A\n\n\\end\\\n"
    )
    found = perplexity(tmp_path / "lm.arpa", ["A A", "B"])
    # A, A after A, and the end twice.
    assert found.perplexity == pytest.approx(10 ** ((2 + 0.5 + 1 + 1) / 4), rel=1e-5)
    assert (found.units, found.unknown) == (3, 1)


@needs_extra
def test_errors_are_one_line_and_leave_no_files(tmp_path):
    text, out = tmp_path / "text", tmp_path / "lm.arpa"
    text.write_text("\n \n")
    with pytest.raises(UserError, match="text: has no words"):
        build_arpa([text], out, NgramConfig(), None)
    text.write_text("ADA\nada\n")
    with pytest.raises(UserError, match=r"text:2: characters outside"):
        build_arpa([text], out, NgramConfig(prune=0.0), CharacterTokenizer())
    with pytest.raises(UserError, match="--prune 1e-08: a token-level model cannot be pruned"):
        build_arpa([text], out, NgramConfig(), CharacterTokenizer())
    with pytest.raises(UserError, match=r"lm\.bin: .*\.arpa"):
        build_arpa([text], tmp_path / "lm.bin", NgramConfig(), None)
    with pytest.raises(UserError, match="kaldingram nonsense failed"):
        language_model._run("nonsense")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 6}, {"prune": -1.0}, {"prune": math.nan}])
def test_wrong_options(options):
    with pytest.raises(UserError, match=next(iter(options))):
        NgramConfig(**options)


def test_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldingram", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"kaldingram is not installed; run pip install '.\[lm\]' in the checkout"
    ):
        build_arpa([tmp_path / "text"], tmp_path / "lm.arpa", NgramConfig(), None)


def test_a_word_that_no_reader_accepts_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "text").write_text(f"A B\nA {'W' * 1001}\n" * 20)
    with pytest.raises(UserError, match=r"text:2: a word has more than 1,000 bytes"):
        build_arpa([tmp_path / "text"], tmp_path / "out" / "lm.arpa", NgramConfig(2), None)
    assert not (tmp_path / "out" / "lm.arpa").exists()
