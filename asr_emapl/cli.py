"""The command line: each command is a few lines that call the library. torch comes in where needed."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asr_emapl import __version__
from asr_emapl.errors import UserError

if TYPE_CHECKING:
    from data_prep.candidates import Prepared

app = typer.Typer(
    help="Semi-supervised speech recognition whose training does not change with the batch size.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
prepare = typer.Typer(help="Verify a corpus on disk and write its manifests.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")


def main() -> None:
    """Entry point: errors that the user can mend are one line and exit status 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@prepare.command("librispeech")
def prepare_librispeech(
    data: Annotated[Path, typer.Option(help="Folder that holds LibriSpeech/<part>/<speaker>/<chapter>/.")],
    out: Annotated[Path, typer.Option(help="Folder for <part>.jsonl.")],
    parts: Annotated[str, typer.Option(help="Comma-separated; all that are there if empty.")] = "",
    download: Annotated[bool, typer.Option(help="Download the parts that are absent or broken.")] = False,
) -> None:
    """Verify LibriSpeech's layout (audio against transcripts, headers, alphabet) and write manifests.

    Example: `asr-emapl prepare librispeech --data corpora --out data --parts train-clean-5,dev-clean`
    """
    from data_prep import librispeech

    wanted = [p for p in parts.split(",") if p] or None
    if download:
        if wanted is None:
            raise UserError("--download needs --parts: name the parts to download")
        librispeech.download(data, wanted)
    for part, manifest in librispeech.prepare(data, out, wanted).items():
        print(f"{part}: {manifest}")


@prepare.command("libri-light")
def prepare_libri_light(
    data: Annotated[Path, typer.Option(help="Folder that holds small/, medium/, large/.")],
    out: Annotated[Path, typer.Option(help="Folder for <part>.jsonl.")],
    parts: Annotated[str, typer.Option(help="Comma-separated; all that are there if empty.")] = "",
    max_seconds: Annotated[float, typer.Option(help="The longest segment.")] = 20.0,
    min_seconds: Annotated[float, typer.Option(help="Shorter segments are left out.")] = 1.0,
    voice_activity: Annotated[bool, typer.Option(help="Cut where the corpus's json says is silence.")] = True,
    leave_out: Annotated[bool, typer.Option(help="Leave files with faults out, and list them.")] = False,
    download: Annotated[bool, typer.Option(help="Download the parts that are absent or broken.")] = False,
) -> None:
    """Verify Libri-Light (unlabelled) and write manifests of segments; the audio stays as it is.

    Example: `asr-emapl prepare libri-light --data corpora/libri-light --out data --parts small`
    """
    from data_prep import libri_light

    if not 0 < min_seconds <= max_seconds:
        raise UserError(f"--min-seconds {min_seconds:g} --max-seconds {max_seconds:g}: not 0 < min <= max")
    wanted = [p for p in parts.split(",") if p] or None
    if download:
        libri_light.download(data, wanted or [])
    _print_prepared(
        libri_light.prepare(
            data,
            out,
            wanted,
            max_seconds=max_seconds,
            min_seconds=min_seconds,
            use_voice_activity=voice_activity,
            leave_out=leave_out,
        )
    )


@prepare.command("common-voice")
def prepare_common_voice(
    data: Annotated[Path, typer.Option(help="Folder of one language: clips/ and the .tsv files.")],
    out: Annotated[Path, typer.Option(help="Folder for <split>.jsonl.")],
    splits: Annotated[str, typer.Option(help="Comma-separated names of .tsv files.")] = "train,dev,test",
    text: Annotated[str, typer.Option(help="common-voice (English), words, plain.")] = "common-voice",
    leave_out: Annotated[bool, typer.Option(help="Leave clips with faults out, and list them.")] = False,
    download: Annotated[bool, typer.Option(help="Say where the corpus is to be had.")] = False,
) -> None:
    """Verify Common Voice (clips against sentences) and write manifests.

    Example: `asr-emapl prepare common-voice --data cv-corpus-24.0/en --out data --leave-out`
    """
    from data_prep import common_voice

    if download:
        common_voice.download()
    wanted = [s for s in splits.split(",") if s]
    _print_prepared(common_voice.prepare(data, out, wanted, text=text, leave_out=leave_out))


