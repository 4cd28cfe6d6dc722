"""The BigQuery sink against a real server: what a slice holds after loads and re-runs, and what is refused."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import DataError, ReconciliationError, SinkError
from mage_project.lib.manifest import Manifest
from mage_project.lib.sinks.bigquery import STAGING_HOURS, BigQueryTable
from mage_project.lib.sinks.bigquery_tables import job_name
from mage_project.lib.sinks.gcs import GcsPartitions
from mage_project.lib.sinks.google_clients import bigquery_client
from tests.support.google import (
    Rows,
    alter_manifest,
    manifest_of,
    rows_in_bigquery,
    rows_of_dataset,
    tables_in,
    trips_of,
)
from tests.support.google_proxy import Proxy
from tests.support.warehouse import dataset_of

JANUARY, FEBRUARY, MARCH = "green/2021-01", "green/2021-02", "green/2021-03"
DAYS = {"2021-01-01": 40, "2021-01-02": 30, "2021-01-31": 20}

Land = Callable[[Dataset], Manifest]


def held(table: BigQueryTable, slice: str) -> Rows:
    return rows_in_bigquery(table.google, f"{table.dataset}.{table.table}", slice)


def ask(table: BigQueryTable, sql: str) -> list[tuple]:
    rows = bigquery_client(table.google).query_and_wait(sql.format(table=f"`{table.where}`"))
    return [tuple(row.values()) for row in rows]


def tables(table: BigQueryTable) -> list[str]:
    return tables_in(table.google, table.dataset)


# what a slice holds


def test_a_first_load_makes_the_table_partitioned_by_day_and_clustered(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    receipt = table.replace(land(trips))
    made = bigquery_client(table.google).get_table(table.where)
    assert (made.time_partitioning.field, made.time_partitioning.type_) == ("pickup_date", "DAY")
    assert made.clustering_fields == ["n"]
    assert {field.name: field.field_type for field in made.schema} == {
        "n": "INT64",
        "pickup": "DATETIME",
        "pickup_date": "DATE",
        "_slice": "STRING",
    }
    assert held(table, JANUARY) == rows_of_dataset(trips)
    assert (receipt.sink, receipt.where, receipt.slice, receipt.rows) == ("bigquery", table.where, JANUARY, 90)
    assert table.count(JANUARY) == 90
    assert tables(table) == ["trips"]


def test_each_row_is_in_the_partition_of_its_pickups_day_and_unknown_ones_in_none(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    land_and_load = land(trips.map_pandas(lambda frame: frame.assign(pickup=frame.pickup.where(frame.n % 10 > 0))))
    table.replace(land_and_load)
    days = dict(ask(table, "SELECT pickup_date, COUNT(*) FROM {table} GROUP BY 1"))
    assert days == {date(2021, 1, 1): 36, date(2021, 1, 2): 27, date(2021, 1, 31): 18, None: 9}
    assert ask(table, "SELECT COUNT(*) FROM {table} WHERE pickup_date <> DATE(pickup)") == [(0,)]


@pytest.mark.parametrize("order", [(JANUARY, FEBRUARY, MARCH), (MARCH, JANUARY, FEBRUARY)])
def test_slices_come_in_any_order_and_twice(
    table: BigQueryTable, parts: GcsPartitions, land: Land, order: tuple[str, ...]
) -> None:
    months = {
        slice: trips_of(parts.scratch, slice, {f"2021-{month:02}-03": 10 * month, f"2021-{month + 1:02}-01": 1})
        for month, slice in enumerate((JANUARY, FEBRUARY, MARCH), start=1)
    }
    for slice in (*order, *reversed(order)):
        table.replace(land(months[slice]))
    assert {slice: held(table, slice) for slice in months} == {
        slice: rows_of_dataset(trips) for slice, trips in months.items()
    }
    assert table.count(JANUARY) == 11
    assert ask(table, "SELECT COUNT(*) FROM {table}") == [(63,)]
    assert tables(table) == ["trips"]


def test_a_slice_that_shrinks_keeps_nothing_of_what_it_was(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS)))
    shrunk = trips_of(parts.scratch, JANUARY, {"2021-01-02": 5}, first=500)
    table.replace(land(shrunk))
    assert held(table, JANUARY) == rows_of_dataset(shrunk)
    assert ask(table, "SELECT DISTINCT pickup_date FROM {table}") == [(date(2021, 1, 2),)]


def test_a_slice_whose_name_needs_quoting_is_replaced_like_any_other(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    odd = """o'neil/2021-01 "x" \\ `y`"""
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS)))
    for rows in (5, 3):
        table.replace(land(trips_of(parts.scratch, odd, {"2021-01-02": rows})))
    assert table.count(odd) == 3
    assert table.count(JANUARY) == 90


