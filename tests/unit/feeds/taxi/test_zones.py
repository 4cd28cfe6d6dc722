"""The zones arrive as the publisher wrote them: the text "N/A" is no null."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mage_project.lib.errors import DataError, NotPublishedError
from mage_project.lib.feeds.taxi.zones import ZONES, load_zones
from mage_project.lib.local.trips import write_zones
from mage_project.lib.settings import Settings, TaxiSettings
from tests.support.faulty_server import Server, serve


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "published").mkdir()
    write_zones(tmp_path / "published" / "zones.csv")
    with serve(tmp_path / "published") as server:
        yield server


@pytest.fixture
def settings(settings: Settings, publisher: Server) -> Settings:
    return replace(settings, taxi=TaxiSettings(zones_url=f"{publisher.url}/zones.csv"))


def test_there_are_265_zones_in_the_declared_schema(settings: Settings, tmp_path: Path) -> None:
    zones = load_zones(settings, tmp_path / "zones.arrow")
    assert (zones.rows, zones.fetched, zones.slice, zones.schema) == (265, 265, "taxi_zones", ZONES)
    assert [row for batch in zones.batches() for row in batch["LocationID"].to_pylist()] == list(range(1, 266))


def test_not_available_stays_text(settings: Settings, tmp_path: Path) -> None:
    rows = [row for batch in load_zones(settings, tmp_path / "z.arrow").batches() for row in batch.to_pylist()]
    assert rows[-1] == {"LocationID": 265, "Borough": "Unknown", "Zone": "NA", "service_zone": "N/A"}
    assert not [row for row in rows if None in row.values()]


def test_a_column_that_nobody_declared_is_left_out(settings: Settings, publisher: Server, tmp_path: Path) -> None:
    path = publisher.folder / "zones.csv"
    path.write_text("".join(f"{line},x\n" for line in path.read_text().splitlines()))
    assert load_zones(settings, tmp_path / "z.arrow").schema == ZONES


def test_a_missing_column_is_named(settings: Settings, publisher: Server, tmp_path: Path) -> None:
    path = publisher.folder / "zones.csv"
    path.write_text(path.read_text().replace('"Borough"', '"Boro"', 1))
    with pytest.raises(
        DataError, match=r"no column 'Borough' in .*zones\.csv; found LocationID, Boro,.*TAXI_ZONES_URL"
    ):
        load_zones(settings, tmp_path / "z.arrow")


def test_a_number_that_is_none_is_named_with_its_row(settings: Settings, publisher: Server, tmp_path: Path) -> None:
    path = publisher.folder / "zones.csv"
    path.write_text(path.read_text().replace("\n42,", "\nforty-two,", 1))
    with pytest.raises(DataError, match=r"row 42 of zones.csv holds 'forty-two' in column 'LocationID'"):
        load_zones(settings, tmp_path / "z.arrow")


def test_a_list_that_is_not_there_is_not_published(settings: Settings, publisher: Server, tmp_path: Path) -> None:
    (publisher.folder / "zones.csv").unlink()
    with pytest.raises(NotPublishedError, match="taxi zones: not published"):
        load_zones(settings, tmp_path / "z.arrow")
