"""Blocks run here as Mage runs them: executed from their file, with decorators in their globals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.support.blocks import block
from tests.support.faulty_server import Server, serve


@pytest.fixture
def run_block() -> Callable[..., Any]:
    """Run a block's function and then its inline tests on what it gave, as a run does."""

    def run(path: str, *inputs: Any, **kwargs: Any) -> Any:
        found = block(path)
        output = found.functions[0](*inputs, **kwargs)
        for test in found.tests:
            test(output)
        return output

    return run


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Server]:
    """A publisher on loopback, and the settings of blocks pointing to it."""
    folder = tmp_path / "published"
    folder.mkdir()
    with serve(folder) as server:
        variables = {
            "CANTRIP_HOME": str(tmp_path / "home"),
            "CANTRIP_PROFILE": "local",
            "TAXI_BASE_URL": server.url,
            "TAXI_ZONES_URL": f"{server.url}/taxi_zone_lookup.csv",
            "TAXI_FORMAT": "parquet",
            "HTTP_ATTEMPTS": "1",
            "POSTGRES_HOST": "",
        }
        with patch.dict("os.environ", variables):
            yield server


@pytest.fixture
def run_kwargs() -> dict[str, Any]:
    """What a run of ours gives its blocks for January 2021."""
    return {"pipeline_uuid": "api_to_postgres", "block_uuid": "b", "window": "2021-01-01/2021-02-01", "color": "green"}
