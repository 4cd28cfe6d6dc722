"""A TCP proxy that counts: what goes to a server, and what comes back.

A server's answers may name its own address, and a client follows that link past the proxy. The address
is therefore replaced by the proxy's, which has as many digits: lengths, and so the counts, stay.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from threading import Lock, Thread
from types import TracebackType
from urllib.parse import urlsplit

PIECE = 65536


class CountingProxy:
    """Stands before the server `endpoint` (http://host:port) while it is entered; `endpoint` is then its own."""

    def __init__(self, endpoint: str) -> None:
        server = urlsplit(endpoint)
        self._server = (server.hostname, server.port)
        self._listener = _listen_on_port_of_length(len(str(server.port)))
        self.endpoint = f"http://{server.hostname}:{self._listener.getsockname()[1]}"
        self._names = endpoint.encode(), self.endpoint.encode()
        self._lock = Lock()
        self._sent = self._received = self._connections = 0

    def __enter__(self) -> CountingProxy:
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone leaves a thread in accept
        self._listener.close()

    def counts(self) -> dict[str, int]:
        """Give what went through so far, in bytes: HTTP's own included."""
        with self._lock:
            return {"sent": self._sent, "received": self._received, "connections": self._connections}

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    self._connections += 1
                server = socket.create_connection(self._server)
                for source, target, outward in ((client, server, True), (server, client, False)):
                    Thread(target=self._pump, args=(source, target, outward), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                with self._lock:
                    self._sent += len(piece) * outward
                    self._received += len(piece) * (not outward)
                target.sendall(piece if outward else piece.replace(*self._names))
        # one side has said all; the other may still be answering
        for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with suppress(OSError):
                end.shutdown(how)


def _listen_on_port_of_length(digits: int) -> socket.socket:
    for _ in range(100):
        listener = socket.create_server(("127.0.0.1", 0))
        if len(str(listener.getsockname()[1])) == digits:
            return listener
        listener.close()
    raise RuntimeError(f"no free port of {digits} digits on 127.0.0.1")