@prepare.command("folder")
def prepare_folder(
    data: Annotated[Path, typer.Option(help="Folder of audio, searched; or a Kaldi data directory.")],
    out: Annotated[Path, typer.Option(help="Folder for <name>.jsonl.")],
    name: Annotated[str, typer.Option(help="Of the manifest; the folder's if empty.")] = "",
    table: Annotated[
        Path | None, typer.Option(help="CSV or TSV with the columns path, text (and id, speaker).")
    ] = None,
    text: Annotated[
        str, typer.Option(help="librispeech, common-voice (drops punctuation), words, plain.")
    ] = "librispeech",
    leave_out: Annotated[bool, typer.Option(help="Leave files with faults out, and list them.")] = False,
) -> None:
    """Verify a folder of audio, with .txt beside the files, a table, Kaldi's files, or no transcripts.

    Example: `asr-emapl prepare folder --data talks --out data --text common-voice`
    """
    from data_prep import folder

    _print_prepared(folder.prepare(data, out, name=name, table=table, text=text, leave_out=leave_out))


def _print_prepared(prepared: Prepared) -> None:
    for note in prepared.notes:
        print(note, file=sys.stderr)
    for part, manifest in prepared.manifests.items():
        print(f"{part}: {manifest}")


@prepare.command("rendered")
def prepare_rendered(
    out: Annotated[Path, typer.Option(help="Folder for the audio and <part>.jsonl.")],
    seed: Annotated[int, typer.Option(help="Of speakers, sentences, rooms and noise.")] = 0,
) -> None:
    """Render the quickstart's corpus (speech synthesis, about an hour) and write its manifests.

    Example: `asr-emapl prepare rendered --out data/quickstart`
    """
    from data_prep import librispeech, rendered

    source = rendered.download(out, seed=seed)
    for part, manifest in librispeech.prepare(source, out).items():
        print(f"{part}: {manifest}")


@app.command()
def tokenizer(
    out: Annotated[Path, typer.Option(help="File to write (JSON).")],
    kind: Annotated[str, typer.Option(help="letters, unigram or bpe.")] = "letters",
    size: Annotated[int, typer.Option(help="Vocabulary size with the blank (unigram, bpe).")] = 1024,
    manifest: Annotated[list[Path] | None, typer.Option(help="Texts to train on; may be repeated.")] = None,
) -> None:
    """Make the tokenizer: letters, or SentencePiece trained on the transcripts of manifests.

    Example: `asr-emapl tokenizer --kind unigram --size 256 --manifest data/train.jsonl --out data/bpe.json`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.text.tokenizer import LetterTokenizer, SentencePieceTokenizer, Tokenizer, save_tokenizer

    made: Tokenizer
    if kind == "letters":
        made = LetterTokenizer()
    elif kind in ("unigram", "bpe"):
        if not manifest:
            raise UserError(f"--kind {kind} is trained on texts: name a --manifest")
        texts = [u.text or "" for path in manifest for u in read_manifest(path, require_text=True)]
        made = SentencePieceTokenizer.train(texts, size, kind)
    else:
        raise UserError(f"--kind {kind!r} is none of letters, unigram, bpe")
    save_tokenizer(out, made)
    print(f"{out}: {made!r}")


@app.command()
def shard(
    manifest: Annotated[str, typer.Argument(help="Utterances to pack: path or URL.")],
    out: Annotated[
        str, typer.Option(help="Folder for shards and manifest: path, or URL that fsspec can write.")
    ],
    codec: Annotated[
        str, typer.Option(help="as-is; or flac or opus, which cut utterances out, at 16 kHz, mono.")
    ] = "as-is",
    shard_mib: Annotated[
        float, typer.Option(help="A shard ends with the file that fills it to this.")
    ] = 512.0,
    workers: Annotated[int, typer.Option(help="Files read and encoded at the same time.")] = 2,
) -> None:
    """Pack a manifest's audio into tar files, of which a run reads ranges of bytes. The same again goes on.

    Example: `asr-emapl shard data/train.jsonl --out s3://bucket/train --codec flac`
    """
    from asr_emapl.data.shards import ShardConfig, pack

    packed = pack(manifest, out, ShardConfig(codec, shard_mib, workers), say=print)
    print(f"{packed.manifest}: {packed.utterances} utterances in {len(packed.shards)} shards")


@app.command()
def inspect(
    manifests: Annotated[list[Path], typer.Argument(help="Manifests, for example of train and dev.")],
    config: Annotated[Path | None, typer.Option(help="YAML of a run: its limits, batch, model.")] = None,
    batch_seconds: Annotated[float | None, typer.Option(help="In place of the config's batch.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="In place of the config's, or of letters.")] = None,
    png: Annotated[Path | None, typer.Option(help="Picture of the lengths to write.")] = None,
    audio: Annotated[bool, typer.Option("--audio", help="Open the headers of the audio too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What manifests hold, how they fill batches, and what to fix before training on them.

    Transcripts too short for CTC are looked for if --config names a model.

    Example: `asr-emapl inspect data/train.jsonl data/dev-clean.jsonl --config conf/mini.yaml`
    """
    from rich.console import Console

    from asr_emapl.data.inspection import inspect_manifests, with_audio
    from asr_emapl.data.inspection_report import draw_lengths, print_inspection
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.training.demands import read_demands

    demands = read_demands(config, tokenizer, batch_seconds)
    # Hundreds of thousands of objects, none of them garbage: looking for it would take a third of the time.
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


