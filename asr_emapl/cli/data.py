"""Commands for manifests and their audio: tokenizer, shard, inspect, segment."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from asr_emapl.cli.options import TrustOption, count, non_negative, positive, workers_option
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import run_files
from asr_emapl.storage import check_outputs
from asr_emapl.terminal import say, say_written, warn

commands = typer.Typer()


@commands.command()
def tokenizer(
    out: Annotated[Path, typer.Option(help="File to write (JSON).")],
    kind: Annotated[str, typer.Option(help="characters, unigram or bpe.")] = "characters",
    size: Annotated[int, count("Vocabulary size including the blank (unigram, bpe).", least=3)] = 1024,
    manifest: Annotated[
        list[Path] | None, typer.Option(help="Transcripts to train on; may be repeated.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Write the tokenizer of this run directory or checkpoint instead.")
    ] = None,
) -> None:
    """Create a tokenizer: characters, or SentencePiece trained on the transcripts of manifests.

    The default characters are A-Z, apostrophe and space. If the transcripts of --manifest contain other
    characters, exactly the characters of the transcripts are used.

    Example: `asr-emapl tokenizer --kind unigram --size 256 --manifest data/train.jsonl --out data/bpe.json`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.text.tokenizer import CharacterTokenizer, SentencePieceTokenizer, Tokenizer, save_tokenizer

    check_outputs([out], [*(manifest or []), *(run_files(checkpoint) if checkpoint else ())])
    if checkpoint is not None:
        from asr_emapl.checkpoints.files import find
        from asr_emapl.checkpoints.files import read_tokenizer as of_checkpoint

        path, state, _ = find(checkpoint)
        save_tokenizer(out, of_checkpoint(path, state))
        say_written(out, f"{out}: tokenizer of {path}")
        return
    if kind not in ("characters", "unigram", "bpe"):
        raise UserError(f"--kind {kind!r} is not one of characters, unigram, bpe")
    made: Tokenizer
    texts = [u.text or "" for path in manifest or [] for u in read_manifest(path, require_text=True)]
    if kind == "characters":
        made = CharacterTokenizer.of(texts)
    elif not texts:
        raise UserError(f"--kind {kind} is trained on text; --manifest is required")
    else:
        made = SentencePieceTokenizer.train(texts, size, kind)
    save_tokenizer(out, made)
    say_written(out, f"{out}: {made}")


@commands.command()
def shard(
    manifest: Annotated[str, typer.Argument(help="Utterances to pack: path or URL.")],
    out: Annotated[
        str, typer.Option(help="Folder for shards and manifest: path, or URL that fsspec can write.")
    ],
    codec: Annotated[
        str, typer.Option(help="as-is: copy the files; flac, opus: encode each utterance at 16 kHz mono.")
    ] = "as-is",
    shard_mib: Annotated[float, positive("Start a new shard when this size is reached.")] = 512.0,
    workers: Annotated[int, workers_option("Files to read and encode in parallel.")] = 2,
) -> None:
    """Pack the audio of a manifest into tar files (shards), which are read by byte range. Rerun to resume.

    Example: `asr-emapl shard data/train.jsonl --out s3://bucket/train --codec flac`
    """
    from asr_emapl.data.shards import ShardConfig, pack

    packed = pack(manifest, out, ShardConfig(codec, shard_mib, workers), say=say)
    say(f"{packed.manifest}: {packed.utterances} utterances in {len(packed.shards)} shards")


