"""The local server for BigQuery: bqemulator over DuckDB, in the folder `bigquery` of CANTRIP_HOME.

It takes any project. `gs://` addresses lead into the local Cloud Storage server's folder. After a kill
DuckDB has what was committed; a WRITE_TRUNCATE that was cut off leaves an empty table, though, where
Google's own leaves the old rows.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil

from mage_project.lib.local import gcs, google, processes
from mage_project.lib.local.state import keep_port
from mage_project.lib.settings import Settings, read_services

NAME = "BigQuery"
HEALTH = "/readyz"


def start(settings: Settings) -> dict[str, Any]:
    """Start the server unless it runs, and give its facts (endpoint, port, grpc_port, pid, project, data, log)."""
    facts = read_services(settings.home).get(google.BIGQUERY, {})
    if running := _process(settings):
        if running.pid == facts.get("pid"):
            return facts
        processes.stop(running)  # whoever started it was killed before noting it
    environment = google.provide_environment()
    uploads = _folder(settings) / "uploads"
    shutil.rmtree(uploads, ignore_errors=True)  # a kill leaves the file of a load there
    facts = google.choose_ports(settings, google.BIGQUERY, NAME) | {
        "grpc_port": keep_port(facts.get("grpc_port"), f"{NAME}'s gRPC"),
        "project": settings.require_google().project,
        "data": str(_folder(settings) / "data"),
        "log": str(settings.home.resolve() / "logs" / "bigquery.log"),
    }
    command = [str(environment / "bin" / "python"), "-m", "bqemulator", "start", "--rest-host", google.HOST]
    command += ["--rest-port", str(facts["port"]), "--grpc-port", str(facts["grpc_port"])]
    command += ["--project", facts["project"], "--persistent", *_identity(settings)]
    command += ["--log-format", "console", "--log-level", "warning"]
    surroundings = {
        **google.SURROUNDINGS,
        "HOME": str(environment / "home"),  # where DuckDB finds its extension
        "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false",  # Avro's would be downloaded
        "BQEMU_GCS_LOCAL_ROOT": str(gcs.root_folder(settings)),
        "BQEMU_UPLOAD_STAGING_DIR": str(uploads),  # its default is one folder in /tmp for all users
    }
    return google.launch(settings, google.BIGQUERY, NAME, facts, command, surroundings, HEALTH)


def stop(settings: Settings) -> bool:
    """Stop the server if it runs; say whether it did. Its tables stay."""
    if running := _process(settings):
        processes.stop(running)
    return running is not None


def is_running(settings: Settings) -> bool:
    """Whether the server of this home runs."""
    return _process(settings) is not None


def _process(settings: Settings) -> psutil.Process | None:
    return processes.find(_identity(settings))


def _identity(settings: Settings) -> tuple[str, str]:
    """What its command line holds and no other's does."""
    return "--data-dir", str(_folder(settings) / "data")


def _folder(settings: Settings) -> Path:
    return settings.home.resolve() / "bigquery"
