"""Commands for recognition: decode, transcribe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_emapl.cli.options import TrustOption, finite, non_negative, positive
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
from asr_emapl.terminal import say_written, warn

if TYPE_CHECKING:
    from asr_emapl.data.loader import LeftOut
    from asr_emapl.data.utterance import Utterance
    from asr_emapl.decoding.beam import BeamConfig, BeamSearch
    from asr_emapl.decoding.transcribe import Recognizer

commands = typer.Typer()

_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


@commands.command()
def decode(
    checkpoint: CheckpointOption,
    manifest: Annotated[str, typer.Option(help="Utterances to transcribe: path or URL.")],
    out: Annotated[Path, typer.Option(help="Hypotheses (JSONL).")],
    model: ModelOption = "teacher",
    device: DeviceOption = "auto",
    max_seconds: Annotated[float, non_negative("Padded seconds of audio in one batch.")] = 120.0,
    beam: Annotated[int, typer.Option(help="Beam size; 0 selects greedy decoding.")] = 0,
    lm: LmOption = "",
    lexicon: LexiconOption = "",
    lm_weight: Annotated[float | None, finite("Weight of the language model.", show_default="1.0")] = None,
    word_bonus: Annotated[float | None, finite("Score added per word, in nats.", show_default="0.0")] = None,
    lm_config: Annotated[
        Path | None, typer.Option(help="Output of tune-lm; replaces the five options above.")
    ] = None,
    overwrite: _Overwrite = False,
    trust: TrustOption = None,
) -> None:
    """Transcribe a manifest with a checkpoint, greedily or by beam search.

    Exits with 1 if some audio could not be decoded; the remaining hypotheses are still written.

    Example: `asr-emapl decode --checkpoint runs/mini --manifest data/dev-clean.jsonl --out hyp.jsonl`
    """
    from asr_emapl.cli.left_out import LeftOutList
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.progress import Progress
    from asr_emapl.scoring.transcripts import write_hypotheses

    config = _beam_config(beam, lm, lexicon, lm_weight, word_bonus, lm_config)
    utterances = read_manifest(manifest)
    read = [manifest, lm_config, *model_files(checkpoint, config), *audio_files(utterances)]
    check_outputs([out], read, overwrite=overwrite)
    recognizer = open_recognizer(checkpoint, model, device, trust)
    left_out = LeftOutList()
    search = open_search(recognizer.tokenizer, config) if config else None
    seconds = {u.id: u.duration for u in utterances}
    texts = {}
    with Progress(f"decoding {Path(manifest).stem}", sum(seconds.values())) as progress:
        for id_, text in _texts(recognizer, search, utterances, max_seconds, left_out):
            texts[id_] = text
            progress.advance(seconds[id_])
    left_out.require_some(utterances)
    write_hypotheses(out, {u.id: texts[u.id] for u in utterances if u.id in texts})
    say_written(out, f"{out}: {len(texts)} utterances")
    if left_out.tell():
        raise typer.Exit(1)


@commands.command()
def transcribe(
    files: Annotated[list[str], typer.Argument(help="Audio files; - reads standard input.")],
    checkpoint: CheckpointOption,
    form: Annotated[str, typer.Option("--format", help="text, json, srt or vtt.")] = "text",
    out: Annotated[Path | None, typer.Option(help="Folder for the transcripts (default: print).")] = None,
    lm_config: Annotated[
        Path | None, typer.Option(help="Output of tune-lm. If given, decode by beam search with its weights.")
    ] = None,
    model: ModelOption = "teacher",
    device: DeviceOption = "auto",
    max_seconds: Annotated[float, positive("Longer audio is cut at pauses.")] = 24.0,
    overwrite: _Overwrite = False,
    trust: TrustOption = None,
) -> None:
    """Transcribe audio files of any length; all formats except text include timestamps.

    Exits with 1 if some files could not be read; the others are still transcribed.

    Example: `asr-emapl transcribe talk.flac --checkpoint runs/mini --format srt --out subtitles`
    """
    from asr_emapl.decoding.audio_files import plan_jobs, transcribe_files
    from asr_emapl.decoding.tuning import read_config

    jobs = plan_jobs(files, form, out, max_seconds)
    config = read_config(lm_config) if lm_config else None
    targets = [job.target for job in jobs if job.target is not None]
    check_outputs(targets, [*files, lm_config, *model_files(checkpoint, config)], overwrite=overwrite)
    recognizer = open_recognizer(checkpoint, model, device, trust)
    search = open_search(recognizer.tokenizer, config) if config else None
    faults = transcribe_files(jobs, recognizer, search, form, max_seconds)
    for fault in faults:
        warn(f"skipped: {fault}")
    if faults:
        raise typer.Exit(1)


def _texts(
    recognizer: Recognizer,
    search: BeamSearch | None,
    utterances: Sequence[Utterance],
    max_seconds: float,
    left_out: LeftOut,
) -> Iterator[tuple[str, str]]:
    """Yield id and text of each utterance that can be decoded, by beam search or greedily."""
    if search is None:
        yield from ((h.id, h.text) for h in recognizer(utterances, max_seconds, left_out))
        return
    for batch in recognizer.posteriors(utterances, max_seconds, left_out):
        yield from ((id_, search.text(x_TV)) for id_, x_TV in batch.each())


def _beam_config(
    beam: int,
    lm: str,
    lexicon: str,
    lm_weight: float | None,
    word_bonus: float | None,
    lm_config: Path | None,
) -> BeamConfig | None:
    """Build the beam search config from the options; None for greedy decoding."""
    from asr_emapl.decoding.beam import BeamConfig
    from asr_emapl.decoding.tuning import read_config

    options = {
        "--beam": beam or None,
        "--lm": lm or None,
        "--lexicon": lexicon or None,
        "--lm-weight": lm_weight,
        "--word-bonus": word_bonus,
    }
    _require_what_belongs_together([name for name, value in options.items() if value is not None], lm_config)
    if lm_config is not None:
        return read_config(lm_config)
    if not beam:
        return None
    return BeamConfig(beam, lm, lexicon, 1.0 if lm_weight is None else lm_weight, word_bonus or 0.0)


def _require_what_belongs_together(given: Sequence[str], lm_config: Path | None) -> None:
    """Raise UserError for beam search options that would have no effect.

    Args:
        given: names of the options that are set.
    """
    if lm_config is not None and given:
        raise UserError(f"--lm-config {lm_config} already sets {given[0]}; omit {', '.join(given)}")
    if given and "--beam" not in given:
        raise UserError(f"{given[0]} requires beam search; set --beam, for example --beam 100")
    for name in ("--lm-weight", "--word-bonus"):
        if name in given and "--lm" not in given:
            raise UserError(f"{name} has no effect without a language model; pass --lm, or omit {name}")
