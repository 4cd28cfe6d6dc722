"""`cantrip up`, `down`, `status` and `ui`: the local services and Mage's notebook."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from mage_project.lib.cli import screen
from mage_project.lib.errors import ConfigurationError
from mage_project.lib.local import bigquery, gcs, google, postgres, sources
from mage_project.lib.local.state import locked, port_is_free, write_service
from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.settings import Settings, export_environment, load_settings, read_services
from mage_project.lib.sinks.postgres_server import engine_for, ensure_database

logger = logging.getLogger(__name__)

OPTIONAL = ("source",)
SOURCE_ROWS = 200_000


@click.command(
    epilog="""\b
Examples:
  ./cantrip up
  ./cantrip up --with source    # and an offline source that generates taxi months
"""
)
@click.option("--with", "extra", metavar="NAME,…", default="", help=f"Also start: {', '.join(OPTIONAL)}.")
def up(extra: str) -> None:
    """Start the local services. Running it again changes nothing.

    PostgreSQL and local servers for Cloud Storage and BigQuery, each on a free port of 127.0.0.1,
    kept for the next time; their data stays in .cantrip/. With POSTGRES_HOST,
    STORAGE_EMULATOR_HOST or BIGQUERY_EMULATOR_HOST set, that server is used and none is started.
    """
    wanted = [name for name in extra.replace(" ", "").split(",") if name]
    unknown = [name for name in wanted if name not in OPTIONAL]
    if unknown:
        raise ConfigurationError(f"--with {unknown[0]!r} is not a service; there are {', '.join(OPTIONAL)}.")
    start_services(load_settings(), with_source="source" in wanted)
    _print_status(_status(load_settings()))


@click.command(epilog="\b\nExample:\n  ./cantrip down")
def down() -> None:
    """Stop the local services. Their data and ports are kept."""
    settings = load_settings()
    with locked(settings):
        stops = (("PostgreSQL", postgres.stop), (gcs.NAME, gcs.stop), (bigquery.NAME, bigquery.stop))
        stopped = [name for name, stop in stops if stop(settings)]
        source = read_services(settings.home).get("source")
        if source and sources.is_running(source):
            sources.stop(source)
            stopped.append("the offline source")
        write_service(settings, "source", None)
    *others, last = stopped or ["nothing"]
    click.echo(f"stopped {', '.join(others)}{' and ' if others else ''}{last}" if stopped else "nothing was running")


@click.command(epilog="\b\nExamples:\n  ./cantrip status\n  psql $(./cantrip status --json | jq -r .postgres.url)")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with the connection URLs.")
def status(as_json: bool) -> None:
    """Show the local services, whether they run, and where."""
    document = _status(load_settings())
    if as_json:
        screen.print_json(document)
    else:
        _print_status(document)


@click.command(epilog="\b\nExample:\n  ./cantrip ui --port 6790")
@click.option("--port", type=click.IntRange(1, 65535), default=6789, show_default=True, help="The port on 127.0.0.1.")
def ui(port: int) -> None:
    """Open Mage's notebook UI on 127.0.0.1, with its scheduler. Ctrl-C ends it."""
    settings = load_settings()
    if settings.postgres is None:
        start_services(settings, with_source=False)
        settings = load_settings()
    if not port_is_free(port):
        raise ConfigurationError(f"port {port} of 127.0.0.1 is in use. Choose another: ./cantrip ui --port {port + 1}.")
    export_environment(settings)
    if settings.mage_database_url:
        ensure_database(settings.mage_database_url)
    click.echo(f"Mage's notebook UI: http://127.0.0.1:{port} (ready in about 15 s; Ctrl-C ends it)", err=True)
    mage = str(Path(sys.executable).with_name("mage"))
    _run_until_interrupted([mage, "start", str(PROJECT), "--host", "127.0.0.1", "--port", str(port)])


