"""Commands for settings: settings, init-config."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from asr_emapl.cli.options import positive
from asr_emapl.errors import UserError
from asr_emapl.runs.reader import run_files
from asr_emapl.storage import check_outputs, write
from asr_emapl.terminal import print_table, say, say_written

commands = typer.Typer()

_INTRODUCTION = """# Settings

Every setting of a run's config file, with the allowed values, its default and its meaning. `null` means
"not set". `key=value` on the command line overrides the file, for example
`asr-emapl train --config run.yaml optimizer.lr=0.001`.
"""


@commands.command()
def settings(
    section: Annotated[str | None, typer.Argument(help="Show only keys under this prefix.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="With --config: key=value, overrides the file.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Run config (YAML) whose values are shown.")] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/reference/settings.md.")
    ] = False,
) -> None:
    """List every setting with its allowed values, default and meaning, or with --config the values of a run.

    Example: `asr-emapl settings optimizer`

    Example: `asr-emapl settings optimizer --config runs/mini/config.yaml`
    """
    from asr_emapl.config import RunConfig, load_config
    from asr_emapl.settings import describe, value_of

    found = [s for s in describe(RunConfig) if section is None or f"{s.key}.".startswith(f"{section}.")]
    if not found:
        raise UserError(_no_settings(section or "", [s.key for s in describe(RunConfig)]))
    if config is not None:
        run = load_config(config, overrides or [])
        values = [[s.key, value_of(run, s.key)] for s in found]
        if len(values) == 1:
            say(values[0][1])
        else:
            print_table(["setting", "value"], values)
        return
    if not markdown:
        head = ["setting", "allowed", "default", "meaning"]
        print_table(head, [[s.key, s.allowed, s.default, s.description] for s in found])
        return
    lines = [_INTRODUCTION, "| setting | allowed | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{s.key}` | {s.allowed} | `{s.default}` | {s.description} |" for s in found]
    print("\n".join(lines))


def _no_settings(section: str, keys: list[str]) -> str:
    """What is wrong with a section, and the group or setting that may have been meant."""
    groups = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    near = get_close_matches(section, [*groups, *keys], n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(groups)}"
    return f"no settings under {section!r}; {remedy}"


@commands.command("init-config")
def init_config(
    labelled: Annotated[list[Path], typer.Option(help="Manifest with transcripts; may be repeated.")],
    tokenizer: Annotated[Path, typer.Option(help="File written by `asr-emapl tokenizer`.")],
    out: Annotated[Path, typer.Option(help="YAML file to write.")],
    unlabelled: Annotated[
        list[Path] | None, typer.Option(help="Manifest without transcripts; may be repeated.")
    ] = None,
    dev: Annotated[list[Path] | None, typer.Option(help="Manifest for validation; may be repeated.")] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Run directory or checkpoint to start from; determines the model."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="tiny, mini, small or base.", show_default="chosen from data and hardware"),
    ] = None,
    hours: Annotated[
        float | None, positive("Hours of audio to train for.", show_default="chosen from the data")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Weights of a Whisper encoder whose frozen output the student gets instead of log-mel "
            "features; the manifests may be those of its stored features (`asr-emapl extract-features`)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    measure: Annotated[
        bool, typer.Option(help="Run a few steps to estimate the run's time and memory.")
    ] = True,
) -> None:
    """Write a commented config for your manifests, and estimate how long the run takes on this machine.

    Example: `asr-emapl init-config --labelled train.jsonl --tokenizer characters.json --out run.yaml`
    """
    from asr_emapl.checks.estimate import estimate
    from asr_emapl.checks.starter import Starter, StarterData
    from asr_emapl.config import load_config

    manifests = [[str(path) for path in paths or ()] for paths in (labelled, unlabelled, dev)]
    read = [*labelled, *(unlabelled or ()), *(dev or ()), tokenizer, *(run_files(init) if init else ())]
    read += [encoder] if encoder else []
    check_outputs([out], read, overwrite=overwrite)
    data = StarterData.read(*manifests)
    starter = Starter(data, str(tokenizer), init=init, size=size, hours=hours, encoder=encoder)
    write(out, starter.write_text(out.parent))
    config = load_config(out)
    say_written(
        out, f"{out}: {starter.total_hours:g} h of audio, of which {starter.seed_hours:g} h supervised"
    )
    if measure:
        say(str(estimate(config)))
