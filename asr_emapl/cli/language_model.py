"""Commands for language models: lm, tune-lm, calibrate-lm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_emapl.cli.options import TrustOption, non_negative
from asr_emapl.cli.recognizer import (
    CheckpointOption,
    DeviceOption,
    LexiconOption,
    LmOption,
    ModelOption,
    audio_files,
    model_files,
    open_recognizer,
    open_search,
)
from asr_emapl.errors import UserError
from asr_emapl.storage import check_outputs
from asr_emapl.terminal import print_table, say, say_written, warn

if TYPE_CHECKING:
    from torch import Tensor

    from asr_emapl.cli.left_out import LeftOutList
    from asr_emapl.data.utterance import Utterance
    from asr_emapl.decoding.beam import BeamConfig
    from asr_emapl.decoding.transcribe import Recognizer
    from asr_emapl.decoding.tuning import GridPoint

commands = typer.Typer()


@commands.command("lm")
def language_model(
    text: Annotated[
        list[Path],
        typer.Option(
            help="Text (one sentence per line) or manifest (.jsonl), also .gz, .xz; may be repeated."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Language model to write (.arpa).")],
    order: Annotated[int, typer.Option(help="Maximum number of words (or tokens) in an n-gram.")] = 3,
    prune: Annotated[
        float | None,
        non_negative(
            "Prune n-grams whose removal changes perplexity by less than this fraction; 0: no pruning.",
            show_default="1e-8; 0 with --tokenizer",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Build a token-level model, for beam search without a lexicon.")
    ] = None,
    held_out: Annotated[Path | None, typer.Option(help="Text for computing the perplexity.")] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            help="Text or manifest whose sentences are left out, such as the transcripts of unlabelled audio "
            "that the model helps to label; may be repeated."
        ),
    ] = None,
) -> None:
    """Build an n-gram language model from text, which must be normalised like the transcripts.

    Example: `asr-emapl lm --text lm-text.txt.xz --out 3gram.arpa`
    """
    from asr_emapl.decoding.language_model import NgramConfig, build_arpa, perplexity, sentences
    from asr_emapl.text.tokenizer import load_tokenizer

    check_outputs([out], [*text, tokenizer, held_out, *(exclude or ())])
    tokens = load_tokenizer(tokenizer) if tokenizer else None
    if prune is None:
        prune = NgramConfig.prune if tokens is None else 0.0
    # Read before the model is built, which can take hours, so that an unreadable text fails immediately.
    unseen = list(sentences([held_out], tokens)) if held_out else []
    built = build_arpa(text, out, NgramConfig(order, prune), tokens, exclude or ())
    left_out = f", {built.excluded} excluded" if exclude else ""
    say(f"{out}: {order}-gram trained on {built.lines} lines{left_out}")
    if built.impossible:
        warn(
            f"warning: {built.impossible} n-grams have no probability, because the text is too short or too "
            f"uniform for this order; reduce --order (now {order}) or add text"
        )
    if held_out:
        p = perplexity(out, unseen)
        unknown = f"{p.unknown} of {p.units} tokens out of vocabulary (excluded)"
        say(f"{held_out}: perplexity {p.perplexity:.1f}, {unknown}")


@commands.command("tune-lm")
def tune_lm(
    checkpoint: CheckpointOption,
    manifest: Annotated[
        str, typer.Option(help="Transcribed utterances for tuning, not the test set: path or URL.")
    ],
    lm: LmOption,
    out: Annotated[
        Path,
        typer.Option(
            help="File for the best weights (JSON), used by --lm-config. A plot is written beside it (.png)."
        ),
    ],
    lexicon: LexiconOption = "",
    beam: Annotated[int, typer.Option(help="Beam size.")] = 50,
    weights: Annotated[
        str, typer.Option(help="Language model weights to try, comma-separated.")
    ] = "0,0.25,0.5,1,1.5,2",
    bonuses: Annotated[str, typer.Option(help="Word bonuses to try, comma-separated.")] = "-2,0,2,4",
    model: ModelOption = "teacher",
    device: DeviceOption = "auto",
    max_seconds: Annotated[float, non_negative("Padded seconds of audio in one batch.")] = 120.0,
    trust: TrustOption = None,
) -> None:
    """Choose language model weight and word bonus by a grid search for the lowest WER on held-out speech.

    Exits with 1 if some audio could not be decoded; the WER is computed on the remaining utterances.

    Example: `asr-emapl tune-lm --checkpoint runs/mini --manifest data/dev-clean.jsonl --lm 3gram.arpa \\
    --lexicon 3gram.arpa --out lm.json`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.decoding import tuning
    from asr_emapl.decoding.beam import BeamConfig
    from asr_emapl.progress import track

    lm_weights, word_bonuses = _numbers("--weights", weights), _numbers("--bonuses", bonuses)
    utterances = read_manifest(manifest, require_text=True)
    config = BeamConfig(beam, lm, lexicon)
    check_outputs([out])  # a plot cannot be written next to an output without a file name
    picture = out.with_suffix(".png")
    check_outputs([out, picture], [manifest, *model_files(checkpoint, config), *audio_files(utterances)])
    recognizer = open_recognizer(checkpoint, model, device, trust)
    search = open_search(recognizer.tokenizer, config)
    log_probs, left_out = _log_probs(recognizer, utterances, max_seconds)
    references = {u.id: u.text or "" for u in utterances if u.id in log_probs}
    grid = tuning.grid(search, log_probs, references, lm_weights, word_bonuses)
    points = list(track(grid, "searching", len(lm_weights) * len(word_bonuses), "pairs of weights"))
    _print_grid(points, lm_weights, word_bonuses)
    chosen = tuning.best(points)
    config = replace(config, lm_weight=chosen.lm_weight, word_bonus=chosen.word_bonus)
    config = replace(config, tokenizer=recognizer.tokenizer.fingerprint)
    tuning.write_config(out, config, wer_percent=chosen.wer)
    _draw_grid(points, picture)
    weighted = f"weight {chosen.lm_weight:g}, bonus {chosen.word_bonus:g}"
    say_written(out, f"{out}: {weighted}, WER {chosen.wer:.2f} %")
    greedy = tuning.greedy_wer(log_probs, references, recognizer.tokenizer)
    _explain_gain(greedy, points, chosen, config)
    if left_out.tell():
        raise typer.Exit(1)


