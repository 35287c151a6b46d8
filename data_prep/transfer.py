"""Download files over HTTP, resume interrupted transfers and verify checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from asr_emapl.errors import UserError
from asr_emapl.progress import Progress
from asr_emapl.terminal import visible

_logger = logging.getLogger(__name__)

_ATTEMPTS = 5  # maximum consecutive attempts without new bytes
_FIRST_PAUSE_S = 1.0  # doubled after each attempt
_TIMEOUT_S = 60.0  # without new bytes
_BLOCK = 1 << 18
_MB = 1_000_000
_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses that may be temporary."""


def fetch(url: str, path: Path, checksum: str) -> None:
    """Download `url` to `path`, unless the file at `path` matches the MD5 or SHA-256 checksum (hexadecimal).

    Received bytes are kept in <path>.partial. An interrupted transfer resumes from there: automatically as
    long as retries make progress, otherwise on the next call. It restarts if the server does not support
    ranges, or if a resumed file has the wrong checksum. A file with the wrong checksum at `path` is treated
    as a partial download.

    Raises:
        UserError: the server refuses the request, the network fails, or the checksum is wrong.
        OSError: the file cannot be written; received bytes are kept.
    """
    partial = path.with_name(f"{path.name}.partial")
    if path.exists():
        if _digest(path, checksum) == checksum:
            return
        _logger.warning(f"{path}: not the official file; downloading it")
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
        f"{url}: wrong {_kind(checksum)}: expected {checksum}, got {found} (download again; if the error "
        "remains, the file on the server has changed)"
    )


def _transfer(url: str, partial: Path) -> None:
    """Receive until the file has the size reported by the server, if any."""
    fruitless = 0
    while True:
        before = _size(partial)
        error: Exception | str = "the connection was closed"
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
        f"{url}: download failed: {error} (check the network, then download again; it resumes after the "
        f"{_size(partial)} bytes already received)"
    )


def _receive(url: str, partial: Path) -> bool:
    """Request the missing bytes and append them to `partial`. Return whether the file is then complete."""
    have = _size(partial)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code == 416 and have:  # no bytes are missing; the checksum decides
            error.close()
            return True
        raise
    with response:
        start, total = _span(response)
        if start not in (0, have):
            raise HTTPException(f"the server sent bytes from {start}, not from {have}")
        with partial.open("rb+" if start else "wb") as file, _progress(partial.name, start, total) as advance:
            file.seek(start)
            while block := response.read1(_BLOCK):
                file.write(block)
                advance(len(block))
            return total is None or file.tell() == total


def _span(response: Any) -> tuple[int, int | None]:
    """Return the file offset of the response body, and the total file length (None if unknown)."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        raise HTTPException("the server sent a partial response without a Content-Range header")
    return int(match[1]), None if match[2] == "*" else int(match[2])


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show the progress; yields a function that advances it by a number of bytes."""
    size = None if total is None else total / _MB
    with Progress(visible(name, keep=""), size, "MB", done=start / _MB) as progress:
        yield lambda count: progress.advance(count / _MB)


def _kind(checksum: str) -> str:
    return {32: "MD5", 64: "SHA-256"}[len(checksum)]


def _digest(path: Path, like: str) -> str:
    """Return the hexadecimal checksum of a file, of the same kind as `like`."""
    digest = hashlib.new(_kind(like).replace("-", "").lower(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
