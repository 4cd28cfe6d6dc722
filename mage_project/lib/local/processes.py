"""Servers in the background: each in a session of its own, so that it outlives the command that started it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mage_project.lib.errors import CantripError
from mage_project.lib.settings import ROOT

START_SECONDS, STOP_SECONDS = 60.0, 20.0
_started: dict[int, subprocess.Popen[bytes]] = {}  # our own children, to be reaped


def launch(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, is_ready: Callable[[int], bool]
) -> int:
    """Start a server and wait until `is_ready(pid)`; give its pid.

    Raises CantripError with the last line of its log when it ends or takes more than a minute.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started[process.pid] = process
    deadline = time.monotonic() + START_SECONDS
    while not is_ready(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise CantripError(
                f"{name} didn't start. Mend what its log says and run `./cantrip up` again: {log} ends with: "
                f"{_last_line(log)}"
            )
        time.sleep(0.05)
    return process.pid


def find(words: Iterable[str], pid: int | None = None) -> psutil.Process | None:
    """Give the process with all of `words` on its command line: the one of that number, or any.

    A number alone proves nothing: it may have gone to another program since.
    """
    wanted = set(words)
    for number in psutil.pids() if pid is None else [pid]:
        with suppress(psutil.Error):
            process = psutil.Process(number)
            if wanted <= set(process.cmdline()):
                return process
    return None


def stop(process: psutil.Process) -> None:
    """End a process and wait for its end; it is killed when it doesn't end by itself."""
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        if not _ends(process):
            process.kill()
            _ends(process)
    if child := _started.pop(process.pid, None):
        child.wait()


def _ends(process: psutil.Process) -> bool:
    """Wait for its end. A zombie has ended: where nobody collects orphans, as in many containers, it stays one."""
    deadline = time.monotonic() + STOP_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "nothing"