def test_a_slice_without_rows_is_emptied(table: BigQueryTable, parts: GcsPartitions, land: Land) -> None:
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS)))
    table.replace(land(trips_of(parts.scratch, JANUARY, {})))
    assert table.count(JANUARY) == 0
    assert tables(table) == ["trips"]


# columns and types


def spaced(parts: GcsPartitions, slice: str = JANUARY) -> Dataset:
    return dataset_of(
        parts.scratch,
        slice,
        {
            "Vendor ID": pa.array([1, 2], pa.int64()),
            "pickup": pa.array([datetime(2021, 1, 3), datetime(2021, 1, 4)], pa.timestamp("us")),
            "Trip  Distance Miles": pa.array([0.5, None], pa.float64()),
            "PULocationID": pa.array([7, 9], pa.int32()),
        },
    )


def test_columns_with_spaces_and_capitals_get_their_standard_names(
    table: BigQueryTable, land: Land, parts: GcsPartitions
) -> None:
    standardized = land(spaced(parts)).standardized()
    table.replace(standardized)
    table.replace(standardized)
    assert [field.name for field in bigquery_client(table.google).get_table(table.where).schema] == [
        *("vendor_id", "pickup", "trip_distance_miles", "pulocationid", "pickup_date", "_slice"),
    ]
    found = ask(table, "SELECT vendor_id, trip_distance_miles, pulocationid, pickup_date FROM {table} ORDER BY 1")
    assert found == [(1, 0.5, 7, date(2021, 1, 3)), (2, None, 9, date(2021, 1, 4))]
    assert standardized.notices == (
        "renamed: 'Vendor ID' to vendor_id, 'Trip  Distance Miles' to trip_distance_miles, "
        "'PULocationID' to pulocationid",
    )


def test_a_new_column_is_null_for_earlier_slices_and_may_be_missing_again(
    table: BigQueryTable, parts: GcsPartitions, land: Land, caplog: pytest.LogCaptureFixture
) -> None:
    table.replace(land(trips_of(parts.scratch, JANUARY, {"2021-01-01": 2})))
    table.replace(land(trips_of(parts.scratch, FEBRUARY, {"2021-02-01": 2}, fee=0.75)))
    table.replace(land(trips_of(parts.scratch, MARCH, {"2021-03-01": 2})))
    table.replace(land(trips_of(parts.scratch, JANUARY, {"2021-01-01": 2})))
    found = ask(table, "SELECT _slice, fee, COUNT(*) FROM {table} GROUP BY 1, 2 ORDER BY 1")
    assert found == [(JANUARY, None, 2), (FEBRUARY, 0.75, 2), (MARCH, None, 2)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{table.where}: new column fee added, null for earlier slices"
    ]


@pytest.mark.parametrize(("value", "type"), [(2, "INT64"), ("2", "STRING"), (True, "BOOL")])
def test_a_column_of_another_type_is_refused_and_the_table_is_as_before(
    table: BigQueryTable, parts: GcsPartitions, land: Land, value: object, type: str
) -> None:
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS, fee=0.75)))
    before = held(table, JANUARY)
    for slice in (JANUARY, FEBRUARY):
        # beside it a new column: nothing may be added for a load that is refused
        other = land(trips_of(parts.scratch, slice, {"2021-01-05": 3}, fee=value, more=1))
        with pytest.raises(SinkError, match=f"column 'fee' is FLOAT64 in the table, and {type} in the data") as refused:
            table.replace(other)
        assert "Nothing was loaded" in str(refused.value)
    assert held(table, JANUARY) == before
    assert table.count(FEBRUARY) == 0
    assert tables(table) == ["trips"]


