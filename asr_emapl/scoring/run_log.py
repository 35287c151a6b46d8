"""Reading what a run wrote of itself, while it may still be writing. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log of JSON lines; what follows the last line's end is not whole yet, and left out.

    Raises:
        UserError: the file cannot be read, or a line of it is broken.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); is {path.parent} a run directory?"
        ) from error
    records = []
    for number, line in enumerate(content.split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: is no line of a run's log ({error!r})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: is no line of a run's log ({line[:40]})")
        records.append(record)
    return records
