"""Beam search: the best text by brute force, lexicons kept, language models heeded, mistakes named."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.decoding import greedy
from asr_emapl.decoding.beam import BeamConfig, BeamSearch, read_kenlm
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import LetterTokenizer, SentencePieceTokenizer, Tokenizer

needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None,
    reason="needs flashlight-text (the extra lm)",
)
LETTERS = LetterTokenizer(" AB")
PIECES = SentencePieceTokenizer.train(["ADA SAW BOB", "BOB SAW A BIG BOAT", "A DOG SAW ADA"] * 5, 17)

# log10 probabilities; "AB" is a hundred times likelier than the other words.
WORDS_ARPA = """
\\data\\
ngram 1=7
ngram 2=1

\\1-grams:
-99\t<s>\t0
-1\t</s>
-9\t<unk>
-3\tA\t0
-3\tB
-1\tAB
-3\tBA

\\2-grams:
-3\tA A

\\end\\
"""

# The same as KenLM's build_binary writes it (probing), gzipped.
WORDS_BINARY = (
    "H4sIAAAAAAACA8vNTSxQyMlVyCgpKbDS18/OSE1My0zNSdFLzs/VT85PSVVIyy/KTSxRKEstKs7Mz1Mw5WJAgAZ7IL"
    "GfEUj8BwKQCCNUhglMHrBHFmOH0owMqICdATfgyvn+sbb4QTbIPPaGLv9LXKLmzEA226w/+0TzhZhY8OhVL9YwvjC9"
    "p5oNyC6oU9xr2VYKtvvnsbdsx7/P8mIFqxI4CPIIA8OxQxC6YT+EdnCAmOJwAE0cyscEk48sMxe83z8FpMamNC/bjs"
    "GmGIj1gYQjgxODoxODkyMDAM+qnAdxAQAA"
)


def peaky(labels: list[int], size: int, sharpness: float = 4.0) -> torch.Tensor:
    one_hot = torch.nn.functional.one_hot(torch.tensor(labels), size)
    return torch.log_softmax(sharpness * one_hot, dim=-1)


def noise(seed: int, frames: int, size: int) -> torch.Tensor:
    logits = torch.randn(frames, size, generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(2.0 * logits, dim=-1)


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "words.arpa"
    path.write_text(WORDS_ARPA)
    return path


def lexicon_of(folder: Path, *words: str) -> str:
    path = folder / "lexicon.txt"
    path.write_text("".join(f"{word}\n" for word in words))
    return str(path)


@needs_flashlight
@given(seed=st.integers(0, 2**31), frames=st.integers(0, 30))
@settings(max_examples=30)
def test_without_lexicon_and_language_model_the_path_is_the_greedy_one(seed, frames):
    log_probs = noise(seed, frames, LETTERS.vocabulary_size)
    search = BeamSearch(LETTERS, BeamConfig(beam=20))
    assert search(log_probs).tolist() == log_probs.argmax(-1).tolist()
    paths = greedy(log_probs[None], torch.tensor([frames])).to_lists()
    assert search.text(log_probs) == LETTERS.decode(paths[0])


def best_by_brute_force(log_probs, words: dict[str, float], bonus: float) -> tuple[float, set[str]]:
    """The score of the best path of all, and the texts that have it; words -> weighted log probability."""
    found: dict[str, float] = {}
    scores = log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(scores)):
        labels = [label for label, _ in itertools.groupby(path)]
        text = LETTERS.decode(labels)
        if any(word not in words for word in text.split()):
            continue
        score = sum(row[label] for row, label in zip(scores, path, strict=True))
        score += sum(words[word] + bonus for word in text.split())
        found[text] = max(found.get(text, -math.inf), score)
    top = max(found.values())
    return top, {text for text, score in found.items() if score > top - 1e-4}


@needs_flashlight
@given(
    seed=st.integers(0, 2**31),
    weight=st.sampled_from([0.0, 0.5, 1.5]),
    bonus=st.sampled_from([-1.0, 0.0, 2.0]),
)
@settings(max_examples=25)
def test_with_lexicon_and_unigrams_the_text_is_the_best_of_all(tmp_path_factory, seed, weight, bonus):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "words.arpa").write_text(WORDS_ARPA)
    lexicon = lexicon_of(folder, "A", "B", "AB", "BA")
    log_probs = noise(seed, 5, LETTERS.vocabulary_size)
    config = BeamConfig(500, str(folder / "words.arpa"), lexicon, weight, bonus)
    nat = math.log(10.0) * weight
    words = {"A": -3 * nat, "B": -3 * nat, "AB": -nat, "BA": -3 * nat}
    # The end of the sentence costs all the same. A word's space, at least between words, is in the path.
    _, best = best_by_brute_force(log_probs, words, bonus)
    assert BeamSearch(LETTERS, config).text(log_probs) in best


@needs_flashlight
def test_words_outside_the_lexicon_are_not_written(tmp_path):
    a, b, space = (LETTERS.surfaces.index(s) for s in ("A", "B", " "))
    log_probs = peaky([a, 0, a, space, b, b], LETTERS.vocabulary_size)
    assert BeamSearch(LETTERS, BeamConfig(50)).text(log_probs) == "AA B"
    search = BeamSearch(LETTERS, BeamConfig(50, lexicon=lexicon_of(tmp_path, "A", "AB", "B")))
    assert set(search.text(log_probs).split()) <= {"A", "AB", "B"}
    assert search.text(log_probs).endswith(" B")


@needs_flashlight
def test_the_last_word_needs_no_space(tmp_path):
    a, b = LETTERS.surfaces.index("A"), LETTERS.surfaces.index("B")
    log_probs = peaky([a, b], LETTERS.vocabulary_size, 30.0)
    search = BeamSearch(LETTERS, BeamConfig(10, lexicon=lexicon_of(tmp_path, "AB", "B")))
    assert search(log_probs).tolist() == [a, b]


@needs_flashlight
@pytest.mark.parametrize("form", ["arpa", "arpa.gz", "binary"])
def test_the_language_model_decides_where_the_model_does_not(tmp_path, arpa, form):
    a, b = LETTERS.surfaces.index("A"), LETTERS.surfaces.index("B")
    log_probs = torch.full((2, LETTERS.vocabulary_size), -20.0)
    log_probs[0, [a, b]] = torch.tensor([math.log(0.45), math.log(0.55)])
    log_probs[1, [a, b]] = torch.tensor([math.log(0.55), math.log(0.45)])
    lm = tmp_path / f"words.{form}"
    if form == "arpa.gz":
        lm.write_bytes(gzip.compress(arpa.read_bytes()))
    elif form == "binary":
        lm.write_bytes(gzip.decompress(base64.b64decode(WORDS_BINARY)))
    search = BeamSearch(LETTERS, BeamConfig(50, str(lm), str(arpa)))
    assert search.text(log_probs) == "AB"
    assert search.weighted(0.0, 0.0).text(log_probs) == "BA"
    assert search.text(log_probs) == "AB"  # the other one left it as it was


@needs_flashlight
@pytest.mark.parametrize("text", ["BOB SAW ADA", "A BIG DOG", "ADA"])
def test_pieces_with_a_lexicon_that_last_longer_than_a_frame(tmp_path, text):
    labels = [label for label in PIECES.encode(text) for _ in range(3)]
    log_probs = peaky(labels, PIECES.vocabulary_size, 12.0)
    lexicon = lexicon_of(tmp_path, "ADA", "SAW", "BOB", "A", "BIG", "BOAT", "DOG")
    search = BeamSearch(PIECES, BeamConfig(50, lexicon=lexicon))
    assert search.text(log_probs) == text
    assert search(log_probs).tolist() == labels


def token_arpa(tokenizer: Tokenizer) -> str:
    names = {s: "|" if s == " " else s.replace(" ", "\u2581") for s in tokenizer.surfaces if s}
    lines = "".join(f"-{2 if 'A' in s else 1}\t{name}\n" for s, name in names.items())
    head = (
        f"\n\\data\\\nngram 1={len(names) + 3}\nngram 2=1\n\n\\1-grams:\n-99\t<s>\t0\n-1\t</s>\n-9\t<unk>\n"
    )
    return f"{head}{lines}\n\\2-grams:\n-1\t<s> </s>\n\n\\end\\\n"


@needs_flashlight
@pytest.mark.parametrize("tokenizer", [LETTERS, PIECES], ids=["letters", "pieces"])
def test_a_language_model_of_tokens_needs_no_lexicon(tmp_path, tokenizer):
    (tmp_path / "t.arpa").write_text(token_arpa(tokenizer))
    search = BeamSearch(tokenizer, BeamConfig(50, str(tmp_path / "t.arpa")))
    a, b = tokenizer.encode("A")[-1], tokenizer.encode("B")[-1]
    log_probs = torch.full((1, tokenizer.vocabulary_size), -20.0)
    log_probs[0, [a, b]] = torch.tensor([math.log(0.7), math.log(0.3)])
    assert search(log_probs).tolist() == [b]
    assert search.weighted(0.0, 0.0)(log_probs).tolist() == [a]


@needs_flashlight
def test_words_unknown_and_strange_are_told(tmp_path, arpa):
    search = BeamSearch(LETTERS, BeamConfig(5, str(arpa), lexicon_of(tmp_path, "A", "BB", "CC")))
    assert (search.strange, search.unknown) == (["CC"], ["BB"])


@needs_flashlight
def test_what_does_not_belong_together(tmp_path, arpa):
    (tmp_path / "t.arpa").write_text(token_arpa(LetterTokenizer(" abc")))
    text = tmp_path / "text"
    text.write_text("NO MODEL\n")
    xyz = LetterTokenizer(" XYZ")
    for tokenizer, lm, lexicon, what in (
        (xyz, arpa, "", "knows none of the tokens .*--lexicon"),
        (LETTERS, tmp_path / "t.arpa", lexicon_of(tmp_path, "AB"), "knows none of the words"),
        (LETTERS, text, "", "no language model that KenLM reads"),
    ):
        with pytest.raises(UserError, match=what):
            BeamSearch(tokenizer, BeamConfig(5, str(lm), lexicon))
    with pytest.raises(UserError, match="word bonus without a lexicon"):
        BeamSearch(PIECES, BeamConfig(5, word_bonus=1.0))
    with pytest.raises(ValueError, match="expected log_probs"):
        BeamSearch(LETTERS, BeamConfig(5))(torch.zeros(3, 9))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"beam": 0}, "beam of 0"),
        ({"lm": "gone"}, "--lm gone: no such"),
        ({"lexicon": "gone"}, "--lexicon gone"),
    ],
)
def test_wrong_options(options, what):
    with pytest.raises(UserError, match=what):
        BeamConfig(**options)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(UserError, match=r"flashlight-text is not installed: pip install 'asr_emapl\[lm\]'"):
        BeamSearch(LETTERS, BeamConfig(5))


@pytest.mark.parametrize("fault", [RuntimeError(""), RuntimeError("\n \n"), RuntimeError("a\nb \0\1")])
def test_whatever_kenlm_says_is_one_line(monkeypatch, tmp_path, fault):
    kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm", reason="needs the extra lm")

    def refuse(path, known):
        raise fault

    monkeypatch.setattr(kenlm, "KenLM", refuse)
    with pytest.raises(UserError) as told:
        read_kenlm(str(tmp_path / "a.arpa"), ["A"])
    assert str(told.value) == f"{tmp_path}/a.arpa: no language model that KenLM reads (not one at all)"
