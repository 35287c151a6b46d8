"""The command report: time, audio and results of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_emapl.cli.options import TrustOption, count
from asr_emapl.cli.scoring import labelled
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import run_files
from asr_emapl.storage import check_outputs
from asr_emapl.terminal import print_table, say

if TYPE_CHECKING:
    from asr_emapl.report.comparison import Decoded
    from asr_emapl.report.run import Run
    from asr_emapl.report.usage import Usage

commands = typer.Typer()


@commands.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write a self-contained page (.html) with curves.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the curves as PNG and SVG files.")] = None,
    manifest: Annotated[
        str | None,
        typer.Option(help="Transcribed utterances on which to compare the runs."),
    ] = None,
    hypotheses: Annotated[
        list[Path] | None,
        typer.Option(help="Output of decode on the manifest; one file per run, in the same order."),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Transcribe the manifest with each run, instead of --hypotheses.")
    ] = False,
    model: Annotated[str, typer.Option(help="With --decode: teacher, student or both.")] = "teacher",
    device: Annotated[str, typer.Option(help="With --decode: auto, cpu, cuda, cuda:N.")] = "auto",
    worst: Annotated[int, count("Number of worst utterances to show, with alignment and audio.")] = 20,
    trust: TrustOption = None,
) -> None:
    """Report WER, how time and audio were spent, and what to improve first; --out writes an HTML page.

    Example: `asr-emapl report runs/mini`

    Example: `asr-emapl report baseline=runs/baseline ema=runs/ema --out report.html`
    """
    from asr_emapl.report.run import read_runs
    from asr_emapl.report.usage import as_record, no_times

    if out is None and (manifest or hypotheses or decode):
        raise UserError("--manifest, --hypotheses and --decode require --out")
    found = read_runs([labelled(run) for run in runs])
    for run in found:
        if run.usage is None and out is None and figures is None:
            raise no_times(run.folder)
    _check(found, out, figures, [manifest, *(hypotheses or [])])
    written: list[Path] = []
    if out is not None:
        from asr_emapl.report.page import write_page

        models = (["teacher", "student"] if model == "both" else [model]) if decode else []
        decoded = _decoded(found, manifest, hypotheses or [], models, device, trust or [])
        write_page(found, out, decoded, count=worst)
        written.append(out)
    if figures is not None:
        from asr_emapl.report.figures import write_figures

        written += write_figures(found, figures)
    usages = {run.label: run.usage for run in found if run.usage is not None}
    if as_json:
        print(json.dumps({label: as_record(usage) for label, usage in usages.items()}, indent=2))
        return
    _print_tables(found, usages)
    for path in written:
        say(str(path))


def _print_tables(runs: list[Run], usages: Mapping[str, Usage]) -> None:
    """Print WER, time breakdown, advice, and what is wrong with the results."""
    from asr_emapl.report.run import wer_table
    from asr_emapl.report.usage import table
    from asr_emapl.report.verdict import verdict

    if any(run.wer for run in runs):
        print_table(*wer_table(runs))
        say("")
    if usages:
        print_table(*table(usages))
    for label, usage in usages.items():
        say(f"{label}: {usage.advice()}")
    for line in verdict(runs):
        say(f"warning: {line}")


def _check(
    runs: list[Run], out: Path | None, figures: Path | None, read: Sequence[str | Path | None]
) -> None:
    """Validate outputs before any work: the page must be .html, and inputs must not be overwritten."""
    outputs: list[Path] = []
    if out is not None:
        from asr_emapl.report.page import check_ending

        check_ending(out)
        outputs.append(out)
    if figures is not None:
        from asr_emapl.report.figures import figure_files

        outputs += figure_files(runs, figures)
    check_outputs(outputs, [*(file for run in runs for file in run_files(run.folder)), *read])


def _decoded(
    runs: list[Run],
    manifest: str | None,
    files: list[Path],
    models: list[str],
    device: str,
    trust: list[str],
) -> Decoded | None:
    """Return the hypotheses of each run: from files, or of `models` of its last checkpoint."""
    if manifest is None:
        if files or models:
            raise UserError("--hypotheses and --decode require --manifest, with transcripts and audio")
        return None
    from asr_emapl.data.manifest import read_manifest
    from asr_emapl.report.comparison import Decoded, System
    from asr_emapl.scoring.transcripts import read_transcripts

    if bool(files) == bool(models):
        raise UserError("--manifest: pass either --hypotheses or --decode")
    if files and len(files) != len(runs):
        raise UserError(f"{len(files)} --hypotheses for {len(runs)} runs: pass one per run, in their order")
    utterances = read_manifest(manifest, require_text=True)
    name = Path(manifest).name
    if files:
        texts = [read_transcripts(file, role="hypothesis") for file in files]
        return Decoded(name, utterances, [System(run.label, i, texts[i]) for i, run in enumerate(runs)])

    from asr_emapl.cli.left_out import LeftOutList
    from asr_emapl.cli.recognizer import open_recognizer
    from asr_emapl.progress import Progress

    systems, left_out = [], LeftOutList()
    seconds = {u.id: u.duration for u in utterances}
    for index, run in enumerate(runs):
        for model in models:
            recognizer = open_recognizer(run.folder, model, device, trust)
            label = f"{run.label}, {model}" if len(models) > 1 else run.label
            hypotheses = {}
            with Progress(f"decoding {name} with {label}", sum(seconds.values())) as progress:
                for found in recognizer(utterances, left_out=left_out):
                    hypotheses[found.id] = found.text
                    progress.advance(seconds[found.id])
            systems.append(System(label, index, hypotheses, model))
    left_out.require_some(utterances)
    name += ", decoded with the " + " and the ".join(models)
    if left_out.tell():
        name += f", excluding {len(left_out.reasons)} unreadable utterances"
        utterances = [u for u in utterances if u.id not in left_out.reasons]
        kept = [u.id for u in utterances]
        systems = [replace(s, hypotheses={id: s.hypotheses[id] for id in kept}) for s in systems]
    return Decoded(name, utterances, systems)
