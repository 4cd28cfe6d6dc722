"""What the local servers for Cloud Storage and BigQuery share: an environment, ports, and when they are used.

They are used in the profile `local` only, each unless the environment names a server of the user's own.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from mage_project.lib.errors import CantripError
from mage_project.lib.local import processes
from mage_project.lib.local.state import free_port, keep_port, write_service
from mage_project.lib.settings import ROOT, Settings, read_services

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
GCS, BIGQUERY = "gcs", "bigquery"
# at the project's root and not in CANTRIP_HOME: all homes share its 700 MB
ENVIRONMENT = ROOT / ".cantrip" / "environments" / "google"
# what a server finds of the caller's environment: nothing that would configure it behind our back
SURROUNDINGS = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def reserve(settings: Settings) -> None:
    """Write an address for each server that has none. Settings that are read afterwards know both.

    That comes before the first start, because settings without any address can't tell whose server is meant.
    """
    known = read_services(settings.home)
    for key in (GCS, BIGQUERY):
        if settings.profile == "local" and key not in known:
            port = free_port()
            write_service(settings, key, {"endpoint": _endpoint(port), "port": port})


def is_embedded(settings: Settings, key: str) -> bool:
    """Whether the server of this project is the one that is used: not Google's own, nor the user's."""
    google = settings.google
    if settings.profile != "local" or google is None:
        return settings.profile == "local"
    used = google.storage_endpoint if key == GCS else google.bigquery_endpoint
    return used == read_services(settings.home).get(key, {}).get("endpoint")


def provide_environment() -> Path:
    """Give the folder of the servers' Python environment; it is made when it isn't there or out of date.

    Raises CantripError with the reason when it can't be made.
    """
    command = [sys.executable, str(ROOT / "cantrip"), "environment", "google"]
    said = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as script:
        for line in script.stderr or ():
            said.append(line.strip().removeprefix("error: "))
            if line.startswith("cantrip: "):
                logger.warning(line.strip())
    if script.returncode != 0:
        raise CantripError(
            f"the environment for the Cloud Storage and BigQuery servers can't be made: {' '.join(said)} Mend that, "
            "or set STORAGE_EMULATOR_HOST and BIGQUERY_EMULATOR_HOST to servers of yours, and run `./cantrip up` again."
        )
    return ENVIRONMENT


def choose_ports(settings: Settings, key: str, name: str) -> dict[str, Any]:
    """Give the facts known of a server, with its port of last time or another one when that is taken."""
    facts = read_services(settings.home).get(key, {})
    port = keep_port(facts.get("port"), name)
    return {**facts, "endpoint": _endpoint(port), "port": port}


def launch(
    settings: Settings,
    key: str,
    name: str,
    facts: dict[str, Any],
    command: Sequence[str],
    environment: Mapping[str, str],
    health: str,
) -> dict[str, Any]:
    """Start the server of these facts, wait until the route `health` answers, and give the facts with its `pid`."""
    facts = {**facts, "pid": None}
    write_service(settings, key, facts)  # before the start: settings must never lead to the port of last time
    url = f"{facts['endpoint']}{health}"
    facts["pid"] = processes.launch(name, command, environment, Path(facts["log"]), lambda _: _answers(url))
    write_service(settings, key, facts)
    return facts


def _endpoint(port: int) -> str:
    return f"http://{HOST}:{port}"


def _answers(url: str) -> bool:
    try:
        with loopback() as session:
            return session.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def loopback() -> requests.Session:
    """Give a session that asks no proxy, whatever the environment says."""
    session = requests.Session()
    session.trust_env = False
    return session
