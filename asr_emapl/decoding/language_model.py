"""Build n-gram language models: Kneser-Ney smoothing (kaldingram) and pruning (Stolcke 1998).

kaldingram, in the extra `lm`, runs as a separate process, so that its memory (3 GB for a 3-gram of 8 million
words) is freed. Count cutoffs are not exposed, because kaldingram 0.1.2 assigns no probability to words that
lose all their contexts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_emapl.data.manifest import read_manifest
from asr_emapl.decoding.arpa import MAX_WORD_BYTES
from asr_emapl.decoding.beam import token_name
from asr_emapl.decoding.ngram import load_kenlm
from asr_emapl.errors import UserError, require_package
from asr_emapl.storage import publish, read_lines, writing
from asr_emapl.text.tokenizer import Tokenizer

_ORDERS = range(2, 6)  # the orders that kaldingram supports


@dataclass(frozen=True)
class NgramConfig:
    """N-gram order and pruning threshold (maximum relative increase of perplexity per n-gram).

    Do not prune token-level models: kaldingram 0.1.2 fails or leaves n-grams without probability.

    Raises:
        UserError: the order is not supported, or the threshold is negative.
    """

    order: int = 3
    prune: float = 1e-8  # 0: no pruning

    def __post_init__(self) -> None:
        if self.order not in _ORDERS:
            raise UserError(
                f"--order {self.order} is not supported; use {_ORDERS.start} to {_ORDERS.stop - 1}"
            )
        if not 0.0 <= self.prune < 1.0:
            raise UserError(f"--prune {self.prune:g} is out of range; use 0 (no pruning) or more, below 1")


@dataclass(frozen=True)
class BuiltModel:
    """Number of training lines, of excluded lines, and of n-grams without probability in the model."""

    lines: int
    excluded: int
    impossible: int


@dataclass(frozen=True)
class Perplexity:
    """Perplexity over known words (or tokens) and sentence ends, and counts of all and unknown units."""

    perplexity: float
    units: int
    unknown: int


def build_arpa(
    texts: Sequence[Path],
    out: Path,
    config: NgramConfig,
    tokenizer: Tokenizer | None,
    exclude: Sequence[Path] = (),
) -> BuiltModel:
    """Build the language model of texts, one sentence per line, and write it as an ARPA file.

    Args:
        texts: plain, .gz or .xz; they are not normalised.
        out: output path, written atomically.
        tokenizer: builds a token-level model, for beam search without a lexicon; None: a word-level model.
        exclude: texts or manifests whose sentences are left out, such as the transcripts of unlabelled audio.
            Case and whitespace are ignored.

    Raises:
        UserError: kaldingram is not installed or fails; a text cannot be read, or there are no words; pruning
            is requested for a model of tokens; the file cannot be written.
    """
    if tokenizer is not None and config.prune:
        raise UserError(f"--prune {config.prune:g}: a token-level model cannot be pruned; omit --prune")
    if out.suffix.lower() != ".arpa":
        raise UserError(f"{out}: the file name must end in .arpa, because decoders depend on it")
    require_package("kaldingram", "lm")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # Use the disk of the result, because /tmp may be small.
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.parent) as name:
            folder = Path(name)
            lines, excluded = _write_text(folder / "text", texts, tokenizer, exclude)
            arpa = _estimate(folder, config)
            impossible = 0
            with publish(str(out)) as target, arpa.open("rb") as source:
                for line in source:
                    target.write(_with_unknown(line))
                    # Only the beginning of a sentence has no probability, because it is never predicted.
                    impossible += line.startswith(b"-99") and line.split()[1] != b"<s>"
    return BuiltModel(lines, excluded, impossible)


def _with_unknown(line: bytes) -> bytes:
    """Add the unigram <unk> to an ARPA line; KenLM prints a warning on every load without it."""
    if line.startswith(b"ngram 1="):
        return b"ngram 1=%d\n" % (int(line.partition(b"=")[2]) + 1)
    return line + b"-100\t<unk>\n" if line.startswith(b"\\1-grams:") else line


def _write_text(
    path: Path, texts: Sequence[Path], tokenizer: Tokenizer | None, exclude: Sequence[Path]
) -> tuple[int, int]:
    """Write the sentences to one file, and return how many were written and excluded."""
    unwanted = {sentence.casefold() for sentence in sentences(exclude, tokenizer)}
    count = excluded = 0
    with path.open("w", encoding="utf-8") as file:
        for sentence in sentences(texts, tokenizer):
            if sentence.casefold() in unwanted:
                excluded += 1
            else:
                file.write(sentence + "\n")
                count += 1
    if not count:
        raise UserError(f"{texts[0]}: has no words" + (" that are not excluded" if excluded else ""))
    return count, excluded


def _estimate(folder: Path, config: NgramConfig) -> Path:
    """Estimate a model from folder/text and return the path of the ARPA file."""
    text, full, pruned = (folder / name for name in ("text", "whole.arpa", "pruned.arpa"))
    _run("train", "--ngram-order", str(config.order), "--text", str(text), "--lm", str(full))
    if not config.prune:
        return full
    threshold = f"{config.prune:g}"
    _run("prune", "--threshold", threshold, "--lm", str(full), "--write-lm", str(pruned))
    return pruned


def sentences(texts: Iterable[Path], tokenizer: Tokenizer | None) -> Iterator[str]:
    """Yield the non-empty lines of texts (or transcripts of manifests), with whitespace collapsed.

    Args:
        texts: files of lines, or manifests (.jsonl, also compressed).
        tokenizer: if given, sentences are converted to its tokens.

    Raises:
        UserError: a text cannot be read, or has characters that the tokenizer does not know, or a word is too
            long for language model readers.
    """
    for path in texts:
        for number, line in _lines(path):
            words = line.split()
            if max((len(word.encode()) for word in words), default=0) > MAX_WORD_BYTES:
                raise UserError(
                    f"{path}:{number}: a word has more than {MAX_WORD_BYTES:,} bytes; is it a text file?"
                )
            sentence = " ".join(words)
            try:
                yield sentence if tokenizer is None else _as_tokens(sentence, tokenizer)
            except UserError as error:
                raise UserError(f"{path}:{number}: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a text, or of each transcript of a manifest."""
    if ".jsonl" in path.suffixes:
        return enumerate((u.text for u in read_manifest(path) if u.text is not None), start=1)
    return iter(read_lines(path))


