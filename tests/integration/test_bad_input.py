"""Bad input: one clear paragraph, the right exit code, nothing loaded, and what was there before unharmed."""

import gzip
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mage_project.lib.errors import CantripError
from mage_project.lib.handover import received
from tests.support.blocks import block, run_blocks
from tests.support.faulty_server import ALWAYS, Server, serve
from tests.support.months import kept_rows, month_table, with_column, write_month
from tests.support.warehouse import Home, hidden_environment, paragraph, query, relations

MONTH = {"color": "green", "window": "2021-06-01/2021-07-01"}
SLICE = "green/2021-06"
ROWS = 600


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Server]:
    """A publisher of the test's own, to be spoilt."""
    folder = tmp_path / "published"
    folder.mkdir()
    with serve(folder) as server:
        yield server


@pytest.fixture
def environment(home: Home, source: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set this process's environment as the home's is, with that publisher as its source."""

    def set_environment(**more: str) -> None:
        values = {**hidden_environment(), **home.environment, "TAXI_BASE_URL": source.url, "HTTP_ATTEMPTS": "2", **more}
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_environment


@pytest.fixture
def before(home: Home, source: Server, environment: Callable[..., None]) -> list[tuple]:
    """Load the month as it should be, from Parquet, and give its rows."""
    write_month(source.folder, month="2021-06")
    environment()
    run_blocks("api_to_postgres", **MONTH)
    loaded = rows_of(home)
    assert len(loaded) == kept_rows(month_table("green", "2021-06", ROWS))
    return loaded


def rows_of(home: Home) -> list[tuple]:
    return sorted(query(home.server, "SELECT * FROM ny_taxi.green_cab_data WHERE _slice = %s", SLICE), key=repr)


def refused(**variables: Any) -> CantripError | AssertionError:
    """Run the blocks, and give the error that stops them; it must be a single paragraph."""
    with pytest.raises((CantripError, AssertionError)) as caught:
        run_blocks("api_to_postgres", **{**MONTH, **variables})
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


def cut(path: Path, bytes_less: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:-bytes_less])


def replaced(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a CSV, packed or not."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        text = file.read()
    assert old in text
    with opened(path, "wt") as file:
        file.write(text.replace(old, new, 1))


def in_row(path: Path, row: int, change: Callable[[list[str]], list[str]]) -> None:
    """Change the fields of one row (counted from 1 after the header) of a CSV."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        lines = file.read().splitlines()
    lines[row] = ",".join(change(lines[row].split(",")))
    with opened(path, "wt") as file:
        file.write("\n".join(lines) + "\n")


def unfit(fields: list[str]) -> list[str]:
    fields[8] = "a lot"
    return fields


def parquet(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(change(pq.read_table(path)), path)


def with_text_distance(table: pa.Table) -> pa.Table:
    miles = [str(value) for value in table["trip_distance"].to_pylist()]
    return with_column(table, "trip_distance", pa.array([*miles[:449], "far", *miles[450:]]))


def renamed(table: pa.Table) -> pa.Table:
    return table.rename_columns(["fare" if name == "fare_amount" else name for name in table.column_names])


PAGE = "<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"

SPOILT: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "gzip cut short": ("csv.gz", cut, ("gzip stream ends before its end marker", "--refresh")),
    "gzip damaged in the middle": (
        "csv.gz",
        lambda path: path.write_bytes(path.read_bytes()[:2000] + bytes(500) + path.read_bytes()[2500:]),
        ("can't be read as csv.gz", "--refresh"),
    ),
    "not gzip at all": ("csv.gz", lambda path: path.write_text("VendorID,x\n1,2\n"), ("can't be read as csv.gz",)),
    "csv cut in mid-row": ("csv", cut, ("cut in the middle of a row", "--refresh")),
    "csv row with a field less": ("csv", lambda path: in_row(path, 300, lambda f: f[:-1]), ("green_tripdata",)),
    "csv row with a field more": ("csv", lambda path: in_row(path, 300, lambda f: [*f, "1"]), ("green_tripdata",)),
    "parquet cut short": ("parquet", cut, ("can't be read as parquet", "--refresh")),
    "parquet cut at its head": (
        "parquet",
        lambda path: path.write_bytes(path.read_bytes()[:10]),
        ("can't be read as parquet",),
    ),
    "parquet damaged in the middle": (
        "parquet",
        lambda path: path.write_bytes(path.read_bytes()[:200] + b"\xff" * 3000 + path.read_bytes()[3200:]),
        ("can't be read as parquet", "--refresh"),
    ),
    "empty file as parquet": ("parquet", lambda path: path.write_bytes(b""), ("green 2021-06",)),
    "empty file as csv": ("csv", lambda path: path.write_bytes(b""), ("not even a header",)),
    "page as parquet": ("parquet", lambda path: path.write_text(PAGE), ("web page (HTML)", "TAXI_BASE_URL")),
    "page as csv": ("csv", lambda path: path.write_text(PAGE), ("web page (HTML)", "TAXI_BASE_URL")),
    "page as csv.gz": ("csv.gz", lambda path: path.write_text(PAGE), ("web page (HTML)", "TAXI_BASE_URL")),
    "packed page": ("csv.gz", lambda path: path.write_bytes(gzip.compress(PAGE.encode())), ("web page (HTML)",)),
    "missing column in parquet": (
        "parquet",
        parquet(lambda table: table.drop_columns("total_amount")),
        (
            "no column 'total_amount'",
            "/green_tripdata_2021-06.parquet",
            "RENAMED in mage_project/lib/feeds/taxi/schema",
        ),
    ),
    "renamed column in parquet": ("parquet", parquet(renamed), ("no column 'fare_amount'", "found 'fare'", "RENAMED")),
    "renamed column in csv": (
        "csv",
        lambda path: replaced(path, "fare_amount", "fare"),
        ("no column 'fare_amount'", "found 'fare'", "RENAMED"),
    ),
    "value that is no number in csv": (
        "csv",
        lambda path: in_row(path, 450, unfit),
        ("row 450 of green_tripdata_2021-06.csv", "'a lot'", "column 'trip_distance'", "no double"),
    ),
    "value that is no number in csv.gz": (
        "csv.gz",
        lambda path: in_row(path, 450, unfit),
        ("row 450 of green_tripdata_2021-06.csv.gz", "'a lot'", "column 'trip_distance'", "no double"),
    ),
    "value that is no date": (
        "csv",
        lambda path: in_row(path, 7, lambda fields: [fields[0], "2021-02-30 00:00:00", *fields[2:]]),
        ("row 7 of", "'2021-02-30 00:00:00'", "column 'lpep_pickup_datetime'"),
    ),
    "value that is no number in parquet": (
        "parquet",
        parquet(with_text_distance),
        ("row 450 of http", "'far'", "column 'trip_distance'", "no double"),
    ),
    "whole number that isn't one": (
        "parquet",
        parquet(lambda table: with_column(table, "VendorID", pa.array([1.0] * 99 + [1.5] * (len(table) - 99)))),
        ("row 100 of http", "1.5", "column 'VendorID'", "no int64"),
    ),
    "no trips in parquet": ("parquet", parquet(lambda table: table.slice(0, 0)), (SLICE, "no trips")),
    "no trips in csv": (
        "csv",
        lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"),
        (SLICE, "no trips"),
    ),
    "every trip without passengers": (
        "parquet",
        parquet(lambda table: with_column(table, "passenger_count", pa.array([0.0] * len(table)))),
        (SLICE, "every trip was dropped"),
    ),
    "pickup and drop-off exchanged": (
        "parquet",
        parquet(
            lambda table: table.rename_columns(
                [
                    {
                        "lpep_pickup_datetime": "lpep_dropoff_datetime",
                        "lpep_dropoff_datetime": "lpep_pickup_datetime",
                    }.get(name, name)
                    for name in table.column_names
                ]
            )
        ),
        (SLICE, "trips end before they start"),
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_file_is_one_paragraph_and_changes_nothing(
    home: Home, source: Server, environment: Callable[..., None], before: list[tuple], spoilt: str
) -> None:
    format, spoil, said = SPOILT[spoilt]
    spoil(write_month(source.folder, month="2021-06", format=format))
    environment(TAXI_FORMAT=format)
    error = refused()
    assert getattr(error, "exit_code", 1) == 1
    for words in (*said, "2021-06"):
        assert words in str(error)
    assert rows_of(home) == before
    assert not list(home.settings.staging_folder.rglob("*.part"))
    # and the file as it should be is loaded by the next run
    write_month(source.folder, month="2021-06", format=format)
    environment(TAXI_FORMAT=format)
    assert run_blocks("api_to_postgres", **MONTH, refresh="1")["rows"] == len(before)
    assert rows_of(home) == before


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("short_body", {}, "could not be fetched in 2 attempts"),
        ("reset", {}, "could not be fetched in 2 attempts"),
        ("status", {"code": 503}, "answers 503"),
        ("status", {"code": 404}, "not published"),
        ("status", {"code": 403}, "not published"),
        ("status", {"code": 401}, "answers 401"),
        ("html", {}, "web page (HTML)"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else str(value.get("code", "")),
)
def test_a_server_that_misbehaves_is_one_paragraph_and_changes_nothing(
    home: Home, source: Server, before: list[tuple], kind: str, options: dict, said: str
) -> None:
    source.fault("/green_tripdata_2021-06.parquet", kind, times=ALWAYS, **options)
    if kind == "short_body":
        source.fault("/green_tripdata_2021-06.parquet", "no_range", times=ALWAYS)
    error = refused(refresh="1")
    assert said in str(error)
    assert "green 2021-06" in str(error)
    assert getattr(error, "exit_code", 1) == 1
    assert rows_of(home) == before


def test_a_file_that_failed_a_check_does_not_stay_for_the_next_run(
    home: Home, source: Server, environment: Callable[..., None], before: list[tuple]
) -> None:
    """The publisher mended the file; its ETag says so, no --refresh is needed."""
    cut(write_month(source.folder, month="2021-06"))
    refused()
    write_month(source.folder, month="2021-06")
    assert run_blocks("api_to_postgres", **MONTH)["rows"] == len(before)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"color": "purple"}, "color is 'purple'; the known colours are green, yellow"),
        ({"color": ""}, "color is ''"),
        ({"color": "GREEN"}, "color is 'GREEN'"),
        ({"window": "", "date": "2021-13-01"}, "'2021-13-01' is not a date"),
        ({"window": "", "date": "soon"}, "'soon' is not a date"),
        ({"window": "2021-07-01/2021-06-01"}, "a window must end after its start"),
        ({"window": "", "date": "2021-06-10", "cadence": "fortnight"}, "cadence is 'fortnight'"),
        ({"window": "", "offset": "two"}, "offset is 'two'"),
    ],
)
def test_a_wrong_variable_is_exit_2_and_asks_nobody(
    home: Home, source: Server, before: list[tuple], variables: dict[str, str], said: str
) -> None:
    asked = len(source.requests)
    error = refused(**variables)
    assert isinstance(error, CantripError)
    assert error.exit_code == 2
    assert said in str(error)
    assert len(source.requests) == asked
    assert rows_of(home) == before


