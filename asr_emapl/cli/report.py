"""The command report: what runs came to."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from asr_emapl.cli.scoring import labelled
from asr_emapl.cli.table import print_table

commands = typer.Typer()


@commands.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run directories, each as label=path or path.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, run by run.")] = False,
) -> None:
    """What the time and the audio of runs went to, and what to change first.

    Example: `asr-emapl report runs/mini`
    """
    from asr_emapl.scoring.usage import as_record, read_usage, table

    usages = {label: read_usage(path) for label, path in map(labelled, runs)}
    if as_json:
        print(json.dumps({label: as_record(usage) for label, usage in usages.items()}, indent=2))
        return
    print_table(*table(usages))
    for label, usage in usages.items():
        print(f"{label}: {usage.advice()}")
