"""Lines of the text files that corpora come with."""

from __future__ import annotations

from pathlib import Path

from asr_emapl.errors import UserError


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, each with its number, which counts from 1.

    A byte order mark and Windows line ends are taken away. Only line feeds part lines: the characters that
    Unicode also calls line separators do occur in transcripts.

    Raises:
        UserError: the file is absent, unreadable, or not UTF-8.
    """
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (mend the path, or fetch the corpus again)") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start} (save the file as UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror} (check permissions)") from error
    lines = enumerate(content.split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]
