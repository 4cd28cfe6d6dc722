"""Counting again: each place by its own means, and a difference is said with where, found and expected."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.manifest import Manifest
from mage_project.lib.runs import verify
from mage_project.lib.settings import GoogleSettings, PostgresSettings, Settings
from tests.unit.test_manifest import MANIFEST

SLICE = "green/2021-01"
TABLE = {"sink": "postgres", "where": "db:5432/x/ny_taxi.green_cab_data", "slice": SLICE, "rows": 701}
OBJECT = {
    "sink": "gcs",
    "where": "gs://trips/ny_taxi_data/green_2021-01.parquet",
    "slice": SLICE,
    "rows": 701,
    "bytes": 9_000,
    "content": "zVKPEg==",
}
FILES = {"sink": "gcs", "where": MANIFEST.where, "slice": SLICE, "rows": 701}
WAREHOUSE = {"sink": "bigquery", "where": "acme.ny_taxi_dev.green_cab_data", "slice": SLICE, "rows": 701}
ALL = [TABLE, OBJECT, FILES, WAREHOUSE]


class World:
    """What the places hold when they are counted, and what was asked of them."""

    def __init__(self) -> None:
        self.rows: dict[str, int | None] = {"postgres": 701, "bigquery": 701}
        self.stored: tuple[int, str] | None = (9_000, "zVKPEg==")
        self.manifest: Manifest | None = MANIFEST
        self.broken: list[str] = []
        self.asked: list[tuple[Any, ...]] = []

    def count(self, place: str) -> Callable[..., int | None]:
        def counted(*where: Any) -> int | None:
            self.asked.append((place, *where[1:]))
            return self.rows[place]

        return counted

    def stored_object(self, google: GoogleSettings, path: str) -> tuple[int, str] | None:
        self.asked.append(("object", path))
        return self.stored

    def manifest_at(self, google: GoogleSettings, path: str, slice: str) -> Manifest | None:
        self.asked.append(("manifest", path))
        return self.manifest


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(verify, "_count_in_postgres", world.count("postgres"))
    monkeypatch.setattr(verify, "stored_object", world.stored_object)
    monkeypatch.setattr(verify, "manifest_at", world.manifest_at)
    monkeypatch.setattr(verify, "broken_files", lambda google, manifest: world.broken)

    class Table:
        def __init__(self, google: GoogleSettings, dataset: str, table: str) -> None:
            self.name = (google.project, dataset, table)

        def count(self, slice: str) -> int | None:
            return world.count("bigquery")(self, *self.name, slice)

    monkeypatch.setattr(verify, "BigQueryTable", Table)
    return world


@pytest.fixture
def known(settings: Settings) -> Settings:
    server = PostgresSettings("db", 5432, "x", "u", "p")
    return replace(settings, postgres=server, google=GoogleSettings("acme", "trips"))


def differences(settings: Settings, *receipts: dict[str, Any]) -> dict[tuple[str, str], str]:
    return verify.differences(settings, [{"slice": receipt["slice"], "receipt": receipt} for receipt in receipts])


def test_what_is_as_the_ledger_says_is_no_difference(world: World, known: Settings) -> None:
    assert differences(known, *ALL) == {}
    assert world.asked == [
        ("postgres", "ny_taxi", "green_cab_data", SLICE),
        ("object", "ny_taxi_data/green_2021-01.parquet"),
        ("manifest", "nyc/green/_manifests/2021-01.json"),
        ("bigquery", "acme", "ny_taxi_dev", "green_cab_data", SLICE),
    ]


@pytest.mark.parametrize(
    ("place", "receipt", "named"),
    [
        ("postgres", TABLE, "ny_taxi.green_cab_data"),
        ("bigquery", WAREHOUSE, "ny_taxi_dev.green_cab_data"),
    ],
)
def test_other_rows_and_a_place_that_is_gone_are_said(
    place: str, receipt: dict[str, Any], named: str, world: World, known: Settings
) -> None:
    world.rows[place] = 1_700
    assert differences(known, *ALL) == {(SLICE, receipt["where"]): f"1,700 rows in {named}, 701 in the ledger"}
    world.rows[place] = 0
    assert differences(known, *ALL) == {(SLICE, receipt["where"]): f"0 rows in {named}, 701 in the ledger"}
    world.rows[place] = None
    assert differences(known, *ALL) == {(SLICE, receipt["where"]): f"{named} is gone"}


@pytest.mark.parametrize("stored", [(8_999, "zVKPEg=="), (9_000, "another=")], ids=["its size", "its checksum"])
def test_an_object_that_was_altered_or_is_gone_is_said(stored: tuple[int, str], world: World, known: Settings) -> None:
    where = OBJECT["where"]
    world.stored = stored
    assert differences(known, OBJECT) == {(SLICE, where): f"{where} was altered: it is not the 9,000 bytes written"}
    world.stored = None
    assert differences(known, OBJECT) == {(SLICE, where): f"{where} is gone"}


def test_a_manifest_that_is_gone_or_of_other_rows_is_said(world: World, known: Settings) -> None:
    world.manifest = replace(MANIFEST, rows=700)
    assert differences(known, FILES) == {(SLICE, MANIFEST.where): f"700 rows in {MANIFEST.where}, 701 in the ledger"}
    world.manifest = None
    assert differences(known, FILES) == {(SLICE, MANIFEST.where): f"{MANIFEST.where} is gone"}


def test_a_file_that_is_gone_or_altered_is_said_even_when_the_count_is_right(world: World, known: Settings) -> None:
    world.broken = ["nyc/green/a.parquet is missing", "nyc/green/b.parquet was altered"]
    assert differences(known, FILES) == {(SLICE, MANIFEST.where): "nyc/green/a.parquet is missing"}


def test_places_of_one_slice_are_told_apart(world: World, known: Settings) -> None:
    world.rows |= {"postgres": 1, "bigquery": 2}
    assert set(differences(known, *ALL)) == {(SLICE, TABLE["where"]), (SLICE, WAREHOUSE["where"])}


def test_without_its_server_a_place_can_not_be_counted(world: World, settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="cantrip up"):
        differences(settings, WAREHOUSE)


def test_an_entry_of_a_sink_that_this_version_does_not_know_is_left_alone(world: World, known: Settings) -> None:
    assert differences(known, {**TABLE, "sink": "snowflake"}) == {}
    assert world.asked == []
