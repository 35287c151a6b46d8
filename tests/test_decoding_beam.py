"""Beam search: agrees with brute force, keeps to lexicons, uses language models, reports mistakes."""

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

from asr_emapl.ctc import greedy
from asr_emapl.decoding.beam import MAX_BEAM, BeamConfig, BeamSearch, token_name
from asr_emapl.errors import UserError
from asr_emapl.text.tokenizer import CharacterTokenizer, SentencePieceTokenizer, Tokenizer

needs_kenlm = pytest.mark.skipif(
    importlib.util.find_spec("kenlm") is None,
    reason="needs KenLM (the extra lm)",
)
CHARACTERS = CharacterTokenizer(" AB")
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


@given(seed=st.integers(0, 2**31), frames=st.integers(0, 30))
@settings(max_examples=30)
def test_without_lexicon_and_language_model_the_path_is_the_greedy_one(seed, frames):
    log_probs = noise(seed, frames, CHARACTERS.vocabulary_size)
    search = BeamSearch(CHARACTERS, BeamConfig(beam=20))
    assert search(log_probs).tolist() == log_probs.argmax(-1).tolist()
    paths = greedy(log_probs[None], torch.tensor([frames])).to_lists()
    assert search.text(log_probs) == CHARACTERS.decode(paths[0])


class Pieces:
    """Labels of which several sequences spell the same word, as in a tokenizer of pieces."""

    surfaces = ("", " A", " AB", "B", "A")
    vocabulary_size, fingerprint = 5, "pieces"

    def decode(self, labels: list[int]) -> str:
        return "".join(self.surfaces[label] for label in labels).strip()

    def encode(self, text: str) -> list[int]:
        return [1 for _ in text]


def reference(
    log_probs, tokenizer, lexicon: set[str] | None, lm, weight: float, bonus: float
) -> dict[tuple[int, ...], float]:
    """The score of every path that is possible, by the formula in `BeamSearch`."""
    scores, found = log_probs.tolist(), {}
    of_text: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(scores)):
        labels = tuple(label for label, _ in itertools.groupby(path) if label)
        if labels not in of_text:
            surfaces = [tokenizer.surfaces[label] for label in labels]
            words = "".join(surfaces).split()
            # Characters without a space before them open no word of a lexicon, but at the beginning.
            possible = lexicon is None or all(word in lexicon for word in words)
            units = words if lexicon is not None else [token_name(surface) for surface in surfaces]
            log10 = lm.score(" ".join(units), bos=True, eos=True) if lm is not None else 0.0
            of_text[labels] = weight * math.log(10.0) * log10 + bonus * len(words) if possible else -math.inf
        found[path] = sum(row[i] for row, i in zip(scores, path, strict=True)) + of_text[labels]
    return found


TOKENS_ARPA = """
\\data\\
ngram 1={count}
ngram 2=3

\\1-grams:
-99\t<s>\t-0.3
-1\t</s>
-9\t<unk>
{lines}

\\2-grams:
-0.1\t<s> {first}
-0.2\t{first} {second}
-0.7\t{second} </s>

\\end\\
"""


def write_arpa(path: Path, units: list[str]) -> str:
    """A language model of these units, in which context counts."""
    lines = "\n".join(f"-{0.5 + 0.4 * i:g}\t{unit}\t-0.{i + 1}" for i, unit in enumerate(units))
    text = TOKENS_ARPA.format(count=len(units) + 3, lines=lines, first=units[1], second=units[0])
    path.write_text(text)
    return str(path)