@commands.command()
def split(
    manifest: Annotated[str, typer.Argument(help="Utterances: path or URL.")],
    out: Annotated[Path, typer.Option(help="Manifest of the selected utterances to write.")],
    rest: Annotated[Path, typer.Option(help="Manifest of the other utterances to write.")],
    hours: Annotated[
        float | None, positive("Select the first utterances of each speaker, this much audio in all.")
    ] = None,
    speakers: Annotated[int | None, count("Select this number of speakers.", least=1)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Divide a manifest: by audio, for experiments with few labels, or by speaker, for held-out speakers.

    Example: `asr-emapl split data/train.jsonl --hours 1 --out data/labelled.jsonl --rest data/rest.jsonl`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.data.manifest_writer import write_manifests
    from asr_emapl.data.split import split_by_audio, split_by_speaker

    if (hours is None) == (speakers is None):
        raise UserError("specify either --hours or --speakers")
    check_outputs([out, rest], [manifest], overwrite=overwrite)
    utterances = read_manifest(manifest)
    parts = split_by_audio(utterances, hours) if hours else split_by_speaker(utterances, speakers or 0)
    if not all(parts):
        raise UserError(
            f"--hours {hours:g} selects {len(parts[0]):,} of {len(utterances):,} utterances; specify "
            f"{'less' if parts[0] else 'more'}"
        )
    write_manifests(dict(zip((out, rest), parts, strict=True)))
    for path, part in zip((out, rest), parts, strict=True):
        say_written(path, f"{path}: {len(part):,} utterances, {sum(u.duration for u in part) / 3600:.2f} h")


@commands.command()
def extract_features(
    manifest: Annotated[str, typer.Argument(help="Utterances: path or URL.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the config.")
    ] = None,
    *,
    config: Annotated[Path, typer.Option(help="Config of the runs, which names features.extractor.")],
    out: Annotated[
        str, typer.Option(help="Folder for shards and manifest: path, or URL that fsspec can write.")
    ],
    shard_mib: Annotated[float, positive("Start a new shard when this size is reached.")] = 512.0,
    workers: Annotated[int, workers_option("Utterances to process in parallel.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Compute the features of a manifest once and store them in shards. Rerun to resume.

    Training, decoding and labelling read the written manifest like one of audio. Use it if the features take
    long to compute, such as those of a frozen encoder.

    Example: `asr-emapl extract-features data/train.jsonl --config run.yaml --out data/features`
    """
    from asr_emapl.config import load_config
    from asr_emapl.data.shard_writer import write_shards
    from asr_emapl.data.stored_features import FeatureFiles
    from asr_emapl.distributed.process_group import choose_device
    from asr_emapl.models.inputs import build_features
    from asr_emapl.models.target import USERS_OWN

    settings, place = load_config(config, overrides or ()), choose_device(device)
    extractor = build_features(settings.features, settings.model, USERS_OWN).to(place)
    if workers < 1:
        raise UserError(f"{workers} workers are too few (use 1 or more)")
    packed = write_shards(manifest, out, FeatureFiles(extractor, place, workers), shard_mib, say)
    say(f"{packed.manifest}: {packed.utterances} utterances in {len(packed.shards)} shards")


@commands.command()
def inspect(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests, for example of train and dev.")],
    config: Annotated[Path | None, typer.Option(help="Run config (YAML): limits, batch size, model.")] = None,
    batch_seconds: Annotated[float | None, positive("Batch size; overrides the config.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer; overrides the config.")] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write a plot of the utterance lengths to this file.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio", help="Also read the headers of the audio files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    trust: TrustOption = None,
) -> None:
    """Summarise manifests, estimate batch padding, and list problems to fix before training.

    With --config, also report transcripts that are too long for CTC at the frame rate of its model.

    Example: `asr-emapl inspect data/train.jsonl data/dev-clean.jsonl --config conf/mini.yaml`
    """
    from rich.console import Console

    from asr_emapl.checks.inspection import inspect_manifests, with_audio
    from asr_emapl.checks.inspection_report import draw_lengths, print_inspection
    from asr_emapl.checks.requirements import read_requirements
    from asr_emapl.data.manifest import read_manifest

    if png is not None:
        check_outputs([png], [*manifests, config, tokenizer])
    demands = read_requirements(config, tokenizer, batch_seconds, trust or ())
    # Disable garbage collection: it takes a third of the time and frees nothing.
    gc.disable()
    try:
        read = {str(path): read_manifest(path) for path in manifests}
        result = inspect_manifests(read, demands)
    finally:
        gc.enable()
    if audio:
        result = with_audio(result, read)
    if png is not None:
        draw_lengths(result, png)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    print_inspection(result, Console(width=None if sys.stdout.isatty() else 120))


@commands.command()
def segment(
    sources: Annotated[list[Path], typer.Argument(help="Audio files, folders of audio files, or manifests.")],
    out: Annotated[Path, typer.Option(help="Manifest to write.")],
    min_seconds: Annotated[float, non_negative("Skip shorter segments.")] = 1.0,
    target_seconds: Annotated[float, positive("Cut longer segments to about this length.")] = 12.0,
    max_seconds: Annotated[float, positive("Maximum length of an utterance.")] = 24.0,
    pause_seconds: Annotated[float, non_negative("A longer pause always ends an utterance.")] = 1.0,
    edge_seconds: Annotated[float, non_negative("Silence to keep before and after speech.")] = 0.2,
    workers: Annotated[int, workers_option("Number of processes.")] = 1,
) -> None:
    """Cut long recordings into utterances at pauses. The audio files are not changed.

    Exits with 1 if some recordings could not be read; the manifest then contains the remaining ones.

    Example: `asr-emapl segment talks/ --out data/talks.jsonl --workers 8`
    """
    from asr_emapl.audio.segmentation import SegmentConfig
    from asr_emapl.data.manifest_writer import write_manifest
    from asr_emapl.data.recordings import cut_recordings, find_recordings, summary
    from asr_emapl.progress import track

    check_outputs([out], sources)
    limits = SegmentConfig(min_seconds, max_seconds, target_seconds, pause_seconds, edge_seconds)
    recordings = find_recordings(sources)
    check_outputs([out], {recording.audio for recording in recordings})
    made = cut_recordings(recordings, limits, workers)
    cuts = list(track(made, "segmenting", len(recordings), "recordings"))
    faults = [cut.fault for cut in cuts if cut.fault]
    for fault in faults:
        warn(f"skipped: {fault}")
    write_manifest(out, [utterance for cut in cuts for utterance in cut.utterances])
    say_written(out, f"{out}: {summary(cuts)}")
    if faults:
        raise typer.Exit(1)
