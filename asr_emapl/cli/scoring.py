"""Commands on what models wrote: score, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


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

    draw_curves([_labelled(run) for run in runs], out)
    print(out)


def _labelled(run: str) -> tuple[str, Path]:
    label, equals, path = run.partition("=")
    if not equals or Path(run).is_dir():
        return Path(run).name, Path(run)
    return label, Path(path)
