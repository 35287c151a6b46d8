"""`asr-emapl prepare CORPUS`: verify a corpus on disk and write manifests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_emapl.cli.options import positive, seed_option
from asr_emapl.errors import UserError
from asr_emapl.terminal import say, warn

if TYPE_CHECKING:
    from data_prep.candidates import Prepared

commands = typer.Typer()


@commands.command("librispeech")
def prepare_librispeech(
    data: Annotated[Path, typer.Option(help="Folder that contains LibriSpeech/PART/SPEAKER/CHAPTER/.")],
    out: Annotated[Path, typer.Option(help="Output folder for PART.jsonl.")],
    parts: Annotated[str, typer.Option(help="Comma-separated names of parts; empty: all that exist.")] = "",
    download: Annotated[bool, typer.Option(help="Download missing or damaged parts.")] = False,
) -> None:
    """Verify LibriSpeech (audio and transcripts match, audio headers, alphabet) and write manifests.

    Example: `asr-emapl prepare librispeech --data corpora --out data --parts train-clean-5,dev-clean`
    """
    from data_prep import librispeech

    wanted = [p for p in parts.split(",") if p] or None
    if download:
        if wanted is None:
            raise UserError("--download requires --parts")
        librispeech.download(data, wanted)
    _say_manifests(librispeech.prepare(data, out, wanted))


@commands.command("librispeech-lm")
def prepare_librispeech_lm(
    out: Annotated[Path, typer.Option(help="Output folder for NAME.arpa.gz.")],
    name: Annotated[
        str, typer.Option(help="3-gram.pruned.1e-7 (34 MB), 3-gram (760 MB) or 4-gram (1.4 GB).")
    ] = "3-gram.pruned.1e-7",
) -> None:
    """Download an official LibriSpeech language model, for `asr-emapl decode --lm` and `--lexicon`.

    Example: `asr-emapl prepare librispeech-lm --out lm`
    """
    from data_prep import librispeech

    say(str(librispeech.download_language_model(out, name)))


@commands.command("libri-light")
def prepare_libri_light(
    data: Annotated[Path, typer.Option(help="Folder that contains small/, medium/, large/.")],
    out: Annotated[Path, typer.Option(help="Output folder for PART.jsonl.")],
    parts: Annotated[str, typer.Option(help="Comma-separated names of parts; empty: all that exist.")] = "",
    max_seconds: Annotated[float, positive("Maximum length of a segment.")] = 20.0,
    min_seconds: Annotated[float, positive("Shorter segments are skipped.")] = 1.0,
    voice_activity: Annotated[
        bool, typer.Option(help="Cut at the silences listed in the corpus's JSON files.")
    ] = True,
    leave_out: Annotated[bool, typer.Option(help="Skip invalid files and list them.")] = False,
    download: Annotated[bool, typer.Option(help="Download missing or damaged parts.")] = False,
) -> None:
    """Verify Libri-Light (unlabelled) and write manifests of segments. The audio files are not changed.

    Example: `asr-emapl prepare libri-light --data corpora/libri-light --out data --parts small`
    """
    from data_prep import libri_light

    if min_seconds > max_seconds:
        raise UserError(f"--min-seconds {min_seconds:g} exceeds --max-seconds {max_seconds:g}")
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


@commands.command("common-voice")
def prepare_common_voice(
    data: Annotated[Path, typer.Option(help="Folder of one language: clips/ and the .tsv files.")],
    out: Annotated[Path, typer.Option(help="Output folder for SPLIT.jsonl.")],
    splits: Annotated[str, typer.Option(help="Comma-separated names of .tsv files.")] = "train,dev,test",
    text: Annotated[
        str,
        typer.Option(help="Normalisation: common-voice (English), words (any language), plain (unchanged)."),
    ] = "common-voice",
    leave_out: Annotated[bool, typer.Option(help="Skip invalid clips and list them.")] = False,
    download: Annotated[
        bool, typer.Option(help="Print where to download the corpus (requires an account).")
    ] = False,
) -> None:
    """Verify that clips and sentences of Common Voice match, and write manifests.

    Example: `asr-emapl prepare common-voice --data cv-corpus-24.0/en --out data --leave-out`
    """
    from data_prep import common_voice

    if download:
        common_voice.download()
    wanted = [s for s in splits.split(",") if s]
    _print_prepared(common_voice.prepare(data, out, wanted, text=text, leave_out=leave_out))


@commands.command("folder")
def prepare_folder(
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of audio (searched recursively), Kaldi directory, table, or NeMo or lhotse manifest."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder for NAME.jsonl.")],
    name: Annotated[str, typer.Option(help="Name of the manifest; empty: the folder's name.")] = "",
    table: Annotated[
        Path | None,
        typer.Option(help="CSV or TSV with the columns path and text; id and speaker are optional."),
    ] = None,
    text: Annotated[
        str,
        typer.Option(
            help="Normalisation of transcripts: auto (detected), librispeech (capitals only), "
            "common-voice (English), words (any language), plain (unchanged), none (no transcripts)."
        ),
    ] = "auto",
    like: Annotated[
        Path | None,
        typer.Option(
            help="Manifest whose transcripts decide with --text auto, so that both have one alphabet."
        ),
    ] = None,
    require_text: Annotated[
        bool, typer.Option("--require-text", help="Fail if there are no transcripts.")
    ] = False,
    leave_out: Annotated[bool, typer.Option(help="Skip invalid files and list them.")] = False,
    speaker_folders: Annotated[
        bool, typer.Option("--speaker-folders", help="Use the name of a file's folder as its speaker.")
    ] = False,
) -> None:
    """Verify your own audio (folder with .txt files or a table, Kaldi, NeMo, lhotse) and write a manifest.

    Example: `asr-emapl prepare folder --data talks --out data --leave-out`
    """
    from data_prep import folder

    prepared = folder.prepare(
        data,
        out,
        name=name,
        table=table,
        text=text,
        like=like,
        require_text=require_text,
        leave_out=leave_out,
        speaker_folders=speaker_folders,
    )
    _print_prepared(prepared)


def _print_prepared(prepared: Prepared) -> None:
    for note in prepared.notes:
        warn(note)
    _say_manifests(prepared.manifests)


def _say_manifests(manifests: Mapping[str, Path]) -> None:
    from asr_emapl.data.manifest_summary import ManifestSummary

    for part, manifest in manifests.items():
        say(f"{part}: {manifest}: {ManifestSummary.of(manifest)}")


@commands.command("rendered")
def prepare_rendered(
    out: Annotated[Path, typer.Option(help="Output folder for the audio and PART.jsonl.")],
    seed: Annotated[int, seed_option("Seed of speakers, sentences, rooms and noise.")] = 0,
    labelled_minutes: Annotated[
        float,
        positive("Minutes of train-labelled. A smaller part uses the first utterances of each speaker."),
    ] = 4.0,
) -> None:
    """Render the quickstart's corpus (synthesised speech, about 1.4 hours of audio) and write its manifests.

    Example: `asr-emapl prepare rendered --out data/quickstart`
    """
    from data_prep import librispeech, rendered

    size = rendered.CorpusSize(labelled_seconds=60.0 * labelled_minutes)
    source = rendered.download(out, size=size, seed=seed)
    _say_manifests(librispeech.prepare(source, out))