@app.command()
def segment(
    sources: Annotated[list[Path], typer.Argument(help="Audio files, folders of them, manifests.")],
    out: Annotated[Path, typer.Option(help="Manifest to write.")],
    min_seconds: Annotated[float, typer.Option(help="Leave out what makes less than this.")] = 1.0,
    target_seconds: Annotated[float, typer.Option(help="Cut what is longer, to about this length.")] = 12.0,
    max_seconds: Annotated[float, typer.Option(help="No utterance is longer.")] = 24.0,
    pause_seconds: Annotated[float, typer.Option(help="A longer pause always ends an utterance.")] = 1.0,
    edge_seconds: Annotated[float, typer.Option(help="Silence to keep before and after speech.")] = 0.2,
    workers: Annotated[int, typer.Option(help="Processes, each with one recording at a time.")] = 1,
) -> None:
    """Cut long recordings into utterances where nobody speaks; the audio stays as it is.

    Exits with 1 if some recordings could not be read; the manifest then holds the others.

    Example: `asr-emapl segment talks/ --out data/talks.jsonl --workers 8`
    """
    from rich.console import Console
    from rich.progress import track

    from asr_emapl.audio.segmentation import SegmentConfig
    from asr_emapl.data.manifest import write_manifest
    from asr_emapl.data.recordings import cut_recordings, find_recordings, summary

    limits = SegmentConfig(min_seconds, max_seconds, target_seconds, pause_seconds, edge_seconds)
    recordings = find_recordings(sources)
    progress = Console(stderr=True)
    cuts = list(
        track(
            cut_recordings(recordings, limits, workers),
            "segmenting",
            total=len(recordings),
            console=progress,
            disable=not progress.is_terminal,
        )
    )
    faults = [cut.fault for cut in cuts if cut.fault]
    for fault in faults:
        print(f"left out: {fault}", file=sys.stderr)
    write_manifest(out, [utterance for cut in cuts for utterance in cut.utterances])
    print(f"{out}: {summary(cuts)}")
    if faults:
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[Path, typer.Option(help="YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, over the file.")] = None,
) -> None:
    """Train, or go on with a run whose directory has checkpoints. Under torchrun: on all its processes.

    Example: `asr-emapl train --config conf/mini.yaml run_dir=runs/mini hours=20`

    Example: `torchrun --nproc-per-node 8 -m asr_emapl train --config conf/emapl_100h_860h.yaml`
    """
    from asr_emapl.config import load_config
    from asr_emapl.training.trainer import train as run

    last = run(load_config(config, overrides or []))
    if last is not None:
        print(f"last checkpoint: {last}")


