"""A month arrives whole in the declared schema, from Parquet and CSV alike, or not at all."""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import (
    CantripError,
    ConfigurationError,
    DataError,
    NotPublishedError,
    ReconciliationError,
    SourceError,
)
from mage_project.lib.feeds.taxi.schema import SCHEMAS
from mage_project.lib.feeds.taxi.source import load_month
from mage_project.lib.local.trips import count_quirks, generate_trips, write_csv, write_csv_gz, write_parquet
from mage_project.lib.settings import Settings, TaxiSettings
from tests.support.faulty_server import Server, serve

FEBRUARY = date(2021, 2, 1)
ROWS = 2_000
WRITERS: dict[str, Callable] = {"parquet": write_parquet, "csv.gz": write_csv_gz, "csv": write_csv}


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "published"
    folder.mkdir()
    with serve(folder) as server:
        yield server


def publish(publisher: Server, table: pa.Table, color: str = "green", format: str = "parquet") -> Path:
    path = publisher.folder / f"{color}_tripdata_2021-02.{format}"
    WRITERS[format](table.to_batches(), path)
    return path


def month_of(color: str, rows: int = ROWS) -> pa.Table:
    return pa.Table.from_batches(generate_trips(color, "2021-02", rows))


class Loader:
    """Loads a month from the publisher and says what lies in the staging folder."""

    def __init__(self, settings: Settings, publisher: Server) -> None:
        self.settings, self.publisher = settings, publisher
        self.staged = settings.staging_folder / "run" / "trips.arrow"

    def __call__(self, color: object = "green", format: str = "parquet", month: date = FEBRUARY) -> Dataset:
        taxi = TaxiSettings(base_url=self.publisher.url, format=format)
        return load_month(color, month, replace(self.settings, taxi=taxi), self.staged)

    def refusal(self, kind: type[CantripError], format: str = "parquet", color: object = "green") -> str:
        """Load what must be refused; give the message, and see that nothing was staged."""
        with pytest.raises(kind) as caught:
            self(color, format)
        assert list(self.settings.staging_folder.rglob("*.arrow")) == []
        assert list(self.settings.staging_folder.rglob("*.part")) == []
        if color == "green":
            assert caught.value.slice == "green/2021-02"
            assert str(caught.value).startswith("green 2021-02: ")
        return str(caught.value)


@pytest.fixture
def load(settings: Settings, publisher: Server) -> Loader:
    return Loader(settings, publisher)


def rows_of(dataset: Dataset) -> pa.Table:
    return pa.Table.from_batches(dataset.batches(), schema=dataset.schema)


@pytest.mark.parametrize("format", ["parquet", "csv.gz", "csv"])
@pytest.mark.parametrize("color", ["yellow", "green"])
def test_every_row_of_the_month_arrives_in_the_declared_schema(
    color: str, format: str, load: Loader, publisher: Server
) -> None:
    published = month_of(color)
    publish(publisher, published, color, format)
    dataset = load(color, format)
    assert dataset.schema == SCHEMAS[color]
    assert (dataset.rows, dataset.fetched, dataset.slice) == (ROWS, ROWS, f"{color}/2021-02")
    assert dataset.source == f"{publisher.url}/{color}_tripdata_2021-02.{format}"
    assert dataset.notices == ()
    assert dataset.count(pc.field("passenger_count") == 0) == count_quirks(color, ROWS)["zero_passengers"]
    found = rows_of(dataset)
    for name in ("VendorID", "passenger_count", "total_amount", "store_and_fwd_flag", "PULocationID"):
        assert found[name].to_pylist() == published[name].to_pylist()


def test_rows_of_other_months_and_years_stay_in_the_slice_of_their_file(load: Loader, publisher: Server) -> None:
    publish(publisher, month_of("green"))
    dataset = load()
    outside = [
        dataset.count(pc.field("lpep_pickup_datetime") < pa.scalar(datetime(2021, 2, 1))),
        dataset.count(pc.field("lpep_pickup_datetime") >= pa.scalar(datetime(2021, 3, 1))),
    ]
    quirks = count_quirks("green", ROWS)
    assert sum(outside) == quirks["dated_2008_or_2009"] + quirks["other_month"] > 0


@pytest.mark.parametrize("color", ["purple", "", None])
def test_an_unknown_colour_is_refused_before_anything_is_asked_for(
    color: object, load: Loader, publisher: Server
) -> None:
    assert "the known colours are green, yellow" in load.refusal(ConfigurationError, color=color)
    assert publisher.requests == []


def test_a_month_in_the_future_is_not_asked_for(load: Loader, publisher: Server) -> None:
    month = (date.today() + timedelta(days=40)).replace(day=1)
    with pytest.raises(NotPublishedError, match=r"lies in the future.*--date"):
        load(month=month)
    assert publisher.requests == []


@pytest.mark.parametrize("code", [403, 404])
def test_a_month_that_is_not_there_is_not_published(code: int, load: Loader, publisher: Server) -> None:
    publisher.fault("/green_tripdata_2021-02.parquet", "status", code=code)
    assert "not published" in load.refusal(NotPublishedError)


