"""requirements.txt, which the image installs, says what the lock says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mage_project.lib.settings import ROOT

EXPORT = ["export", "--frozen", "--no-dev", "--no-emit-project", "--format", "requirements-txt", "--quiet"]
REQUIREMENTS = ROOT / "requirements.txt"


def without_header(text: str) -> list[str]:
    """Leave out the comment at the top, which holds the command that was typed."""
    lines = text.splitlines()
    return lines[next(number for number, line in enumerate(lines) if not line.startswith("#")) :]


def uv() -> str | None:
    own = ROOT / ".cantrip" / "uv" / "bin" / "uv"
    return shutil.which("uv") or (str(own) if own.exists() else None)


def test_requirements_are_exported_from_the_lock() -> None:
    found = uv()
    if found is None:
        pytest.skip("uv is neither on the path nor in .cantrip/uv: nothing to export the lock with")
    done = subprocess.run([found, *EXPORT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert without_header(REQUIREMENTS.read_text()) == without_header(done.stdout), (
        "requirements.txt is stale: run `make lock`"
    )


def test_every_requirement_is_pinned_and_hashed() -> None:
    blocks = re.split(r"\n(?=\S)", "\n".join(without_header(REQUIREMENTS.read_text())))
    requirements = [block for block in blocks if not block.startswith("#")]
    assert len(requirements) > 100
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_no_index_is_named_so_that_each_machine_uses_its_own() -> None:
    assert (
        re.findall(r"^\s*(?:-i|--index|--extra-index|--find-links).*|\S+://\S+", REQUIREMENTS.read_text(), re.M) == []
    )


@pytest.mark.parametrize("line", ["mage-ai", "adbc-driver-postgresql", "pyarrow", "psycopg2-binary", "stamina"])
def test_what_the_project_stands_on_is_in_it(line: str) -> None:
    assert re.search(rf"^{line}(\[.*\])?==", REQUIREMENTS.read_text(), re.MULTILINE)


def test_the_lock_is_beside_it() -> None:
    assert Path(ROOT / "uv.lock").exists()