@app.command()
def decode(
    checkpoint: Annotated[Path, typer.Option(help="A run's checkpoint, or its run directory (the newest).")],
    manifest: Annotated[str, typer.Option(help="Utterances to transcribe: path or URL.")],
    out: Annotated[Path, typer.Option(help="Hypotheses (JSONL).")],
    model: Annotated[str, typer.Option(help="teacher or student.")] = "teacher",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    max_seconds: Annotated[float, typer.Option(help="Padded seconds of audio in one batch.")] = 120.0,
) -> None:
    """Transcribe a manifest with a checkpoint, greedily.

    Example: `asr-emapl decode --checkpoint runs/mini --manifest data/dev-clean.jsonl --out hyp.jsonl`
    """
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.decoding.recognizer import Recognizer
    from asr_emapl.scoring.transcripts import write_hypotheses

    utterances = read_manifest(manifest)
    recognizer = Recognizer.load(checkpoint, model, device)
    for problem in recognizer.problems:
        print(f"warning: {problem}: taking the one before", file=sys.stderr)
    texts = {h.id: h.text for h in recognizer(utterances, max_seconds)}
    write_hypotheses(out, {u.id: texts[u.id] for u in utterances})
    print(f"{out}: {len(texts)} utterances")


@app.command()
def average(
    end: Annotated[Path, typer.Option(help="Checkpoint where the window ends.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write; its teacher is the average.")],
    start: Annotated[Path | None, typer.Option(help="Where it begins (default: with the mean).")] = None,
) -> None:
    """Average the student between two checkpoints of a run, afterwards.

    The run needs checkpoint.running_mean=true, and checkpoint.keep as large as the window is to reach back.

    Example: `asr-emapl average --start step-000004000.pt --end step-000005000.pt --out average.pt`
    """
    from asr_emapl.training.checkpoint import average as run

    hours = run(start, end, out)
    print(f"{out}: the student's mean over {hours:.3f} h of audio, as the teacher")