def test_a_missing_column_is_named(load: Loader, publisher: Server) -> None:
    publish(publisher, month_of("green").drop_columns(["PULocationID"]))
    assert "no column 'PULocationID' in" in load.refusal(DataError)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_renamed_column_is_named_with_its_old_name(format: str, load: Loader, publisher: Server) -> None:
    month = month_of("green")
    names = ["fare" if name == "fare_amount" else name for name in month.schema.names]
    publish(publisher, month.rename_columns(names), format=format)
    assert "no column 'fare_amount' in" in (text := load.refusal(DataError, format))
    assert "found 'fare'" in text
    assert "RENAMED" in text


@pytest.mark.parametrize(("format", "type_"), [("parquet", "double"), ("csv", "string")])
def test_a_new_column_arrives_with_a_notice(format: str, type_: str, load: Loader, publisher: Server) -> None:
    publish(publisher, month_of("green").append_column("cbd_fee", pa.array([0.75] * ROWS)), format=format)
    dataset = load(format=format)
    assert dataset.notices == (f"new column 'cbd_fee' ({type_}) in {dataset.source}: added as nullable",)
    assert dataset.schema.names == [*SCHEMAS["green"].names, "cbd_fee"]
    assert dataset.rows == ROWS


def test_a_column_that_changed_its_case_keeps_its_declared_name(load: Loader, publisher: Server) -> None:
    month = month_of("yellow")
    fees = pa.array([1.25] * ROWS)
    publish(publisher, month.drop_columns(["airport_fee"]).append_column("Airport_fee", fees), "yellow")
    dataset = load("yellow")
    assert dataset.schema == SCHEMAS["yellow"]
    assert dataset.count(pc.field("airport_fee") == 1.25) == ROWS


def test_a_fraction_in_an_integer_column_is_named_with_its_row_in_the_file(load: Loader, publisher: Server) -> None:
    rows, bad = 40_000, 39_000  # beyond the first batch
    month = month_of("green", rows)
    values = month["VendorID"].cast(pa.float64()).to_pylist()
    values[bad - 1] = 1.5
    publish(publisher, month.set_column(0, "VendorID", pa.array(values)))
    text = load.refusal(DataError)
    assert re.search(r"row 39,000 of http://.*parquet holds 1.5 in column 'VendorID', which is no int64", text)


def test_a_fraction_in_an_integer_column_of_a_csv_is_named_too(load: Loader, publisher: Server) -> None:
    path = publish(publisher, month_of("green"), format="csv")
    lines = path.read_text().splitlines(keepends=True)
    lines[1500] = re.sub(r"^\d+,", "1.5,", lines[1500])
    path.write_text("".join(lines))
    assert "row 1,500 of" in (text := load.refusal(DataError, "csv"))
    assert "holds 1.5 in column 'VendorID'" in text


def test_a_value_that_is_no_number_is_named_with_its_row(load: Loader, publisher: Server) -> None:
    path = publish(publisher, month_of("green"), format="csv")
    lines = path.read_text().splitlines()
    values = lines[7].split(",")
    values[9] = "n.a."
    lines[7] = ",".join(values)
    path.with_suffix(".csv.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    text = load.refusal(DataError, "csv.gz")
    assert "row 7 of green_tripdata_2021-02.csv.gz holds 'n.a.' in column 'fare_amount', which is no double" in text


def test_an_empty_month_is_a_dataset_without_rows(load: Loader, publisher: Server) -> None:
    for format in WRITERS:
        path = publish(publisher, month_of("green", 1), format="csv" if format == "csv.gz" else format)
        if format == "parquet":
            pq.write_table(month_of("green", 1).slice(0, 0), path)
        else:
            header = path.read_text().splitlines(keepends=True)[0]
            path.write_text(header)
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(header.encode()))
        dataset = load(format=format)
        assert (dataset.rows, dataset.schema) == (0, SCHEMAS["green"])


@pytest.mark.parametrize(
    ("format", "fault", "kind", "text"),
    [
        ("parquet", "html", DataError, "web page"),
        ("csv.gz", "html", DataError, "web page"),
        ("csv", "html", DataError, "web page"),
        ("csv.gz", "short_body", SourceError, "attempts"),
        ("parquet", "reset", SourceError, "attempts"),
    ],
)
def test_what_the_server_does_wrong_loads_nothing(
    format: str,
    fault: str,
    kind: type[CantripError],
    text: str,
    load: Loader,
    publisher: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    path = publish(publisher, month_of("green"), format=format)
    publisher.fault(f"/{path.name}", "no_range", times=10)
    publisher.fault(f"/{path.name}", fault, times=10)
    assert text in load.refusal(kind, format)


@pytest.mark.parametrize("format", ["parquet", "csv.gz", "csv"])
def test_a_file_that_was_cut_before_it_was_published_loads_nothing(
    format: str, load: Loader, publisher: Server
) -> None:
    path = publish(publisher, month_of("green"), format=format)
    path.write_bytes(path.read_bytes()[:-30])
    assert "The file is cut short or damaged" in load.refusal(DataError, format)


def test_the_second_load_of_a_month_downloads_nothing(load: Loader, publisher: Server) -> None:
    publish(publisher, month_of("green"))
    first, second = rows_of(load()), rows_of(load())
    assert first.equals(second)
    assert publisher.requests[1].bytes_sent == 0


def test_a_reader_that_loses_a_row_is_found_out(
    publisher: Server, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(publisher, month_of("green"))
    whole = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *args, **kw: (batch.slice(1) for batch in whole(*args, **kw))
    )
    with pytest.raises(ReconciliationError, match="says that it holds 2,000 rows, but 1,999 came out"):
        load()
