"""A file server on loopback that misbehaves on request, for tests of whoever downloads.

    with serve(folder) as server:
        server.fault("/trips.parquet", "cut_body", after=1000)
        download(f"{server.url}/trips.parquet")
        assert [request.bytes_sent for request in server.requests] == [1000, ...]

`no_range`, `no_etag` and `slow` come on top of the answer; of the other kinds the first one that was
set for the path answers, until it has done so `times` times.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

ALWAYS = 1_000_000
MODIFIERS = ("no_range", "no_etag", "slow")
BODY_ONLY = ("cut_body", "short_body", "no_range")  # a HEAD neither shows them nor uses them up
KINDS = ("status", "html", "reset", *BODY_ONLY, *MODIFIERS)


class Request(NamedTuple):
    """What was asked, and how many bytes of body went back. Header names are as the client wrote them."""

    method: str
    path: str
    headers: dict[str, str]
    bytes_sent: int


@dataclass
class Fault:
    """One way to misbehave, `left` more times."""

    kind: str
    left: int
    options: dict[str, Any]


@dataclass
class Server:
    """A running server: its address, what it was asked, and how to make it fail."""

    url: str
    folder: Path
    requests: list[Request] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, path: str, kind: str, times: int = 1, **options: Any) -> None:
        """Make the next `times` answers for `path` (no query) fail.

        Options: status `code`, `headers`; cut_body `after` (bytes of this answer's body); slow `seconds`.
        """
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(KINDS)}")
        with self.lock:
            self.faults.setdefault(path, []).append(Fault(kind, times, options))

    def take_faults(self, method: str, path: str) -> dict[str, dict[str, Any]]:
        """Give the faults for one answer, by kind, and count them as done."""
        taken: dict[str, dict[str, Any]] = {}
        with self.lock:
            for each in self.faults.get(path, []):
                replaces = each.kind not in MODIFIERS
                if each.left < 1 or (method == "HEAD" and each.kind in BODY_ONLY) or each.kind in taken:
                    continue
                if replaces and any(kind not in MODIFIERS for kind in taken):
                    continue
                each.left -= 1
                taken[each.kind] = each.options
        return taken


@contextmanager
def serve(folder: Path | None = None) -> Iterator[Server]:
    """Serve the folder's files (of an empty temporary one if None: see `server.folder`) on a free port."""
    with tempfile.TemporaryDirectory() as empty:
        http_server = _QuietServer(("127.0.0.1", 0), _Handler)
        url = f"http://127.0.0.1:{http_server.server_address[1]}"
        server = _Handler.servers[http_server] = Server(url, folder or Path(empty))
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http_server.shutdown()
            http_server.server_close()
            thread.join()
            del _Handler.servers[http_server]


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients under test hang up, and so do we."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    servers: ClassVar[dict[Any, Server]] = {}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        state = self.servers[self.server]
        path = unquote(urlsplit(self.path).path)
        faults = state.take_faults(self.command, path)
        time.sleep(faults.get("slow", {}).get("seconds", 0))
        if "reset" in faults:
            self._answer(state, None, {}, b"")
        elif "status" in faults:
            options = faults["status"]
            self._answer(state, options.get("code", 503), options.get("headers", {}), b"told to fail")
        elif "html" in faults:
            page = b"<html><body>Down for maintenance</body></html>"
            self._answer(state, 200, {"Content-Type": "text/html"}, page)
        else:
            self._answer_file(state, state.folder / path.lstrip("/"), faults)

    def _answer_file(self, state: Server, file: Path, faults: dict[str, dict[str, Any]]) -> None:
        if not file.resolve().is_relative_to(state.folder.resolve()) or not file.is_file():
            return self._answer(state, 404, {}, b"not found")
        content = file.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        if "no_etag" not in faults:
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag:
                return self._answer(state, 304, headers, b"")
        status, body = 200, content
        if "no_range" not in faults:
            headers["Accept-Ranges"] = "bytes"
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and self.headers.get("If-Range", etag) == headers.get("ETag", etag):
                first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
                if first >= len(content):
                    return self._answer(state, 416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                status, body = 206, content[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        cut = faults["cut_body"]["after"] if "cut_body" in faults else None
        return self._answer(state, status, headers, body, len(body) // 2 if "short_body" in faults else cut)

    def _answer(
        self, state: Server, status: int | None, headers: dict[str, str], body: bytes, cut: int | None = None
    ) -> None:
        """Send it and record it first, so that a client that has its answer finds the record."""
        sent = b"" if self.command == "HEAD" else body[:cut]
        with state.lock:
            state.requests.append(Request(self.command, self.path, dict(self.headers), len(sent)))
        if status is None:  # closing with a zero linger time sends RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)
        if self.command != "HEAD" and len(sent) < len(body):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
