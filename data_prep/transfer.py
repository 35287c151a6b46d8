"""Files fetched over HTTP: resumed where they broke off, under their own name only once verified."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from asr_emapl.errors import UserError
from asr_emapl.terminal import visible

_logger = logging.getLogger(__name__)

_ATTEMPTS = 5  # one after another that bring nothing new, then it is left to the user
_FIRST_PAUSE_S = 1.0  # doubled from attempt to attempt
_TIMEOUT_S = 60.0  # without a byte
_BLOCK = 1 << 18
_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that may pass by waiting."""


def fetch(url: str, path: Path, checksum: str) -> None:
    """Have the file at `url` under the name `path`, with this MD5 or SHA-256 (hexadecimal; its length tells).

    What has arrived stands in <path>.partial. A broken transfer goes on from there, by itself for as long as
    something arrives, else in the next call. A server that knows no ranges starts over, and so does a
    transfer that began with old bytes and ended with the wrong checksum. A wrong file at `path` is taken
    for the beginning of the right one.

    Raises:
        UserError: the server refuses, the network stays away, or the file has another checksum.
        OSError: the file cannot be written. What has arrived is kept.
    """
    partial = path.with_name(f"{path.name}.partial")
    if path.exists():
        if _digest(path, checksum) == checksum:
            return
        _logger.warning(f"{path}: not the official file, fetching what is missing or wrong")
        path.replace(partial)
    begins_with_old_bytes = True
    while begins_with_old_bytes:
        begins_with_old_bytes = _size(partial) > 0
        _transfer(url, partial)
        found = _digest(partial, checksum)
        if found == checksum:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            return
        partial.unlink()
    raise UserError(
        f"{url}: arrived with the {_kind(checksum)} {found} instead of {checksum} (download "
        "again; if that is no help, the file on the server has changed)"
    )


def _transfer(url: str, partial: Path) -> None:
    """Receive until the file is whole, as far as the server tells its size."""
    fruitless = 0
    while True:
        before = _size(partial)
        error: Exception | str = "the connection broke off"
        try:
            if _receive(url, partial):
                return
        except HTTPError as refusal:
            error = refusal
            if refusal.code not in _BUSY:
                break
        except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as failure:
            error = failure
        fruitless = 0 if _size(partial) > before else fruitless + 1
        if fruitless == _ATTEMPTS:
            break
        time.sleep(_FIRST_PAUSE_S * 2**fruitless)
    raise UserError(
        f"{url}: cannot be fetched: {error} (check the network, then download again: it resumes after the "
        f"{_size(partial)} bytes that are there)"
    )


def _receive(url: str, partial: Path) -> bool:
    """One request for what is missing, appended to `partial`. Whether the file then has its full size."""
    have = _size(partial)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond what is there: the checksum says what that is
            error.close()
            return True
        raise
    with response:
        start, total = _span(response)
        if start not in (0, have):
            raise HTTPException(f"the server sends from byte {start} on, not from {have}")
        with partial.open("rb+" if start else "wb") as file, _progress(partial.name, start, total) as advance:
            file.seek(start)
            while block := response.read1(_BLOCK):
                file.write(block)
                advance(len(block))
            return total is None or file.tell() == total


def _span(response: Any) -> tuple[int, int | None]:
    """Where in the file the body of a response begins, and how long the file is, if that is told."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        raise HTTPException("the server sends a range without saying which")
    return int(match[1]), None if match[2] == "*" else int(match[2])


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; yields what advances it by a number of bytes."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()
    ) as bar:
        task = bar.add_task(visible(name, keep=""), total=total, completed=start)
        yield lambda count: bar.advance(task, count)


def _kind(checksum: str) -> str:
    return {32: "MD5", 64: "SHA-256"}[len(checksum)]


def _digest(path: Path, like: str) -> str:
    """The checksum of a file, hexadecimal, of the kind of another one."""
    digest = hashlib.new(_kind(like).replace("-", "").lower(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