@app.command()
def score(
    reference: Annotated[Path, typer.Argument(help="Manifest (JSONL), trn, or text ('id words').")],
    hypothesis: Annotated[Path, typer.Argument(help="The same, in any of these formats.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_missing: Annotated[
        bool, typer.Option(help="Count absent hypotheses as empty and pass over extra ones.")
    ] = False,
) -> None:
    """Word and character error rates with substitutions, deletions, insertions and counts.

    Example: `asr-emapl score data/dev-clean.jsonl dev-clean.hyp.jsonl`
    """
    from asr_emapl.scoring import read_transcripts
    from asr_emapl.scoring import score as compare

    result = compare(
        read_transcripts(reference),
        read_transcripts(hypothesis, role="hypothesis"),
        allow_missing=allow_missing,
    )
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    print(f"{'':4}{'%':>8}{'errors':>9}{'sub':>8}{'del':>8}{'ins':>8}{'N':>9}")
    for name, c in (("WER", result.words), ("CER", result.characters)):
        counts = f"{c.substitutions:8d}{c.deletions:8d}{c.insertions:8d}{c.reference_length:9d}"
        print(f"{name:4}{100 * c.rate:8.2f}{c.errors:9d}{counts}")
    wrong = 100 * result.sentences_wrong / result.sentences
    print(f"{'SER':4}{wrong:8.2f}{result.sentences_wrong:9d}{'':24}{result.sentences:9d}")
    if result.missing or result.extra:
        print(f"{result.missing} hypotheses missing (counted as empty), {result.extra} extra (passed over)")


@app.command()
def scale(
    config: Annotated[Path, typer.Option(help="YAML file of a run.")],
    batch_seconds: Annotated[
        float, typer.Option(help="The batch to scale to, in seconds of audio over all ranks.")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, over the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what another batch does to every hyper-parameter, before anything runs.

    Example: `asr-emapl scale --config conf/mini.yaml --batch-seconds 480`
    """
    from asr_emapl.config import load_config
    from asr_emapl.training.dry_run import dry_run, epoch_hours

    run = load_config(config, overrides or [])
    rows, warnings = dry_run(run, batch_seconds, epoch_hours(run))
    if as_json:
        print(json.dumps({"rows": [vars(row) for row in rows], "warnings": warnings}, indent=2))
        return
    _print_table(["", "reference", "scaled", "rule"], [[r.name, r.reference, r.scaled, r.rule] for r in rows])
    for warning in warnings:
        print(f"warning: {warning}")


@app.command()
def noise(
    run: Annotated[Path, typer.Argument(help="Run directory, trained with optimizer.noise_every_steps.")],
    from_hours: Annotated[float, typer.Option(help="Of audio: leave out what was before.")] = 0.0,
) -> None:
    """How much of the gradient is noise, and so how far the batch can still grow.

    Example: `asr-emapl noise runs/mini --from-hours 20`
    """
    from asr_emapl.config import load_config
    from asr_emapl.training.gradient_noise import read
    from asr_emapl.training.log import read_steps

    config = load_config(run / "config.yaml")
    steps = [step for step in read_steps(run) if step["hours"] >= from_hours]
    if config.batch.progressive or config.batch.seconds == "auto":
        raise UserError(f"{run}: noise is read from a run with one batch, batch.seconds")
    reading = read(steps, config.batches(1).first, config.batch.reference_seconds)
    batch, reference = f"at {reading.batch_seconds:g} s a step", f"at {reading.reference_seconds:g} s a step"
    rows = [
        ["noise in the gradient's mean square", f"{reading.share:.3f}", batch],
        [
            "batch at which noise and gradient are equal",
            f"{reading.noise_scale_seconds:.4g} s",
            "noise scale",
        ],
        ["optimizer.noise_share", f"{reading.reference_share:.3f}", reference],
        ["measured steps", f"{reading.steps}", ""],
    ]
    _print_table(["", "", ""], rows)


@app.command("check-model")
def check_model(
    target: Annotated[str, typer.Argument(help="package.module:Class")],
    options: Annotated[list[str] | None, typer.Argument(help="Constructor options, key=value.")] = None,
) -> None:
    """Run what a model of your own has to satisfy: lengths, padding, gradients, a teacher.

    Example: `asr-emapl check-model my_pkg.my_model:MyModel dim=256`
    """
    from asr_emapl.models.conformance import check

    values: dict[str, Any] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"option {option!r}: write key=value")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    findings = check(target, values)
    for finding in findings:
        verdict = "ok  " if finding.passed else "FAIL"
        print(f"{verdict} {finding.name}" + (finding.detail and f": {finding.detail}"))
    if not all(f.passed for f in findings):
        raise typer.Exit(1)


@app.command()
def plot(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    out: Annotated[Path, typer.Option(help="Picture to write; its ending says the format.")],
) -> None:
    """Draw WER over hours of audio, a panel a split, a line a run and model.

    Example: `asr-emapl plot baseline=runs/baseline ema=runs/ema --out curves.png`
    """
    from asr_emapl.scoring.curves import draw_curves

    draw_curves([_labelled(run) for run in runs], out)
    print(out)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, run by run.")] = False,
) -> None:
    """What the time and the audio of runs went to, and what to change first.

    Example: `asr-emapl report runs/mini`
    """
    from asr_emapl.scoring.usage import as_record, read_usage, table

    usages = {label: read_usage(path) for label, path in map(_labelled, runs)}
    if as_json:
        print(json.dumps({label: as_record(usage) for label, usage in usages.items()}, indent=2))
        return
    _print_table(*table(usages))
    for label, usage in usages.items():
        print(f"{label}: {usage.advice()}")


def _labelled(run: str) -> tuple[str, Path]:
    label, equals, path = run.partition("=")
    if not equals or Path(run).is_dir():
        return Path(run).name, Path(run)
    return label, Path(path)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