def perplexity(arpa: Path, lines: Iterable[str]) -> Perplexity:
    """The perplexity of lines of words (or tokens) separated by spaces.

    Raises:
        UserError: KenLM is not installed, or the model cannot be read.
    """
    model = load_kenlm(str(arpa))
    total, predicted, units, unknown = 0.0, 0, 0, 0
    for line in lines:
        scores = list(model.full_scores(line, bos=True, eos=True))
        known = [score for score, _, is_unknown in scores if not is_unknown]
        total += sum(known)
        predicted += len(known)
        units += len(scores) - 1
        unknown += len(scores) - len(known)
    return Perplexity(10.0 ** (-total / max(1, predicted)), units, unknown)


def _as_tokens(sentence: str, tokenizer: Tokenizer) -> str:
    return " ".join(token_name(tokenizer.surfaces[label]) for label in tokenizer.encode(sentence))


def _run(*arguments: str) -> None:
    """Run kaldingram's command line; it shows its progress bars only on a terminal."""
    is_terminal = sys.stderr.isatty()
    result = subprocess.run(
        [sys.executable, "-m", "kaldingram.cli", *arguments],
        env=os.environ if is_terminal else {**os.environ, "TQDM_DISABLE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=None if is_terminal else subprocess.PIPE,
        check=False,
    )
    if result.returncode:
        last = (result.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"kaldingram {arguments[0]} failed (status {result.returncode}): {' '.join(last)} "
            "(use more text or a machine with more memory, or --prune 0, which needs less of both)"
        )
