"""Run the code blocks of the documentation.

In docs/, a `bash` block has commands that run in the quickstart's folder. A `python` block is a program that
runs there, and a block with a title is a file of that name. A `console` block is not run, because it needs a
cluster, a long time, or a corpus that is not available.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.commands import call

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its file name (or ""), and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    for match in _BLOCK.finditer(page.read_text()):
        yield Block(match[1], match[2] or "", match[3])


def run_page(page: Path, folder: Path) -> int:
    """Run the blocks of a page in a folder; return the number of commands and programs."""
    count = 0
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "bash":
            for line in block.text.strip().splitlines():
                _run_line(page, line, folder)
                count += 1
        elif block.language == "python":
            _run([sys.executable, "-c", block.text], page, folder)
            count += 1
    return count


def _run_line(page: Path, line: str, folder: Path) -> None:
    words = shlex.split(line)
    if words[0] == "python":
        _run([sys.executable, *words[1:]], page, folder)
        return
    assert words[0] == "asr-emapl", f"{page}: {line}"
    outcome = call(*words[1:])
    assert outcome.status == 0, f"{page}: {line}\n{outcome.out}{outcome.err}"


def _run(command: list[str], page: Path, folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}: {command}\n{done.stdout}{done.stderr}"
