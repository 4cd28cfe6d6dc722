"""The generated months have the publisher's schema, spelling and dirt, and the same seed gives the same."""

import csv
import gzip
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.local.trips import (
    SCHEMAS,
    count_quirks,
    generate_trips,
    write_csv,
    write_csv_gz,
    write_parquet,
    write_zones,
)

ROWS = 70_000  # more than one block of generation
PICKUP = {"yellow": "tpep_pickup_datetime", "green": "lpep_pickup_datetime"}
DROPOFF = {"yellow": "tpep_dropoff_datetime", "green": "lpep_dropoff_datetime"}
YELLOW_CSV_HEADER = (
    "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,"
    "store_and_fwd_flag,PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,"
    "tolls_amount,improvement_surcharge,total_amount,congestion_surcharge"
)


def trips_of(color: str, rows: int = ROWS, month: str = "2021-02", **options: int) -> pa.Table:
    return pa.Table.from_batches(generate_trips(color, month, rows, **options))


@pytest.fixture(scope="module", params=["yellow", "green"])
def color(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trips(color: str) -> pa.Table:
    return trips_of(color)


def count(mask: pa.ChunkedArray) -> int:
    return pc.sum(mask).as_py() or 0


def test_the_schema_is_the_publishers(color: str, trips: pa.Table) -> None:
    assert trips.schema.equals(SCHEMAS[color])
    assert trips.num_rows == ROWS
    assert trips.schema.field("passenger_count").type == pa.float64()
    assert trips.schema.field("airport_fee" if color == "yellow" else "ehail_fee").type == pa.null()


def test_the_same_seed_gives_the_same_trips_whatever_the_batches(color: str, trips: pa.Table) -> None:
    again = trips_of(color, batch_rows=999)
    assert max(len(batch) for batch in again.to_batches()) <= 999
    assert again.combine_chunks().equals(trips.combine_chunks())


@pytest.mark.parametrize("change", [{"seed": 1}, {"month": "2021-03"}, {"rows": ROWS + 1}])
def test_another_seed_month_or_size_gives_other_trips(color: str, trips: pa.Table, change: dict) -> None:
    other = trips_of(color, **change)
    assert not other.column("trip_distance").slice(0, 100).equals(trips.column("trip_distance").slice(0, 100))


def test_two_in_a_hundred_have_no_passengers_exactly(color: str, trips: pa.Table) -> None:
    zero = count(pc.equal(trips["passenger_count"], 0))
    assert zero == count_quirks(color, ROWS)["zero_passengers"] == 1400


def test_empty_counts_come_last_and_with_other_empty_columns(color: str, trips: pa.Table) -> None:
    empty = trips["passenger_count"].is_null()
    together = ["RatecodeID", "store_and_fwd_flag", "congestion_surcharge"]
    for name in together + (["payment_type", "trip_type"] if color == "green" else []):
        assert trips[name].is_null().equals(empty), name
    expected = {"yellow": 4900, "green": 31_500}[color]
    assert count(empty) == count_quirks(color, ROWS)["empty_passengers"] == expected
    assert count(empty.slice(ROWS - expected)) == expected
    whole = {"payment_type", "trip_type", "passenger_count", "airport_fee", "ehail_fee", *together}
    assert all(trips[name].null_count == 0 for name in set(trips.column_names) - whole)


def test_a_few_pickups_belong_to_other_days(color: str, trips: pa.Table) -> None:
    pickup = trips[PICKUP[color]]
    old = pc.less(pickup, pa.scalar(datetime(2010, 1, 1)))
    outside = pc.or_(
        pc.less(pickup, pa.scalar(datetime(2021, 2, 1))),
        pc.greater_equal(pickup, pa.scalar(datetime(2021, 3, 1))),
    )
    quirks = count_quirks(color, ROWS)
    assert count(old) == quirks["dated_2008_or_2009"] > 0
    assert count(outside) == quirks["dated_2008_or_2009"] + quirks["other_month"]
    assert set(pc.year(pickup.filter(old)).to_pylist()) <= {2008, 2009}
    assert set(pc.month(pickup.filter(pc.and_not(outside, old))).to_pylist()) == {1, 3}


def test_a_few_trips_end_before_they_begin(color: str, trips: pa.Table) -> None:
    backwards = pc.less(trips[DROPOFF[color]], trips[PICKUP[color]])
    assert count(backwards) == count_quirks(color, ROWS)["dropoff_before_pickup"] > 0


def test_refunds_are_negative_and_totals_are_the_sum_of_their_parts_in_cents(color: str, trips: pa.Table) -> None:
    parts = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "improvement_surcharge"]
    cents = [np.rint(trips[name].to_numpy() * 100) for name in parts]
    cents.append(np.rint(trips["congestion_surcharge"].fill_null(0).to_numpy() * 100))
    total = trips["total_amount"].to_numpy()
    assert (np.round(total, 2) == total).all()
    assert (sum(cents) == np.rint(total * 100)).all()
    assert int((total < 0).sum()) == count_quirks(color, ROWS)["refund"] > 0


