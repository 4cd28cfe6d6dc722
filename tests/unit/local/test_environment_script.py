"""`./cantrip environment google`: once for a lock, one process at a time, and never half."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mage_project.lib.settings import ROOT

UV = """#!/bin/sh
echo "$UV_PROJECT_ENVIRONMENT $*" >> "$CALLS"
sleep 0.3
[ -z "$UV_FAILS" ] || exit 1
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
printf '#!/bin/sh\\necho "$HOME" >> "$CALLS.python"\\n' > "$UV_PROJECT_ENVIRONMENT/bin/python"
chmod +x "$UV_PROJECT_ENVIRONMENT/bin/python"
"""


class Copy:
    """The script in a project of its own, with a uv that only notes that it was called."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, root / "calls"
        shutil.copytree(ROOT / "services", root / "services")
        shutil.copy(ROOT / "cantrip", root / "cantrip")
        (root / "bin").mkdir()
        (root / "bin" / "uv").write_text(UV)
        (root / "bin" / "uv").chmod(0o755)
        self.environment = root / ".cantrip" / "environments" / "google"

    def begin(self, **variables: str) -> subprocess.Popen[str]:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "CALLS": str(self.calls), **variables}
        command = [sys.executable, str(self.root / "cantrip"), "environment", "google"]
        return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)

    def run(self, **variables: str) -> tuple[int, str]:
        with self.begin(**variables) as process:
            _, said = process.communicate(timeout=60)
        return process.returncode, said

    def times_made(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_it_is_made_once_and_says_so_the_first_time(copy: Copy) -> None:
    code, said = copy.run()
    assert code == 0
    assert "making the Google servers' environment" in said
    assert copy.run() == (0, "")
    assert copy.calls.read_text().startswith(f"{copy.environment} sync --frozen")
    assert copy.times_made() == 1


def test_two_at_once_make_it_once(copy: Copy) -> None:
    both = [copy.begin() for _ in range(2)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert copy.times_made() == 1
    assert sorted(map(bool, said)) == [False, True]


def test_another_lock_makes_it_anew(copy: Copy) -> None:
    copy.run()
    with (copy.root / "services" / "google" / "uv.lock").open("a") as lock:
        lock.write("# changed\n")
    assert copy.run()[0] == 0
    assert copy.times_made() == 2


def test_what_failed_is_tried_again(copy: Copy) -> None:
    code, said = copy.run(UV_FAILS="1")
    assert code == 2
    assert said.splitlines()[-1].startswith("error: uv could not make the environment")
    assert copy.run()[0] == 0
    assert copy.times_made() == 2


def test_the_extension_goes_into_a_home_of_its_own(copy: Copy) -> None:
    copy.run(HOME="/nowhere")
    assert Path(f"{copy.calls}.python").read_text().split() == [str(copy.environment / "home")]
