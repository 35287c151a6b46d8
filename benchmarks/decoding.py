"""Compare beam searches: WER and speed on the posteriors of a trained model, in one process.

    python benchmarks/decoding.py --checkpoint runs/ema --manifest data/dev-other.jsonl --lm 3gram.arpa \\
        --tune data/dev-clean.jsonl

The language model is a word model, and its words are the lexicon. This requires the extra `lm`.
ctc-beam-decoder and fast-ctc-decode are included if they are installed. Language model weight and
word bonus of each search are the best in a small grid on the utterances of --tune. Speed is computed
from processor time, as the best of several rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr_emapl.checkpoints.recognizer import load_recognizer
from asr_emapl.ctc import greedy
from asr_emapl.data.manifest import read_manifest
from asr_emapl.decoding.beam import BeamConfig, BeamSearch
from asr_emapl.decoding.lexicon import read_words
from asr_emapl.decoding.transcribe import Recognizer
from asr_emapl.scoring import score
from asr_emapl.scoring.wer import Score
from asr_emapl.text.tokenizer import Tokenizer

Decode = Callable[[Tensor], str]
# Language model weight (for natural logarithms) and bonus per word.
_WEIGHTS = tuple((weight, bonus) for weight in (0.1, 0.25, 0.5, 1.0) for bonus in (0.0, 2.0))
_BEAMS = (8, 32, 100)
# Minimum log-probability of a token, and of a hypothesis relative to the best one: defaults and wider limits.
_PRUNING = ((-5.0, -10.0), (-12.0, -25.0))


def searches(tokenizer: Tokenizer, lm: str) -> Iterator[tuple[str, list[Decode]]]:
    """Name of each row, and its searches; the row shows the search that is best on --tune."""
    yield "greedy", [lambda x: tokenizer.decode(greedy(x[None], torch.tensor([len(x)])).to_lists()[0])]
    yield "asr_emapl without LM, lexicon; beam 32", [BeamSearch(tokenizer, BeamConfig(32)).text]
    for beam in _BEAMS:
        base = BeamSearch(tokenizer, BeamConfig(beam, lm, lm))
        yield f"asr_emapl, beam {beam}", [base.weighted(*w).text for w in _WEIGHTS]
    if importlib.util.find_spec("ctc_beam_decoder"):
        yield from _ctc_beam_decoder(tokenizer, lm)
    if importlib.util.find_spec("fast_ctc_decode") and all(len(s) == 1 for s in tokenizer.surfaces[1:]):
        from fast_ctc_decode import beam_search

        letters = "".join(["_", *(s if s != " " else "|" for s in tokenizer.surfaces[1:])])
        yield (
            "fast-ctc-decode without LM, beam 8",
            [
                lambda x: " ".join(
                    beam_search(np.exp(x.numpy()), letters, 8, 1e-3)[0].replace("|", " ").split()
                )
            ],
        )


def _ctc_beam_decoder(tokenizer: Tokenizer, lm: str) -> Iterator[tuple[str, list[Decode]]]:
    from ctc_beam_decoder import build_ctcdecoder

    words = read_words(Path(lm))
    labels = [s if s == " " else s.replace(" ", "\u2581") for s in tokenizer.surfaces]
    # SentencePiece's unknown piece has no text, like the blank.
    labels[1:] = [label or "<unk>" for label in labels[1:]]
    # Score of an unknown word: the package's default, and one so low that hardly any is output.
    for kind, unknown in (("open", -10.0), ("closed", -1000.0)):
        made = [build_ctcdecoder(labels, lm, words, weight, bonus, unknown) for weight, bonus in _WEIGHTS]
        for token, beam_prune in _PRUNING:
            for beam in _BEAMS:
                options = {"beam_width": beam, "token_min_logp": token, "beam_prune_logp": beam_prune}
                yield (
                    f"ctc-beam-decoder, {kind}, prune {token:g} {beam_prune:g}, beam {beam}",
                    [
                        lambda x, d=d, o=options: d.decode(x.numpy(), **o)  # type: ignore[misc]
                        for d in made
                    ],
                )


@dataclass(frozen=True)
class Speech:
    """The log-probabilities and the reference transcripts of utterances."""

    log_probs: dict[str, Tensor]
    references: dict[str, str]
    seconds: float

    @staticmethod
    def of(recognizer: Recognizer, manifest: str, every: int) -> Speech:
        """Every n-th utterance of a manifest."""
        utterances = read_manifest(manifest, require_text=True)[::every]
        log_probs = {id_: x.clone() for b in recognizer.posteriors(utterances) for id_, x in b.each()}
        references = {u.id: u.text or "" for u in utterances}
        return Speech(log_probs, references, sum(u.duration for u in utterances))

    def decoded(self, decode: Decode) -> tuple[Score, float]:
        """The score, and the processor time in seconds."""
        start = time.process_time()
        hypotheses = {id_: decode(x) for id_, x in self.log_probs.items()}
        return score(self.references, hypotheses), time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--lm", required=True)
    parser.add_argument("--tune", required=True, help="manifest for choosing the weights")
    parser.add_argument("--every", type=int, default=1, help="use every n-th utterance of both (default 1)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trust", action="append", default=[], help="package of the checkpoint's model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recognizer = load_recognizer(arguments.checkpoint, "teacher", "cpu", arguments.trust)
    tune, test = (Speech.of(recognizer, m, arguments.every) for m in (arguments.tune, arguments.manifest))
    print(f"{len(test.log_probs)} utterances, {test.seconds:.0f} s; tuned on {tune.seconds:.0f} s\n")
    print("| search | WER % | CER % | x real time |\n|---|---|---|---|")
    for name, candidates in searches(recognizer.tokenizer, arguments.lm):
        decode = candidates[0]
        if len(candidates) > 1:
            decode = min(candidates, key=lambda c: tune.decoded(c)[0].words.rate)
        rounds = [test.decoded(decode) for _ in range(arguments.rounds)]
        result, speed = rounds[0][0], test.seconds / min(taken for _, taken in rounds)
        wer, cer = 100 * result.words.rate, 100 * result.characters.rate
        print(f"| {name} | {wer:.2f} | {cer:.2f} | {speed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
