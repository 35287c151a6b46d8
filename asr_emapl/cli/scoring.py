"""Commands for hypotheses and runs: score, compare, score-table, plot."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from asr_emapl.cli.options import count, seed_option
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import run_files
from asr_emapl.storage import check_outputs
from asr_emapl.terminal import print_table, put, say, say_written

commands = typer.Typer()


class Breakdown(str, Enum):
    """How to break down scores."""

    speaker = "speaker"
    duration = "duration"


class Weights(str, Enum):
    """Edit costs for word alignment."""

    levenshtein = "levenshtein"
    sclite = "sclite"


AllowMissing = Annotated[bool, typer.Option(help="Count missing hypotheses as empty and ignore extra ones.")]
Normalise = Annotated[
    str,
    typer.Option(
        help="Normalisation of all texts: none, librispeech, common-voice, words, plain, jiwer, "
        "whisper-english, whisper-basic."
    ),
]
SpeakerInId = Annotated[bool, typer.Option(help="Use the part of the id before the first - or _ as speaker.")]
WeightsOption = Annotated[
    Weights,
    typer.Option(
        "--weights", help="Edit costs for word alignment: levenshtein (uniform, as in jiwer) or sclite."
    ),
]


@commands.command()
def score(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="REF HYP [REF HYP]...",
            help="Pairs of references and hypotheses, one pair per split. Formats: manifest (JSONL, NeMo, "
            "lhotse), trn, stm, ctm, or lines 'id words'.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of tables.")] = False,
    allow_missing: AllowMissing = False,
    normalise: Normalise = "none",
    by: Annotated[
        list[Breakdown] | None, typer.Option(help="Add a table by speaker or duration; may be repeated.")
    ] = None,
    speaker_in_id: SpeakerInId = False,
    weights: WeightsOption = Weights.levenshtein,
    alignments: Annotated[
        list[Path] | None,
        typer.Option(help="Write alignments as .txt, .html or .pra; may be repeated."),
    ] = None,
    confusions: Annotated[
        int, count("Number of confusions to show, most frequent first, for each kind.")
    ] = 0,
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(help="Word list or training manifest: report words not in it; may be repeated."),
    ] = None,
    resamples: Annotated[int, count("Number of bootstrap resamples; 0 disables intervals.")] = 1000,
    seed: Annotated[int, seed_option("Seed of the bootstrap.")] = 0,
) -> None:
    """Report word, character and sentence error rates with counts and intervals, in total and per split.

    Example: `asr-emapl score data/dev-clean.jsonl dev-clean.hyp.jsonl --by speaker --alignments errors.html`
    """
    from asr_emapl.scoring.alignment_files import check_alignment_file, write_alignments
    from asr_emapl.scoring.evaluation import evaluate
    from asr_emapl.scoring.evaluation_report import evaluation_csv, evaluation_lines
    from asr_emapl.scoring.normalisation import normalisation
    from asr_emapl.scoring.tally import ScoringConfig

    _require_one_form(as_json, as_csv, bool(confusions or vocabulary))
    for place in alignments or []:
        check_alignment_file(place)
    check_outputs(alignments or [], [*files, *(vocabulary or [])])
    config = ScoringConfig(allow_missing, speaker_in_id, weights.value, resamples, seed)
    result = evaluate(files, config, normalisation(normalise), vocabulary or [])
    for place in alignments or []:
        write_alignments(
            place, result.total.tally.alignments, ", ".join(result.splits), result.normalisation.stated
        )
    if as_json:
        print(json.dumps(result.to_dict(confusions), indent=2))
    elif as_csv:
        put(evaluation_csv(result))
    else:
        for line in evaluation_lines(result, [b.value for b in by or []], confusions):
            say(line)


def _require_one_form(as_json: bool, as_csv: bool, in_tables: bool) -> None:
    """Check that at most one form is requested, and that CSV has what is asked for.

    Raises:
        UserError: it is not so.
    """
    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive")
    if as_csv and in_tables:
        raise UserError("--csv does not support --confusions and --vocabulary; omit them or use --json")


@commands.command()
def compare(
    reference: Annotated[str, typer.Argument(help="References, in any format that `score` reads.")],
    first: Annotated[str, typer.Argument(help="Hypotheses of the first system.")],
    second: Annotated[str, typer.Argument(help="Hypotheses of the second system.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    allow_missing: AllowMissing = False,
    normalise: Normalise = "none",
    speaker_in_id: SpeakerInId = False,
    weights: WeightsOption = Weights.levenshtein,
    resamples: Annotated[int, count("Number of resamples of the paired bootstrap.", least=1)] = 1000,
    seed: Annotated[int, seed_option("Seed of the paired bootstrap.")] = 0,
) -> None:
    """Test whether one system is better: confidence interval of the difference and matched-pairs test.

    Example: `asr-emapl compare data/dev-clean.jsonl baseline.jsonl ema.jsonl`
    """
    from asr_emapl.scoring.comparison import compare_files
    from asr_emapl.scoring.normalisation import normalisation
    from asr_emapl.scoring.tally import ScoringConfig

    config = ScoringConfig(allow_missing, speaker_in_id, weights.value, resamples, seed)
    result = compare_files(reference, first, second, config, normalisation(normalise))
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
        return
    for line in result.lines():
        say(line)


@commands.command("score-table")
def score_table(
    systems: Annotated[
        list[str],
        typer.Argument(help="Folders with SPLIT.MODEL.json, each as name=folder; a name may be repeated."),
    ],
) -> None:
    """Print a table of WERs written by `score --json`: one row per system, one column per split and model.

    Several folders with the same name, such as seeds, are combined into the mean and half the range.

    Example: `asr-emapl score-table baseline=runs/baseline/scores ema=runs/ema/scores`
    """
    from asr_emapl.scoring.score_table import score_table as table

    folders: dict[str, list[Path]] = {}
    for name, folder in map(labelled, systems):
        folders.setdefault(name, []).append(folder)
    print_table(*table(folders))


@commands.command()
def plot(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    out: Annotated[Path, typer.Option(help="Image to write; its extension determines the format.")],
) -> None:
    """Plot WER over hours of audio: one panel per split, one line per run and model.

    Example: `asr-emapl plot baseline=runs/baseline ema=runs/ema --out curves.png`
    """
    from asr_emapl.report.curves import draw_curves

    named = [labelled(run) for run in runs]
    check_outputs([out], [file for _, folder in named for file in run_files(folder)])
    draw_curves(named, out)
    say_written(out, str(out))


def labelled(run: str) -> tuple[str, Path]:
    """Return label and path of a run, from label=path or from a path (the label is its last part)."""
    label, equals, path = run.partition("=")
    if not equals or Path(run).is_dir():
        return Path(run).name, Path(run)
    return label, Path(path)
