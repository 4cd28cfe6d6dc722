"""The record of the local services, `.cantrip/services.json`, and the lock around changing it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.settings import Settings, read_services

logger = logging.getLogger(__name__)


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Let one process at a time start or stop services; the lock goes with its process."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        handle = (settings.home / "lock").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"{settings.home} can't be written ({error.strerror}). Set CANTRIP_HOME to a folder that you own."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_service(settings: Settings, name: str, facts: dict[str, Any] | None) -> None:
    """Write one service's facts (or forget it), readable by its owner only: they hold a password."""
    services = read_services(settings.home)
    if facts is None:
        services.pop(name, None)
    else:
        services[name] = facts
    aside = settings.services_file.with_suffix(".part")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(services, file, indent=2)
    aside.replace(settings.services_file)


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keep_port(port: int | None, name: str) -> int:
    """Give the port that a server had last time, or another one, with a notice, when that is taken."""
    if port and port_is_free(port):
        return port
    chosen = free_port()
    if port:
        logger.warning("port %s is in use by another program; %s now listens on %s", port, name, chosen)
    return chosen


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be listened on."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
