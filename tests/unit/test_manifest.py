"""A manifest says what lies in the bucket: it survives its own text, names its columns, and never passes for rows."""

import json
import operator
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
import pytest

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import DataError, DatasetMisuseError
from mage_project.lib.feeds.taxi.schema import SCHEMAS
from mage_project.lib.handover import received, received_manifest
from mage_project.lib.manifest import Manifest, ManifestFile
from mage_project.lib.reference import HandedOver

TYPES = [
    *(pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.date32()),
    *(pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("us", "America/New_York")),
]
FILES = (
    ManifestFile("nyc/green/pickup_date=2021-01-01/green_2021-01_0a.parquet", "2021-01-01", 700, 40_000, "yZRlqg=="),
    ManifestFile("nyc/green/pickup_date=2009-01-01/green_2021-01_0b.parquet", "2009-01-01", 1, 2_500, "AAAAAA=="),
)
MANIFEST = Manifest(
    slice="green/2021-01",
    bucket="trips",
    path="nyc/green/_manifests/2021-01.json",
    rows=701,
    files=FILES,
    schema=pa.schema([("VendorID", pa.int64()), ("lpep_pickup_datetime", pa.timestamp("us"))]),
    partition_column="pickup_date",
    prefix="nyc/green",
    source="http://tlc/green_tripdata_2021-01.parquet",
    attempt="a1",
    published_at="2021-03-01T00:00:00+00:00",
    generation=7,
)


def again(manifest: Manifest) -> Manifest:
    return Manifest.from_json(manifest.to_json(), manifest.bucket, manifest.path, manifest.generation)


def of_columns(*names: str) -> Manifest:
    return replace(MANIFEST, schema=pa.schema([(name, pa.int64()) for name in names]))


def test_its_text_gives_the_manifest_again() -> None:
    assert again(MANIFEST) == MANIFEST


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_its_text_keeps_the_type_of_a_column(type_: pa.DataType) -> None:
    manifest = replace(MANIFEST, schema=pa.schema([("x", type_)]))
    assert again(manifest).schema == manifest.schema


@pytest.mark.parametrize("color", sorted(SCHEMAS))
def test_its_text_keeps_the_declared_columns_of_a_feed(color: str) -> None:
    assert again(replace(MANIFEST, schema=SCHEMAS[color])).schema == SCHEMAS[color]


def test_its_text_keeps_names_that_are_not_plain() -> None:
    manifest = of_columns("Trip Distance", 'a"b', "größe", "\N{TAXI}", "")
    assert again(manifest).schema.names == manifest.schema.names


def test_its_text_says_what_a_reader_of_the_bucket_needs() -> None:
    document = json.loads(MANIFEST.to_json())
    assert (document["version"], document["slice"], document["rows"]) == (1, "green/2021-01", 701)
    assert document["source"] == "http://tlc/green_tripdata_2021-01.parquet"
    assert document["schema"][1] == {"name": "lpep_pickup_datetime", "type": "timestamp[us]"}
    assert document["files"][0] == {
        "path": "nyc/green/pickup_date=2021-01-01/green_2021-01_0a.parquet",
        "partition": "2021-01-01",
        "rows": 700,
        "bytes": 40_000,
        "crc32c": "yZRlqg==",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:-10], "JSONDecodeError"),
        (lambda text: "", "JSONDecodeError"),
        (lambda text: "[]", "TypeError"),
        (lambda text: "null", "TypeError"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "ValueError: version 2"),
        (lambda text: text.replace('"version": 1', '"v": 1'), "KeyError: 'version'"),
        (lambda text: text.replace('"crc32c"', '"md5"'), "TypeError: .*md5"),
        (lambda text: text.replace('"attempt"', '"try"'), "KeyError: 'attempt'"),
        (lambda text: text.replace('"int64"', '"int65"'), "ValueError: .*int65"),
    ],
)
def test_a_text_that_is_none_of_ours_is_refused_with_its_address(change: Callable[[str], str], reason: str) -> None:
    with pytest.raises(DataError, match=rf"^gs://trips/m\.json is no manifest .*\({reason}.*Run the pipeline"):
        Manifest.from_json(change(MANIFEST.to_json()), "trips", "m.json", 1)


def test_addresses_and_sizes_come_from_the_files() -> None:
    assert MANIFEST.where == "gs://trips/nyc/green/_manifests/2021-01.json"
    assert MANIFEST.uris == [f"gs://trips/{file.path}" for file in FILES]
    assert MANIFEST.size == 42_500


