"""A proxy before the local Cloud Storage or BigQuery: it records what is asked, and misbehaves on request.

    with proxy(google.storage_endpoint) as storage:
        storage.answer("POST .*/o.* .*/_manifests/", 503)
        ...
        assert len(storage.asked("POST .*/_manifests/")) == 2

Rules and questions are regular expressions over `METHOD /path?query name`, where `name` is what the
body names: an upload's object, a job's id, a table's id.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote, urlsplit

from tests.support.warehouse import WAIT_SECONDS

_OBJECT = re.compile(rb'"name":\s*"([^"]+)"')
_REFERENCES = {"jobReference": "jobId", "tableReference": "tableId", "datasetReference": "datasetId"}
_REASONS = {400: "invalidQuery", 403: "accessDenied", 404: "notFound", 409: "duplicate", 429: "rateLimitExceeded"}
_OURS = ("host", "connection", "accept-encoding", "content-length", "transfer-encoding")


class Asked(NamedTuple):
    """One request, and what it was answered (None: nothing, the connection was cut)."""

    what: str
    body: bytes
    status: int | None


@dataclass
class Rule:
    """What becomes of the requests that match `pattern`, from the `skip + 1`st on, `left` of them."""

    pattern: re.Pattern[str]
    skip: int
    left: int
    forward: bool  # whether the server gets to see it
    status: int | None = None  # the answer in place of the server's; None cuts the connection
    body: bytes = b""
    held: Hold | None = None


@dataclass
class Hold:
    """A request that waits: `reached` says that it is there; `release` lets it go on, `drop` cuts it off."""

    reached: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    dropped: bool = False

    def wait(self) -> None:
        assert self.reached.wait(WAIT_SECONDS), "no such request came"

    def release(self) -> None:
        self.over.set()

    def drop(self) -> None:
        self.dropped = True
        self.over.set()


@dataclass
class Proxy:
    """A running proxy: its address, what it was asked, and how to make it fail."""

    url: str
    upstream: str
    requests: list[Asked] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, pattern: str, status: int, said: str = "told to fail", *, nth: int = 1, times: int = 1) -> None:
        """Answer the n-th match, and `times - 1` after it, as Google does; the server never sees them."""
        reason = {"reason": _REASONS.get(status, "backendError"), "message": said}
        body = json.dumps({"error": {"code": status, "message": said, "errors": [reason]}}).encode()
        self._add(Rule(re.compile(pattern), nth - 1, times, forward=False, status=status, body=body))

    def lose_answer(self, pattern: str, *, status: int | None = None, nth: int = 1) -> None:
        """Let the server do it, but cut the connection in place of the answer (or answer `status`)."""
        body = b'{"error": {"message": "lost"}}'
        self._add(Rule(re.compile(pattern), nth - 1, 1, forward=True, status=status, body=body))

    def hold(self, pattern: str, *, nth: int = 1, after: bool = False) -> Hold:
        """Keep the n-th match waiting: before the server sees it, or `after` it did, before the answer."""
        hold = Hold()
        self._add(Rule(re.compile(pattern), nth - 1, 1, forward=after, held=hold))
        return hold

    def asked(self, pattern: str) -> list[Asked]:
        """Give the requests that match, in the order of their answers."""
        with self.lock:
            return [each for each in self.requests if re.search(pattern, each.what)]

    def clear(self) -> None:
        """Forget rules and requests; whatever is held is cut off."""
        with self.lock:
            for rule in self.rules:
                if rule.held:
                    rule.held.drop()
            self.rules.clear()
            self.requests.clear()

    def take(self, what: str) -> Rule | None:
        """Give the rule for this request, and count it as done."""
        with self.lock:
            for rule in self.rules:
                if rule.left < 1 or not rule.pattern.search(what):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                rule.left -= 1
                return rule
        return None

    def note(self, asked: Asked) -> None:
        with self.lock:
            self.requests.append(asked)

    def _add(self, rule: Rule) -> None:
        with self.lock:
            self.rules.append(rule)


@contextmanager
def proxy(upstream: str | None) -> Iterator[Proxy]:
    """Stand before the server `upstream`, on a free port of loopback."""
    assert upstream, "there is no such server"
    server = _QuietServer(("127.0.0.1", 0), _Handler)
    state = _Handler.proxies[server] = Proxy(f"http://127.0.0.1:{server.server_address[1]}", upstream)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield state
    finally:
        state.clear()
        server.shutdown()
        server.server_close()
        thread.join()
        del _Handler.proxies[server]


def _named_in(body: bytes) -> str:
    """Give what a body is about: an upload's object, or the id of a job, table or dataset."""
    try:
        document = json.loads(body)
    except ValueError:  # the parts of an upload: the first one is the object's metadata
        found = _OBJECT.search(body[:4096])
        return found[1].decode() if found else ""
    return next((document[key][name] for key, name in _REFERENCES.items() if key in document), "")


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients under test are killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxies: ClassVar[dict[Any, Proxy]] = {}

    def __getattr__(self, name: str) -> Any:
        """Serve every method alike: `do_GET`, `do_POST` and the others."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        state = self.proxies[self.server]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = f"{self.command} {unquote(self.path)} {_named_in(body) if self.command == 'POST' else ''}".rstrip()
        rule = state.take(what)
        if rule is None:
            return self._pass_on(state, what, body)
        if rule.held and not rule.forward:
            rule.held.reached.set()
            rule.held.over.wait()
            return self._cut(state, what, body) if rule.held.dropped else self._pass_on(state, what, body)
        answer = self._ask(state, body) if rule.forward else None
        if rule.held and answer:
            rule.held.reached.set()
            rule.held.over.wait()
            return self._cut(state, what, body) if rule.held.dropped else self._reply(state, what, body, *answer)
        if rule.status is None:
            return self._cut(state, what, body)
        return self._reply(state, what, body, rule.status, {"Content-Type": "application/json"}, rule.body)

    def _pass_on(self, state: Proxy, what: str, body: bytes) -> None:
        self._reply(state, what, body, *self._ask(state, body))

    def _ask(self, state: Proxy, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(state.upstream).netloc, timeout=120)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _OURS}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            # addresses that the server gives of itself lead through here, too
            theirs, ours = urlsplit(state.upstream).netloc, urlsplit(state.url).netloc
            kept = {name: value.replace(theirs, ours) for name, value in answer.getheaders()}
            if "json" in kept.get("Content-Type", ""):
                content = content.replace(theirs.encode(), ours.encode())
            return answer.status, {name: kept[name] for name in kept if name.lower() not in _OURS}, content
        finally:
            connection.close()

    def _reply(
        self, state: Proxy, what: str, body: bytes, status: int, headers: dict[str, str], content: bytes
    ) -> None:
        state.note(Asked(what, body, status))
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self, state: Proxy, what: str, body: bytes) -> None:
        state.note(Asked(what, body, None))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
