"""Commands on what models write: decode, score, plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass

commands = typer.Typer()


@commands.command()
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


@commands.command()
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


@commands.command()
def plot(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    out: Annotated[Path, typer.Option(help="Picture to write; its ending says the format.")],
) -> None:
    """Draw WER over hours of audio, a panel a split, a line a run and model.

    Example: `asr-emapl plot baseline=runs/baseline ema=runs/ema --out curves.png`
    """
    from asr_emapl.scoring.curves import draw_curves

    draw_curves([labelled(run) for run in runs], out)
    print(out)


def labelled(run: str) -> tuple[str, Path]:
    """A run as it was named: label=path, or a path whose last part is its label."""
    label, equals, path = run.partition("=")
    if not equals or Path(run).is_dir():
        return Path(run).name, Path(run)
    return label, Path(path)
