"""What tests share: an embedded PostgreSQL, a publisher on loopback, and a home for the command line.

All of it is made on first use, so a unit test pays for none of it.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from mage_project.lib.local import trips
from mage_project.lib.settings import PostgresSettings
from tests.support.faulty_server import Server, serve
from tests.support.warehouse import Home, execute, running_home

GREEN_ROWS, YELLOW_ROWS = 2000, 3000
_WRITERS = {"parquet": trips.write_parquet, "csv.gz": trips.write_csv_gz, "csv": trips.write_csv}


@pytest.fixture(scope="session")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small generated months: January in every format, February and March of green as Parquet."""
    folder = tmp_path_factory.mktemp("months")
    for color, rows in (("green", GREEN_ROWS), ("yellow", YELLOW_ROWS)):
        for format, write in _WRITERS.items():
            write(trips.generate_trips(color, "2021-01", rows), folder / f"{color}_tripdata_2021-01.{format}")
    for month in ("2021-02", "2021-03"):
        trips.write_parquet(
            trips.generate_trips("green", month, GREEN_ROWS), folder / f"green_tripdata_{month}.parquet"
        )
    trips.write_zones(folder / "taxi_zone_lookup.csv")
    return folder


@pytest.fixture(scope="session")
def publisher(months: Path) -> Iterator[Server]:
    """The months over HTTP; `requests` says what was asked for."""
    with serve(months) as server:
        yield server


@pytest.fixture(scope="session")
def home(publisher: Server) -> Iterator[Home]:
    """A home with PostgreSQL running in it, and the publisher as its source."""
    zones = f"{publisher.url}/taxi_zone_lookup.csv"
    with running_home(TAXI_BASE_URL=publisher.url, TAXI_ZONES_URL=zones, HTTP_ATTEMPTS="2") as home:
        yield home


@pytest.fixture(scope="session")
def warehouse(home: Home) -> PostgresSettings:
    """The address of that PostgreSQL."""
    return home.server


@pytest.fixture
def schema(warehouse: PostgresSettings) -> Iterator[str]:
    """A schema of the test's own, dropped after it."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    yield name
    execute(warehouse, f"DROP SCHEMA IF EXISTS {name} CASCADE")
