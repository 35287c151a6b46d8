"""A local web server with configurable behaviour: range requests, closed connections, wrong bytes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Loopback:
    """Files and behaviour of the server. `requests` are (path, first requested byte)."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    has_ranges: bool = True
    cut_after: int | None = None  # close the connection after this many bytes
    first_statuses: list[int] = field(default_factory=list)  # statuses of the first requests
    status_after: tuple[int, int] | None = None  # (number of successful requests, status of the others)
    range_header: str | None = None  # replaces the correct header
    requests: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def loopback() -> Iterator[Loopback]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            manners.requests.append((self.path, start))
            content = manners.files.get(self.path)
            if manners.status_after and len(manners.requests) > manners.status_after[0]:
                self.send_error(manners.status_after[1])
                return
            if manners.first_statuses or content is None:
                self.send_error(manners.first_statuses.pop(0) if manners.first_statuses else 404)
                return
            if not manners.has_ranges:
                asked, start = None, 0
            end = min(int(asked[2]) + 1, len(content)) if asked and asked[2] else len(content)
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(end - start))
            if asked:
                right = f"bytes {start}-{end - 1}/{len(content)}"
                self.send_header("Content-Range", manners.range_header or right)
            self.end_headers()
            self.wfile.write(content[start:end][: manners.cut_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    manners = Loopback(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield manners
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
