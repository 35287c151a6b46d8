"""The command settings: every setting of a run, from where it is declared."""

from __future__ import annotations

from typing import Annotated

import typer

from asr_emapl.errors import UserError
from asr_emapl.terminal import print_table

commands = typer.Typer()

_INTRODUCTION = """# Settings

Every setting of a run's config file, with the allowed values, its default and its meaning. `null` means
"not set". `key=value` on the command line overrides the file, for example
`asr-emapl train --config run.yaml optimizer.lr=0.001`.
"""


@commands.command()
def settings(
    section: Annotated[str | None, typer.Argument(help="Only keys that begin with this.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """List every setting with its allowed values, default and meaning.

    Example: `asr-emapl settings optimizer`
    """
    from asr_emapl.config import RunConfig
    from asr_emapl.settings import describe

    found = [s for s in describe(RunConfig) if section is None or f"{s.key}.".startswith(f"{section}.")]
    if not found:
        groups = dict.fromkeys(s.key.partition(".")[0] for s in describe(RunConfig))
        raise UserError(f"there are no settings under {section!r}; choose one of {', '.join(groups)}")
    if not markdown:
        head = ["setting", "allowed", "default", "meaning"]
        print_table(head, [[s.key, s.allowed, s.default, s.description] for s in found])
        return
    lines = [_INTRODUCTION, "| setting | allowed | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{s.key}` | {s.allowed} | `{s.default}` | {s.description} |" for s in found]
    print("\n".join(lines))