@commands.command("calibrate-lm")
def calibrate_lm(
    checkpoint: CheckpointOption,
    manifest: Annotated[str, typer.Option(help="Utterances to decode, without transcripts: path or URL.")],
    transcripts: Annotated[
        str, typer.Option(help="Labelled utterances whose words per second are matched: path or URL.")
    ],
    lm: LmOption,
    out: Annotated[Path, typer.Option(help="Weights (JSON) for --lm-config and pseudo_labels.lm_config.")],
    lexicon: LexiconOption = "",
    weight: Annotated[float, non_negative("Language model weight.")] = 1.0,
    beam: Annotated[int, typer.Option(help="Beam size.")] = 50,
    utterances: Annotated[int, typer.Option(min=1, help="Utterances to decode, evenly spaced.")] = 200,
    model: ModelOption = "teacher",
    device: DeviceOption = "auto",
    max_seconds: Annotated[float, non_negative("Padded seconds of audio in one batch.")] = 120.0,
    trust: TrustOption = None,
) -> None:
    """Choose the word bonus without transcripts, so that the words per second match those of labelled speech.

    Speakers differ, so the bonus is the one nearest to 0 within twice the standard error over speakers.

    Use it for pseudo-labels with a language model if there is no held-out transcribed speech for `tune-lm`.

    Example: `asr-emapl calibrate-lm --checkpoint runs/seed --manifest data/train-unlabelled.jsonl \\
    --transcripts data/train-labelled.jsonl --lm 3gram.arpa --lexicon 3gram.arpa --out lm.json`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.decoding import tuning
    from asr_emapl.decoding.beam import BeamConfig
    from asr_emapl.progress import Progress

    config = BeamConfig(beam, lm, lexicon, weight)
    labelled = read_manifest(transcripts, require_text=True)
    found = read_manifest(manifest)
    chosen = found[:: max(1, len(found) // utterances)][:utterances]
    wanted = tuning.WordRate.of(labelled, chosen)
    check_outputs([out], [manifest, transcripts, *model_files(checkpoint, config), *audio_files(chosen)])
    recognizer = open_recognizer(checkpoint, model, device, trust)
    search = open_search(recognizer.tokenizer, config)
    log_probs, left_out = _log_probs(recognizer, chosen, max_seconds)
    seconds = sum(u.duration for u in chosen if u.id in log_probs)
    with Progress("searching", tuning.MOST_SEARCHES, "word bonuses at most") as progress:
        bonus, rate = tuning.matching_bonus(
            search, list(log_probs.values()), seconds, wanted, progress.advance
        )
    config = replace(config, tokenizer=recognizer.tokenizer.fingerprint, word_bonus=bonus)
    tuning.write_config(out, config, words_per_second=rate)
    say_written(out, f"{out}: weight {weight:g}, bonus {bonus:g}: {rate:.2f} words per second")
    say(f"{transcripts}: {wanted.words_per_second:.2f} +-{wanted.tolerance:.2f} words per second")
    if left_out.tell():
        raise typer.Exit(1)


def _log_probs(
    recognizer: Recognizer, utterances: Sequence[Utterance], max_seconds: float
) -> tuple[dict[str, Tensor], LeftOutList]:
    """The log-probabilities [T, V] of each utterance that can be decoded, by id, and those that cannot."""
    from asr_emapl.cli.left_out import LeftOutList
    from asr_emapl.progress import Progress

    left_out = LeftOutList()
    batches = recognizer.posteriors(utterances, max_seconds, left_out)
    seconds = {u.id: u.duration for u in utterances}
    log_probs: dict[str, Tensor] = {}
    with Progress("computing log-probabilities", sum(seconds.values())) as progress:
        for batch in batches:
            log_probs |= dict(batch.each())
            progress.advance(sum(seconds[id_] for id_ in batch.ids))
    left_out.require_some(utterances)
    return log_probs, left_out


def _draw_grid(points: list[GridPoint], picture: Path) -> None:
    from asr_emapl.decoding import tuning

    try:
        tuning.draw(points, picture)
    except UserError as error:
        warn(f"warning: {error}")  # the weights have already been written


def _explain_gain(greedy: float, points: list[GridPoint], chosen: GridPoint, config: BeamConfig) -> None:
    """Print the effect of the lexicon alone, and warn if the language model does not help."""
    rates = [p.wer for p in points if p.lm_weight == 0.0]
    alone = f", {min(rates):.2f} % with the lexicon alone" if config.lexicon and rates else ""
    say(f"WER {greedy:.2f} % without beam search{alone}")
    if chosen.lm_weight == 0.0 and not (config.lexicon and chosen.wer < greedy):
        warn(
            f"warning: {config.lm} did not help at any weight; check that its training text matches the "
            "domain and spelling of the transcripts"
        )


def _print_grid(points: list[GridPoint], weights: list[float], bonuses: list[float]) -> None:
    wer = {(p.lm_weight, p.word_bonus): f"{p.wer:.2f}" for p in points}
    say("WER in %, by language model weight (down) and word bonus (across)")
    print_table(
        ["", *(f"{b:g}" for b in bonuses)], [[f"{w:g}", *(wer[w, b] for b in bonuses)] for w in weights]
    )


def _numbers(option: str, text: str) -> list[float]:
    try:
        numbers = list(dict.fromkeys(float(number) for number in text.split(",")))
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise UserError(f"{option} {text!r}: expected comma-separated numbers, for example 0,0.5,1")
    return numbers