def test_a_month_in_the_future_asks_nobody(home: Home, source: Server, environment: Callable[..., None]) -> None:
    environment()
    error = refused(window=f"{date.today().year + 1}-01-01/{date.today().year + 1}-02-01")
    assert "lies in the future" in str(error)
    assert source.requests == []


def test_a_wrong_password_is_exit_2_and_does_not_show_it(
    home: Home, environment: Callable[..., None], before: list[tuple]
) -> None:
    server = home.server
    environment(
        POSTGRES_HOST=server.host,
        POSTGRES_PORT=str(server.port),
        POSTGRES_USER=server.user,
        POSTGRES_DBNAME=server.dbname,
        POSTGRES_PASSWORD="hunter2-but-wrong",
    )
    error = refused()
    assert isinstance(error, CantripError)
    assert error.exit_code == 2
    assert "refuses the password of user 'cantrip'" in str(error)
    assert "hunter2" not in str(error)
    assert rows_of(home) == before


@pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz"])
def test_a_new_column_is_added_as_nullable_with_a_notice(
    home: Home, source: Server, environment: Callable[..., None], before: list[tuple], format: str
) -> None:
    july = {**MONTH, "window": "2021-07-01/2021-08-01"}
    name = f"Surge_{format.replace('.', '_')}"
    add_column(write_month(source.folder, month="2021-07", format=format), name)
    environment(TAXI_FORMAT=format)
    loaded = block("data_loaders/load_api_data.py").functions[0](**july, execution_partition="test")
    [notice] = received(loaded).notices
    assert f"new column {name!r}" in notice
    assert "added as nullable" in notice
    receipt = run_blocks("api_to_postgres", **july)
    counted = f"SELECT _slice, count({name.lower()}) FROM ny_taxi.green_cab_data WHERE _slice IN (%s, %s) GROUP BY 1"
    assert dict(query(home.server, counted, SLICE, "green/2021-07")) == {SLICE: 0, "green/2021-07": receipt["rows"]}
    assert len(rows_of(home)) == len(before)