@needs_kenlm
@pytest.mark.parametrize("kind", ["characters", "pieces"])
@pytest.mark.parametrize("has_lexicon", [True, False])
@pytest.mark.parametrize("has_lm", [True, False])
def test_the_search_finds_the_best_of_all_paths(tmp_path, kind, has_lexicon, has_lm):
    """With a beam that is never full; 40 random cases per kind of search."""
    import kenlm

    tokenizer = CHARACTERS if kind == "characters" else Pieces()
    words = ["A", "B", "AB", "BA"]
    lexicon = lexicon_of(tmp_path, *words) if has_lexicon else ""
    units = words if has_lexicon else [token_name(surface) for surface in tokenizer.surfaces[1:]]
    arpa = write_arpa(tmp_path / "lm.arpa", units) if has_lm else ""
    lm = kenlm.Model(arpa) if has_lm else None
    base = BeamSearch(tokenizer, BeamConfig(2_000, arpa, lexicon))
    for seed in range(40):
        weight, bonus = (0.0, 0.5, 1.5)[seed % 3], (-1.0, 0.0, 2.0)[seed // 3 % 3]
        log_probs = noise(seed, 5, tokenizer.vocabulary_size)
        path = tuple(base.weighted(weight, bonus)(log_probs).tolist())
        every = reference(log_probs, tokenizer, set(words) if has_lexicon else None, lm, weight, bonus)
        assert every[path] == pytest.approx(max(every.values()), abs=1e-4)


def test_words_outside_the_lexicon_are_not_written(tmp_path):
    a, b, space = (CHARACTERS.surfaces.index(s) for s in ("A", "B", " "))
    log_probs = peaky([a, 0, a, space, b, b], CHARACTERS.vocabulary_size)
    assert BeamSearch(CHARACTERS, BeamConfig(50)).text(log_probs) == "AA B"
    search = BeamSearch(CHARACTERS, BeamConfig(50, lexicon=lexicon_of(tmp_path, "A", "AB", "B")))
    assert set(search.text(log_probs).split()) <= {"A", "AB", "B"}
    assert search.text(log_probs).endswith(" B")


def test_the_last_word_needs_no_space(tmp_path):
    a, b = CHARACTERS.surfaces.index("A"), CHARACTERS.surfaces.index("B")
    log_probs = peaky([a, b], CHARACTERS.vocabulary_size, 30.0)
    search = BeamSearch(CHARACTERS, BeamConfig(10, lexicon=lexicon_of(tmp_path, "AB", "B")))
    assert search(log_probs).tolist() == [a, b]


@needs_kenlm
@pytest.mark.parametrize("form", ["arpa", "arpa.gz", "binary"])
def test_the_language_model_decides_where_the_model_does_not(tmp_path, arpa, form):
    a, b = CHARACTERS.surfaces.index("A"), CHARACTERS.surfaces.index("B")
    log_probs = torch.full((2, CHARACTERS.vocabulary_size), -20.0)
    log_probs[0, [a, b]] = torch.tensor([math.log(0.45), math.log(0.55)])
    log_probs[1, [a, b]] = torch.tensor([math.log(0.55), math.log(0.45)])
    lm = tmp_path / f"words.{form}"
    if form == "arpa.gz":
        lm.write_bytes(gzip.compress(arpa.read_bytes()))
    elif form == "binary":
        lm.write_bytes(gzip.decompress(base64.b64decode(WORDS_BINARY)))
    search = BeamSearch(CHARACTERS, BeamConfig(50, str(lm), str(arpa)))
    assert search.text(log_probs) == "AB"
    assert search.weighted(0.0, 0.0).text(log_probs) == "BA"
    assert search.text(log_probs) == "AB"  # the other search did not change it


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


@needs_kenlm
@pytest.mark.parametrize("tokenizer", [CHARACTERS, PIECES], ids=["characters", "pieces"])
def test_a_language_model_of_tokens_needs_no_lexicon(tmp_path, tokenizer):
    (tmp_path / "t.arpa").write_text(token_arpa(tokenizer))
    search = BeamSearch(tokenizer, BeamConfig(50, str(tmp_path / "t.arpa")))
    a, b = tokenizer.encode("A")[-1], tokenizer.encode("B")[-1]
    log_probs = torch.full((1, tokenizer.vocabulary_size), -20.0)
    log_probs[0, [a, b]] = torch.tensor([math.log(0.7), math.log(0.3)])
    assert search(log_probs).tolist() == [b]
    assert search.weighted(0.0, 0.0)(log_probs).tolist() == [a]


@needs_kenlm
def test_unknown_and_unspellable_words_are_listed(tmp_path, arpa):
    search = BeamSearch(CHARACTERS, BeamConfig(5, str(arpa), lexicon_of(tmp_path, "A", "BB", "CC")))
    assert (search.unspellable, search.unknown) == (["CC"], ["BB"])


@needs_kenlm
def test_mismatched_files_are_refused(tmp_path, arpa):
    (tmp_path / "t.arpa").write_text(token_arpa(CharacterTokenizer(" abc")))
    (tmp_path / "own.arpa").write_text(token_arpa(CHARACTERS))
    (tmp_path / "no_space.arpa").write_text(token_arpa(CHARACTERS).replace("|", "_"))
    text = tmp_path / "text"
    text.write_text("NO MODEL\n")
    words = lexicon_of(tmp_path, "AB", "BA", "BB", "ABBA")
    for lm, lexicon, what in (
        (arpa, "", r"words\.arpa: does not know .*tokens.*--lexicon"),
        (tmp_path / "no_space.arpa", "", r"no_space\.arpa: does not know .*'\|'"),
        (tmp_path / "t.arpa", words, "does not know 4 of the lexicon's 4 words"),
        (tmp_path / "own.arpa", words, "omit --lexicon"),
        (text, "", "not a language model"),
    ):
        with pytest.raises(UserError, match=what):
            BeamSearch(CHARACTERS, BeamConfig(5, str(lm), lexicon))
    with pytest.raises(ValueError, match="expected log_probs"):
        BeamSearch(CHARACTERS, BeamConfig(5))(torch.zeros(3, 9))


def test_weights_of_another_tokenizer_are_refused():
    assert BeamSearch(CHARACTERS, BeamConfig(5, tokenizer=CHARACTERS.fingerprint)).unspellable == []
    with pytest.raises(UserError, match=r"another tokenizer.*tune-lm"):
        BeamSearch(CHARACTERS, BeamConfig(5, tokenizer=PIECES.fingerprint))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"beam": 0}, "beam size 0"),
        ({"beam": MAX_BEAM + 1}, "beam size 10001"),
        ({"lm": "gone"}, "--lm gone: no such"),
        ({"lexicon": "gone"}, "--lexicon gone"),
        ({"lm": "/dev"}, "--lm /dev: not a regular file"),
        ({"lm_weight": math.nan}, "weight nan"),
        ({"lm_weight": -1.0}, "weight -1"),
        ({"word_bonus": math.inf}, "bonus inf"),
        ({"word_bonus": -(10**29)}, r"bonus -1e\+29"),
        ({"lm_weight": 10**29}, r"weight 1e\+29"),
    ],
)
def test_wrong_options(options, what):
    with pytest.raises(UserError, match=what):
        BeamConfig(**options)


def test_missing_package_is_named(monkeypatch, arpa):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    assert BeamSearch(CHARACTERS, BeamConfig(5)).text(noise(0, 3, CHARACTERS.vocabulary_size)) is not None
    with pytest.raises(UserError, match=r"kenlm is not installed; run pip install '.\[lm\]' in the checkout"):
        BeamSearch(CHARACTERS, BeamConfig(5, str(arpa)))
