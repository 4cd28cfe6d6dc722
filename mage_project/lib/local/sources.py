"""The publisher's server, offline: `/generated/trip-data/{color}_tripdata_{yyyy-mm}.{parquet|csv.gz|csv}`.

A file is generated when it is first asked for and kept, so that it has a length, an ETag and ranges
like a published one. As at the TLC, a month that isn't published answers 403 with an XML body, not 404.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from mage_project.lib.local import processes, trips
from mage_project.lib.local.state import free_port, port_is_free
from mage_project.lib.settings import child_environment

# part of every URL, so that the ledger says of a row that nobody published it
PREFIX = "/generated"
MODULE = "mage_project.lib.local.sources"
HOST = "127.0.0.1"
ZONES_NAME = "taxi_zone_lookup.csv"
_WRITERS = {"parquet": trips.write_parquet, "csv.gz": trips.write_csv_gz, "csv": trips.write_csv}
_DENIED = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_log = logging.getLogger(MODULE)


class Shelf:
    """Makes each file once, in a thread, in a folder of its rows, seed and generation."""

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.folder = folder.resolve() / f"generation-{trips.GENERATION}-rows-{rows}-seed-{seed}"
        self._under_way: dict[str, asyncio.Future[None]] = {}

    async def provide(self, name: str, write: Callable[[Path], None]) -> None:
        """Wait until the file is there; who asks for it meanwhile waits for the same one."""
        if name not in self._under_way:
            if (self.folder / name).exists():
                return
            work = asyncio.get_running_loop().run_in_executor(None, self._make, self.folder / name, write)
            self._under_way[name] = work
            work.add_done_callback(lambda _: self._under_way.pop(name))
        await asyncio.shield(self._under_way[name])

    def _make(self, path: Path, write: Callable[[Path], None]) -> None:
        started = time.monotonic()
        write(path)
        FileHandler.reset()  # Tornado remembers an ETag by name; this may be other content
        _log.info("made %s: %.1f s, %s bytes", path.name, time.monotonic() - started, path.stat().st_size)


class FileHandler(StaticFileHandler):
    """Tornado's file handler (its ETag is the content's hash) over a `Shelf`, with `If-Range` added."""

    def initialize(self, shelf: Shelf) -> None:  # type: ignore[override]
        """Serve from the shelf's folder."""
        super().initialize(str(shelf.folder))
        self.shelf = shelf

    async def get(self, path: str, include_body: bool = True) -> None:
        """Answer with the file of this name."""
        asked = re.fullmatch(r"([a-z]+)_tripdata_(\d{4}-(?:0[1-9]|1[0-2]))\.(parquet|csv\.gz|csv)", path)
        if path == ZONES_NAME:
            await self.shelf.provide(path, trips.write_zones)
        elif not asked or asked[1] not in trips.SCHEMAS:
            raise HTTPError(404)
        elif not "2009-01" <= asked[2] <= f"{date.today():%Y-%m}":
            self.set_status(403)
            self.set_header("Content-Type", "application/xml")
            self.finish(f'<?xml version="1.0" encoding="UTF-8"?>\n{_DENIED}')
            return
        else:
            batches = trips.generate_trips(asked[1], asked[2], self.shelf.rows, self.shelf.seed)
            await self.shelf.provide(path, lambda to: _WRITERS[asked[3]](batches, to))
        await super().get(path, include_body)

    def set_headers(self) -> None:
        """Set them, and forget a range of another version than this one."""
        super().set_headers()
        if self.request.headers.get("If-Range") not in (None, self.compute_etag()):
            self.request.headers.pop("Range", None)


class HealthHandler(RequestHandler):
    """Says ok, and which process says so."""

    def get(self) -> None:
        """Answer `ok`."""
        self.set_header("X-Process-Id", str(os.getpid()))
        self.finish("ok")


async def serve(port: int, shelf: Shelf) -> None:
    """Answer on `port` until SIGTERM or SIGINT; a file under way is still finished."""
    files = [(rf"{PREFIX}/trip-data/(.+_tripdata_[^/]+)", FileHandler), (f"{PREFIX}/misc/({ZONES_NAME})", FileHandler)]
    application = Application([*((*rule, {"shelf": shelf}) for rule in files), ("/health", HealthHandler)])
    loop, stop_asked = asyncio.get_running_loop(), asyncio.Event()
    loop.set_default_executor(ThreadPoolExecutor(2))  # a parquet file is all in memory while it is made
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_asked.set)
    server = HTTPServer(application)
    server.listen(port, HOST)
    _log.info("serving trips on %s:%s: %s rows a month, seed %s", HOST, port, shelf.rows, shelf.seed)
    await stop_asked.wait()
    server.stop()
    await server.close_all_connections()
    _log.info("stopped")


def start(folder: Path, rows: int, seed: int, home: Path, port: int | None = None) -> dict[str, Any]:
    """Start a source in the background, on `port` if that is free, and wait until it answers.

    `folder` keeps the files and `source.log`, `home` is the process's CANTRIP_HOME. Gives `host`, `port`,
    `pid`, `base_url`, `zones_url`, `rows`. Raises CantripError naming the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.resolve() / "source.log"
    port = port if port and port_is_free(port) else free_port()
    options = ["--port", port, "--folder", folder.resolve(), "--rows", rows, "--seed", seed]
    pid = processes.launch(
        "the offline taxi source",
        [sys.executable, "-m", MODULE, *map(str, options)],
        child_environment(CANTRIP_HOME=str(home.resolve())),
        log,
        lambda pid: _answers(port, pid),
    )
    url = f"http://{HOST}:{port}"
    urls = {"base_url": f"{url}{PREFIX}/trip-data", "zones_url": f"{url}{PREFIX}/misc/{ZONES_NAME}"}
    return {"host": HOST, "port": port, "pid": pid, **urls, "rows": rows}


def is_generated(url: str) -> bool:
    """Whether a file came from such a source, so that nobody published it."""
    return f"{PREFIX}/" in url


def stop(service: dict[str, Any]) -> None:
    """End the process that `start` described, and wait for its end; nothing if it is gone already."""
    if process := _process_of(service):
        processes.stop(process)


def is_running(service: dict[str, Any]) -> bool:
    """Tell whether that process still lives: its number may have gone to another program since."""
    return _process_of(service) is not None


def _process_of(service: dict[str, Any]) -> psutil.Process | None:
    return processes.find((MODULE, str(service["port"])), service["pid"])


def _answers(port: int, pid: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().headers["X-Process-Id"] == str(pid)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Serve in the foreground until SIGTERM."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="keeps the generated files")
    parser.add_argument("--rows", type=int, required=True, help="trips in each month")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    asyncio.run(serve(options.port, Shelf(options.folder, options.rows, options.seed)))


if __name__ == "__main__":
    main()