def add_column(path: Path, name: str) -> None:
    if path.suffix == ".parquet":
        parquet(lambda table: table.append_column(name, pa.array([0.25] * len(table))))(path)
        return
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt") as file:
        header, *rows = file.read().splitlines()
    with opened(path, "wt") as file:
        file.write("\n".join([f"{header},{name}", *(f"{row},0.25" for row in rows)]) + "\n")


# the same, seen from the command line


@pytest.mark.parametrize("spoilt", ["gzip cut short", "value that is no number in csv", "no trips in parquet"])
def test_the_command_line_prints_the_paragraph_and_exits_with_1(
    home: Home, source: Server, before: list[tuple], spoilt: str
) -> None:
    format, spoil, said = SPOILT[spoilt]
    spoil(write_month(source.folder, month="2021-06", format=format))
    there = relations(home.server, "ny_taxi")
    spoilt_home = home.with_environment(TAXI_BASE_URL=source.url, TAXI_FORMAT=format)
    done = spoilt_home.cantrip("run", "api_to_postgres", "--date", "2021-06-10", "--var", "color=green")
    assert done.returncode == 1
    text = paragraph(done)
    for words in said:
        assert words in text
    assert rows_of(home) == before
    assert relations(home.server, "ny_taxi") == there
    [entry] = [row for row in home.cantrip_json("ledger") if row["slice"] == SLICE and row["error"]]
    assert entry["error"] == text