def test_a_type_that_bigquery_does_not_have_is_refused_by_name(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    odd = dataset_of(
        parts.scratch,
        JANUARY,
        {
            "pickup": pa.array([datetime(2021, 1, 3)], pa.timestamp("us")),
            "waited": pa.array([timedelta(seconds=5)], pa.duration("us")),
        },
    )
    with pytest.raises(DataError, match=r"column 'waited' has the Arrow type duration\[us\]"):
        table.replace(land(odd))


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE {table} (n INT64, pickup DATETIME, pickup_date DATE, _slice STRING)",
        "CREATE TABLE {table} (n INT64, pickup DATETIME, pickup_date DATE) PARTITION BY pickup_date",
    ],
    ids=["not partitioned", "without a slice"],
)
def test_a_table_that_is_not_ours_is_refused_and_stays_as_it_is(
    table: BigQueryTable, parts: GcsPartitions, land: Land, ddl: str
) -> None:
    manifest = land(trips_of(parts.scratch, JANUARY, DAYS))
    ask(table, f"CREATE SCHEMA {table.dataset}")
    ask(table, ddl)
    ask(table, "INSERT INTO {table} (n) VALUES (7)")
    with pytest.raises(SinkError, match="exists and is not partitioned by pickup_date with a column _slice"):
        table.replace(manifest)
    assert ask(table, "SELECT n FROM {table}") == [(7,)]
    assert tables(table) == ["trips"]


# what is asked of BigQuery, and what it leaves


def test_files_that_hold_other_rows_than_their_manifest_says_change_nothing(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    table.replace(land(trips))
    alter_manifest(parts.google, land(trips_of(parts.scratch, JANUARY, {"2021-01-09": 9})), rows=10)
    with pytest.raises(ReconciliationError, match=r"lists 10 rows, but BigQuery read 9. Nothing was published"):
        table.replace(manifest_of(parts.google, parts.prefix, JANUARY))
    assert held(table, JANUARY) == rows_of_dataset(trips)
    assert tables(table) == ["trips"]


def test_staging_expires_and_jobs_are_named_by_slice_and_attempt(
    watched_table: BigQueryTable, parts: GcsPartitions, land: Land, bigquery: Proxy
) -> None:
    manifest = land(trips_of(parts.scratch, JANUARY, DAYS))
    before = datetime.now(UTC)
    attempts = []
    for _ in range(2):
        bigquery.clear()
        watched_table.replace(manifest)
        [load] = bigquery.asked("POST .*/jobs.* cantrip_load_trips_green_2021_01_[0-9a-f]{8}_[0-9a-f]{12}$")
        [commit] = bigquery.asked("POST .*/jobs.* cantrip_commit_trips_green_2021_01_[0-9a-f]{8}_[0-9a-f]{12}_1$")
        [staging] = bigquery.asked("POST .*/tables.* _staging_trips_green_2021_01_[0-9a-f]{8}_[0-9a-f]{12}$")
        attempts.append(load.what[-12:])
        assert commit.what.endswith(f"{attempts[-1]}_1")
        assert staging.what.endswith(attempts[-1])
        expires = datetime.fromtimestamp(int(json.loads(staging.body)["expirationTime"]) / 1000, UTC)
        assert timedelta(0) <= expires - before - timedelta(hours=STAGING_HOURS) < timedelta(minutes=5)
        job = json.loads(load.body)["configuration"]["load"]
        assert sorted(job["sourceUris"]) == sorted(manifest.uris)
        assert job["destinationTable"]["tableId"] == staging.what.rpartition(" ")[2]
        assert (job["sourceFormat"], job["writeDisposition"]) == ("PARQUET", "WRITE_EMPTY")
    assert attempts[0] != attempts[1]


def test_staging_tables_of_a_killed_attempt_go_and_those_of_other_slices_stay(
    table: BigQueryTable, parts: GcsPartitions, land: Land
) -> None:
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS)))
    attempt = "0123456789ab"
    left = job_name("_staging", "trips", JANUARY, attempt)
    others = [
        job_name("_staging", "trips", FEBRUARY, attempt),
        job_name("_staging", "trips", "green_2021/01", attempt),  # looks alike in a table's name
        job_name("_staging", "zones", JANUARY, attempt),
        job_name("_staging", "trips", JANUARY, "notes"),
    ]
    for name in (left, *others):
        ask(table, f"CREATE TABLE {table.dataset}.{name} (n INT64)")
    table.replace(land(trips_of(parts.scratch, JANUARY, DAYS)))
    assert tables(table) == sorted([*others, "trips"])


def test_a_table_that_is_not_there_holds_nothing(table: BigQueryTable) -> None:
    assert table.count(JANUARY) is None
    assert held(table, JANUARY) == Counter()