def test_every_day_and_most_hours_have_trips_and_the_values_are_plausible(color: str, trips: pa.Table) -> None:
    pickup = trips[PICKUP[color]]
    day = pc.strftime(pickup, format="%Y-%m-%d")
    assert {f"2021-02-{number:02}" for number in range(1, 29)} <= set(day.unique().to_pylist())
    assert count(pc.equal(pc.hour(pickup), 18)) > 5 * count(pc.equal(pc.hour(pickup), 4))
    assert 2 < pc.mean(trips["trip_distance"]).as_py() < 4
    assert 8 < pc.mean(trips["fare_amount"]).as_py() < 20
    assert set(trips["PULocationID"].unique().to_pylist()) == set(range(1, 266))
    assert set(trips["passenger_count"].unique().to_pylist()) >= {None, 0, 1, 2, 3, 4, 5, 6}


def test_a_month_of_one_trip_is_possible(color: str) -> None:
    assert trips_of(color, rows=1).num_rows == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("purple", "2021-01", 1, 0),
        ("green", "2021-13", 1, 0),
        ("green", "2021-01", 0, 0),
        ("green", "2021-01", 1, -1),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(arguments: tuple[str, str, int, int]) -> None:
    with pytest.raises(ConfigurationError, match="must be one of yellow, green"):
        next(generate_trips(*arguments))


def test_parquet_is_one_row_group_and_gives_the_trips_back(color: str, trips: pa.Table, tmp_path: Path) -> None:
    write_parquet(trips.to_batches(), tmp_path / "new" / "month.parquet")
    file = pq.ParquetFile(tmp_path / "new" / "month.parquet")
    assert file.num_row_groups == 1
    assert file.read().equals(trips)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["month.parquet"]


def test_csv_is_in_the_publishers_form(color: str, trips: pa.Table, tmp_path: Path) -> None:
    write_csv(trips.to_batches(), tmp_path / "month.csv")
    text = (tmp_path / "month.csv").read_text()
    assert '"' not in text
    header = text.partition("\n")[0]
    assert header == (YELLOW_CSV_HEADER if color == "yellow" else ",".join(SCHEMAS["green"].names))
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == ROWS
    assert sum(row["passenger_count"] == "0" for row in rows) == 1400
    assert {row["payment_type"] for row in rows} <= {"", "0", "1", "2", "3", "4"}
    first = {name: values[0] for name, values in trips.slice(0, 1).to_pydict().items()}
    assert rows[0][PICKUP[color]] == first[PICKUP[color]].strftime("%Y-%m-%d %H:%M:%S")
    assert float(rows[0]["total_amount"]) == first["total_amount"]
    assert rows[-1]["passenger_count"] == rows[-1]["store_and_fwd_flag"] == ""


def test_compressed_csv_holds_the_same_text_and_equal_bytes_each_time(
    color: str, trips: pa.Table, tmp_path: Path
) -> None:
    write_csv(trips.to_batches(), tmp_path / "month.csv")
    for name in ("one.csv.gz", "two.csv.gz"):
        write_csv_gz(trips.to_batches(), tmp_path / name)
    assert gzip.decompress((tmp_path / "one.csv.gz").read_bytes()) == (tmp_path / "month.csv").read_bytes()
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


@pytest.mark.parametrize("write", [write_csv, write_csv_gz])
def test_a_failure_half_way_leaves_nothing_behind(write, trips: pa.Table, tmp_path: Path) -> None:
    def breaking_off():
        yield trips.to_batches()[0]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write(breaking_off(), tmp_path / "month")
    assert list(tmp_path.iterdir()) == []


def test_zones_are_265_and_keep_the_publishers_quirks(tmp_path: Path) -> None:
    write_zones(tmp_path / "zones.csv")
    text = (tmp_path / "zones.csv").read_text()
    assert text.splitlines()[:2] == [
        '"LocationID","Borough","Zone","service_zone"',
        '1,"EWR","Newark Airport","EWR"',
    ]
    assert text.splitlines()[-2:] == ['264,"Unknown","NV","N/A"', '265,"Unknown","NA","N/A"']
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["LocationID"]) for row in rows] == list(range(1, 266))
    assert {row["Borough"] for row in rows} == {
        *("Bronx", "Brooklyn", "Manhattan", "Queens", "Staten Island", "EWR", "Unknown"),
    }
