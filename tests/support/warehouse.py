"""A home of its own for tests: settings, the command line in it, and questions to its PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
from dotenv import dotenv_values

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.local import bigquery, gcs, google, postgres
from mage_project.lib.settings import ROOT, PostgresSettings, Settings, load_settings
from mage_project.lib.sinks.postgres_server import engine_for

OURS = (
    *("CANTRIP_", "POSTGRES_", "TAXI_", "MAGE_", "HTTP_", "RAW_", "STAGED_", "VARIABLES_", "SLICE_", "REQUIRE_USER_"),
    *("GCP_", "GCS_", "GOOGLE_", "DATASET_", "STORAGE_EMULATOR_", "BIGQUERY_"),
)

WAIT_SECONDS = 60.0


def hidden_environment() -> dict[str, str]:
    """Give what a developer's shell and own .env set, emptied: an empty variable counts as unset."""
    return {name: "" for name in (*os.environ, *dotenv_values(ROOT / ".env")) if name.startswith(OURS)}


class Home:
    """One CANTRIP_HOME and the environment that goes with it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {"CANTRIP_HOME": str(folder), **environment}

    @property
    def settings(self) -> Settings:
        return load_settings(self.environment)

    @property
    def server(self) -> PostgresSettings:
        return self.settings.require_postgres()

    def with_environment(self, **more: str) -> Home:
        """Give the same home with other variables over its own."""
        return Home(self.folder, **{**self.environment, **more})

    def child_environment(self) -> dict[str, str]:
        """Give the environment for a process in this home."""
        return {**os.environ, **hidden_environment(), **self.environment, "PYTHONPATH": str(ROOT)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mage_project.lib.cli", *arguments]

    def cantrip(self, *arguments: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end, in a process of its own."""
        return self.python("mage_project.lib.cli", *arguments, timeout=timeout)

    def cantrip_json(self, *arguments: str) -> Any:
        """Run it with `--json`, expect exit 0 and nothing but one document."""
        done = self.cantrip(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line and leave it running."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.child_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python(self, module: str, *arguments: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a module of this repository in this home's environment."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.child_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a temporary folder that everybody may enter: pytest's own is closed to the server's user."""
    with tempfile.TemporaryDirectory(prefix="cantrip-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def running_home(*, with_google: bool = False, **environment: str) -> Iterator[Home]:
    """Give a home with its embedded PostgreSQL running, stopped at the end.

    With `with_google` the local Cloud Storage and BigQuery run in it, too.
    """
    with open_folder() as folder:
        home = Home(folder / "home", **environment)
        home.folder.mkdir()
        try:
            postgres.start(home.settings)
            engine_for(home.server).dispose()  # makes the database
            if with_google:
                start_google(home)
            yield home
        finally:
            stop_services(home)


@contextmanager
def google_home(**environment: str) -> Iterator[Home]:
    """Give a home with the local Cloud Storage and BigQuery alone, stopped at the end."""
    with open_folder() as folder:
        home = Home(folder / "home", **environment)
        home.folder.mkdir()
        try:
            start_google(home)
            yield home
        finally:
            stop_services(home)


def start_google(home: Home) -> None:
    """Start both servers as `cantrip up` does, with the bucket made."""
    google.reserve(home.settings)
    gcs.start(home.settings)
    bigquery.start(home.settings)
    gcs.ensure_bucket(home.settings.require_google())


def stop_services(home: Home) -> None:
    """Stop whatever runs in a home, what `cantrip up` started in it among that."""
    for server in (postgres, gcs, bigquery):
        server.stop(home.settings)


@contextmanager
def session(server: PostgresSettings, dbname: str | None = None) -> Iterator[Any]:
    """Give a cursor in a transaction that is committed at the end."""
    connection = psycopg2.connect(server.url(dbname))
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def query(server: PostgresSettings, sql: str, *parameters: Any, dbname: str | None = None) -> list[tuple]:
    """Give all rows of a query. Without parameters a `%` in it means nothing."""
    with session(server, dbname) as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchall()


def scalar(server: PostgresSettings, sql: str, *parameters: Any) -> Any:
    """Give the one value of a query."""
    return query(server, sql, *parameters)[0][0]


def execute(server: PostgresSettings, sql: str, *parameters: Any) -> None:
    """Run a statement and commit it."""
    with session(server) as cursor:
        cursor.execute(sql, parameters or None)


def relations(server: PostgresSettings, schema: str) -> list[str]:
    """Give the names of all tables of a schema, partitions and tables aside among them."""
    return [
        name for (name,) in query(server, "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", schema)
    ]


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Ask again and again until the answer is true, and give it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited {WAIT_SECONDS:.0f} s in vain for {what}")


class Background(threading.Thread):
    """A function in a thread; `result()` waits and gives what it gave or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._call = lambda: function(*arguments)
        self._given: Any = None
        self._raised: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._given = self._call()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._raised = error

    def result(self) -> Any:
        self.join(WAIT_SECONDS)
        assert not self.is_alive(), "still running"
        if self._raised is not None:
            raise self._raised
        return self._given


def dataset_of(folder: Path, slice: str, columns: dict[str, Any] | pa.Table, batch_rows: int = 1000) -> Dataset:
    """Stage a few columns as a dataset of `slice`."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    path = folder / f"{abs(hash((slice, time.monotonic_ns())))}.arrow"
    return stage(table.to_batches(max_chunksize=batch_rows), table.schema, path, slice=slice, source="a test")


def paragraph(done: subprocess.CompletedProcess[str]) -> str:
    """Give the error of a failed command: one paragraph on standard error, without a traceback."""
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == errors[0], f"more than one paragraph: {done.stderr}"
    return errors[0].removeprefix("error: ")