def _run_until_interrupted(command: list[str]) -> None:
    """Run a server in a process group of its own, and end the whole group with it.

    Mage's scheduler and its managers are processes that neither a Ctrl-C nor a SIGTERM to the server ends.
    """
    server = subprocess.Popen(command, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        server.wait()
    except KeyboardInterrupt:
        click.echo("ending the notebook UI …", err=True)
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(server.pid, number)
                time.sleep(1)
        server.wait()


def start_services(settings: Settings, *, with_source: bool, source_rows: int = SOURCE_ROWS) -> None:
    """Start what is asked for, and make databases and bucket; idempotent, one process at a time."""
    with locked(settings):
        if settings.postgres_is_embedded:
            postgres.start(settings)
        if with_source:
            _start_source(settings, source_rows)
    settings = load_settings()
    engine_for(settings.require_postgres()).dispose()
    if settings.mage_database_url:
        ensure_database(settings.mage_database_url)
    if settings.profile == "local":
        with locked(settings):
            google.reserve(settings)
            _start_google(load_settings())
        gcs.ensure_bucket(load_settings().require_google())


def _start_google(settings: Settings) -> None:
    own_storage, own_bigquery = (google.is_embedded(settings, key) for key in (google.GCS, google.BIGQUERY))
    if own_storage:
        gcs.start(settings)
    if own_bigquery:
        bigquery.start(settings)
        if not own_storage:
            logger.warning("the local BigQuery reads gs:// from %s only", gcs.root_folder(settings))


def _start_source(settings: Settings, rows: int) -> dict[str, Any]:
    known = read_services(settings.home).get("source")
    if known and sources.is_running(known) and known.get("rows") == rows:
        return known
    if known:
        sources.stop(known)
    facts = sources.start(settings.home / "source", rows, 0, settings.home, port=(known or {}).get("port"))
    write_service(settings, "source", facts)
    return facts


def _status(settings: Settings) -> dict[str, Any]:
    """Give the services as `--json` shows them."""
    document: dict[str, Any] = {"profile": settings.profile}
    server = settings.postgres
    if server:
        running = postgres.is_running(settings) if settings.postgres_is_embedded else True
        document["postgres"] = {
            "url": server.url(),
            "running": running,
            "embedded": settings.postgres_is_embedded,
            "schema": server.schema,
        }
        document["mage"] = {"database": settings.mage_database_url}
    else:
        document["postgres"] = {"url": None, "running": False, "embedded": True, "schema": None}
        document["mage"] = {"database": None}
    document["gcs"] = _google_status(settings, google.GCS)
    document["bigquery"] = _google_status(settings, google.BIGQUERY)
    source = read_services(settings.home).get("source")
    if source:
        document["source"] = {
            "base_url": source["base_url"],
            "zones_url": source["zones_url"],
            "running": sources.is_running(source),
        }
    return document


def _google_status(settings: Settings, key: str) -> dict[str, Any]:
    used, embedded = settings.google, google.is_embedded(settings, key)
    server = {google.GCS: gcs, google.BIGQUERY: bigquery}[key]
    if key == google.GCS:
        root = str(gcs.root_folder(settings)) if embedded else None
        what = {"endpoint": used and used.storage_endpoint, "bucket": used and used.bucket, "root": root}
    else:
        what = {"endpoint": used and used.bigquery_endpoint, "project": used and used.project}
    running = server.is_running(settings) if embedded else used is not None
    return {**what, "running": running, "embedded": embedded}


def _print_status(document: dict[str, Any]) -> None:
    shown = document["postgres"]
    rows = [
        [
            "postgres",
            ("running" if shown["running"] else "stopped") if shown["embedded"] else "yours (POSTGRES_HOST)",
            _without_password(shown["url"]) or "./cantrip up starts it",
        ]
    ]
    for key, variable, what in ((google.GCS, "STORAGE", "bucket"), (google.BIGQUERY, "BIGQUERY", "project")):
        rows.append([key, *_google_row(document[key], f"{variable}_EMULATOR_HOST", what)])
    if document.get("source"):
        state = "running" if document["source"]["running"] else "stopped"
        rows.append(["source (offline)", state, document["source"]["base_url"]])
    screen.print_table("", ["service", "state", "where"], rows)


def _google_row(shown: dict[str, Any], variable: str, what: str) -> tuple[str, str]:
    """Give state and place, for people."""
    if shown[what] is None:
        return ("stopped", "./cantrip up starts it") if shown["embedded"] else ("unset", "GCP_PROJECT and GCS_BUCKET")
    where = f"{what} {shown[what]}"
    if shown["endpoint"] is None:
        return "Google's own", where
    state = ("running" if shown["running"] else "stopped") if shown["embedded"] else f"yours ({variable})"
    return state, f"{shown['endpoint']}, {where}"


def _without_password(url: str | None) -> str | None:
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    credentials, _, address = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}@{address}"
