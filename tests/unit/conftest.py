"""A unit test sees no server, no `.env` and no home but its own, and leaves the environment as it was."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import hypothesis
import pytest
from dotenv import dotenv_values

from mage_project.lib.settings import ROOT, Settings, load_settings
from tests.support.warehouse import OURS

# how long an example takes is the machine's matter
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The process's environment without our variables and with a home of the test's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    hidden = dict.fromkeys(dotenv_values(ROOT / ".env"), "")  # an empty value counts as unset
    with patch.dict(os.environ, {**kept, **hidden, "CANTRIP_HOME": str(tmp_path / "home")}, clear=True):
        yield os.environ


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty home, without any server."""
    return load_settings({"CANTRIP_HOME": str(tmp_path / "home"), "HTTP_ATTEMPTS": "3"}, root=tmp_path)