class TestStandardizedNames:
    def test_are_in_lower_case_with_underscores_for_spaces(self) -> None:
        standardized = of_columns("VendorID", "Trip Distance", " fare  amount\t", "tip_amount").standardized()
        assert standardized.columns == {
            "VendorID": "vendorid",
            "Trip Distance": "trip_distance",
            " fare  amount\t": "fare_amount",
            "tip_amount": "tip_amount",
        }

    def test_leave_the_files_and_their_schema_as_they_are(self) -> None:
        standardized = MANIFEST.standardized()
        assert MANIFEST.columns == {name: name for name in MANIFEST.schema.names}
        assert standardized.schema == MANIFEST.schema
        assert standardized.to_json() == MANIFEST.to_json()

    def test_are_told_in_a_notice(self) -> None:
        assert of_columns("VendorID", "tip", "Trip Distance").standardized().notices == (
            "renamed: 'VendorID' to vendorid, 'Trip Distance' to trip_distance",
        )

    def test_that_were_so_already_are_no_news(self) -> None:
        assert of_columns("vendorid", "tip").standardized() == of_columns("vendorid", "tip")

    def test_stay_when_it_is_done_twice(self) -> None:
        once = MANIFEST.standardized()
        assert once.standardized().columns == once.columns

    @pytest.mark.parametrize(
        ("one", "other"),
        [("airport_fee", "Airport_fee"), ("Airport Fee", "airport_fee"), ("a b", "a  b"), ("ID", "Id")],
    )
    def test_that_would_become_one_are_an_error_that_names_both(self, one: str, other: str) -> None:
        with pytest.raises(DataError) as caught:
            of_columns("tip", one, "fare", other).standardized()
        text = str(caught.value)
        assert text.startswith(f"green/2021-01: the columns {one!r} and {other!r} of {MANIFEST.where} would both be")
        assert "Nothing was loaded. Rename one in the feed's schema.py" in text

    @pytest.mark.parametrize("name", ["pickup_date", "Pickup Date", "PICKUP_DATE"])
    def test_that_would_be_the_partition_columns_are_an_error_that_names_both(self, name: str) -> None:
        with pytest.raises(DataError, match=rf"{name!r}.* would both be 'pickup_date'"):
            of_columns("tip", name).standardized()


class TestHandedOver:
    @pytest.fixture
    def trips(self) -> HandedOver:
        return MANIFEST.standardized().hand_over()

    @pytest.fixture
    def dataset(self, tmp_path: Any) -> Dataset:
        table = pa.table({"fare_amount": [1.5]})
        return stage(table.to_batches(), table.schema, tmp_path / "a.arrow", slice="green/2021-01", source="u")

    def test_arrives_whole_also_through_mages_store(self, trips: HandedOver) -> None:
        for arrived in (trips, pickle.loads(pickle.dumps(trips))):
            assert received_manifest(arrived) == MANIFEST.standardized()

    def test_carries_plain_facts_since_mage_reloads_our_classes(self, trips: HandedOver) -> None:
        facts = vars(trips)["_facts"]
        assert {each.name for each in fields(Manifest)} <= set(facts)
        assert all(type(file) is dict for file in facts["files"])

    def test_shows_what_lies_where(self, trips: HandedOver) -> None:
        assert trips.isoformat().startswith(
            "701 rows of green/2021-01 in 2 Parquet files, 0.0 MB\ngs://trips/nyc/green/"
        )

    @pytest.mark.parametrize(
        "use",
        [
            len,
            list,
            bool,
            lambda trips: trips["fare_amount"],
            lambda trips: trips[trips.fare_amount > 0],
            lambda trips: trips[:5],
            lambda trips: trips.head(),
            lambda trips: trips.files,
            lambda trips: trips.standardized(),
            lambda trips: operator.setitem(trips, "tax", 1),
        ],
    )
    def test_used_as_a_table_it_fails_with_the_line_to_write(
        self, use: Callable[[Any], Any], trips: HandedOver
    ) -> None:
        with pytest.raises(DatasetMisuseError) as caught:
            use(trips)
        text = str(caught.value)
        assert text.startswith("green/2021-01: this is a reference to 701 rows that lie elsewhere, not a DataFrame")
        assert "`received_manifest(trips)`" in text
        assert "`publish_to_bigquery(trips, run, …)`" in text
        assert "map_pandas" not in text  # its rows are in the bucket

    def test_opened_as_a_dataset_it_is_refused_with_the_line_to_write(self, trips: HandedOver) -> None:
        with pytest.raises(
            DatasetMisuseError, match=r"^green/2021-01: this block got a manifest.*`received_manifest\(…\)`"
        ):
            received(trips)

    def test_a_dataset_opened_as_a_manifest_is_refused(self, dataset: Dataset) -> None:
        with pytest.raises(DatasetMisuseError, match="got a dataset of staged rows, not a manifest of files"):
            received_manifest(dataset.hand_over())

    @pytest.mark.parametrize(
        ("value", "kind"),
        [(None, "a NoneType"), ({"kind": "manifest"}, "a dict"), (MANIFEST, "a Manifest"), ([MANIFEST], "a list")],
        ids=["nothing", "a dict", "a manifest that was not handed over", "a list"],
    )
    def test_anything_else_that_arrives_is_refused(self, value: object, kind: str) -> None:
        with pytest.raises(DatasetMisuseError, match=rf"this block got {kind}, not a manifest.*\.hand_over\(\)`"):
            received_manifest(value)
