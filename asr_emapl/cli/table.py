"""Tables in the terminal."""

from __future__ import annotations

import sys


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Rows under a head; rich comes in here, since many commands print none."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
