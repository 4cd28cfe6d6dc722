"""Background processes: recognised by what they are, ended even when they don't want to."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mage_project.lib.errors import CantripError
from mage_project.lib.local import processes
from tests.support.warehouse import wait_until

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """A program that has nothing to do with us."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "--data-dir", "/other"])
    yield process
    process.kill()
    process.wait()


def run(code: str, log: Path, *words: str) -> int:
    """Start Python code that prints `ready` when it is, and give its pid."""
    ready = lambda _: log.read_text() == "ready\n"  # noqa: E731
    return processes.launch("the server", [sys.executable, "-uc", code, *words], ENVIRONMENT, log, ready)


def test_a_process_is_found_by_its_words_and_not_by_its_number_alone(other: subprocess.Popen) -> None:
    found = processes.find(("--data-dir", "/other"))
    assert found is not None and found.pid == other.pid
    assert processes.find(("--data-dir", "/other"), other.pid) == found
    assert processes.find(("--data-dir", "/ours"), other.pid) is None
    assert processes.find(("--data-dir", "/ours")) is None


def test_a_process_that_is_gone_is_not_found(other: subprocess.Popen) -> None:
    other.kill()
    wait_until(lambda: psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE, "the end of the process")
    assert processes.find(("--data-dir", "/other"), other.pid) is None, "a zombie is no running server"
    other.wait()
    assert processes.find(("--data-dir", "/other"), other.pid) is None


def test_a_server_that_ends_at_the_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with pytest.raises(CantripError, match=re.escape(f"{log} ends with: ValueError: the disk is full")) as failed:
        run("raise ValueError('the disk is full')", log)
    assert "the server didn't start. " in str(failed.value)


def test_a_server_that_never_gets_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "START_SECONDS", 0.3)
    with pytest.raises(CantripError, match="ends with: nothing"):
        run("import time; time.sleep(60)", tmp_path / "log", "never-ready")
    assert processes.find(("never-ready",)) is None


def test_a_server_that_ignores_the_request_to_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    pid = run(code, tmp_path / "log", "stubborn")
    found = processes.find(("stubborn",), pid)
    assert found is not None
    processes.stop(found)
    processes.stop(found)
    assert not psutil.pid_exists(pid)
