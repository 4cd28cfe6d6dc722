"""Files of the publisher's years become the declared columns; what can't is named with column, row and value."""

from datetime import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mage_project.lib.errors import ConfigurationError, DataError
from mage_project.lib.feeds.taxi import schema as taxi
from mage_project.lib.feeds.taxi.schema import SCHEMAS, Conform, conform_to, csv_type, known_color, undeclared
from mage_project.lib.local.trips import generate_trips

URL = "http://tlc/green_tripdata_2021-02.parquet"


def plan_for(color: str, found: pa.Schema) -> Conform:
    return conform_to(color, found, f"{color} 2021-02", URL)


def conformed(color: str, table: pa.Table, rows_before: int = 0) -> pa.RecordBatch:
    return plan_for(color, table.schema).batch(table.combine_chunks().to_batches()[0], rows_before)


@pytest.fixture(params=["yellow", "green"])
def color(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def month(color: str) -> pa.Table:
    return pa.Table.from_batches(generate_trips(color, "2021-02", 50))


def replaced(month: pa.Table, name: str, values: pa.Array, called: str | None = None) -> pa.Table:
    return month.set_column(month.schema.get_field_index(name), called or name, values)


def test_a_file_of_2021_becomes_the_declared_columns_without_a_notice(color: str, month: pa.Table) -> None:
    assert plan_for(color, month.schema).notices == ()
    found = conformed(color, month)
    assert found.schema == SCHEMAS[color]
    assert undeclared(found.schema, f"{color}/2021-02") == []
    assert found["total_amount"].to_pylist() == month["total_amount"].to_pylist()


def test_a_column_without_a_value_has_its_declared_type(color: str, month: pa.Table) -> None:
    name = {"yellow": "airport_fee", "green": "ehail_fee"}[color]
    assert month.schema.field(name).type == pa.null()
    found = conformed(color, month)[name]
    assert (found.type, found.null_count) == (pa.float64(), 50)


@pytest.mark.parametrize("spelt", ["Airport_fee", "AIRPORT_FEE"])
def test_a_column_that_changed_its_case_is_the_same(spelt: str) -> None:
    month = pa.Table.from_batches(generate_trips("yellow", "2021-02", 50))
    drifted = replaced(month, "airport_fee", pa.array([1.25] * 50), called=spelt)
    found = conformed("yellow", drifted)
    assert plan_for("yellow", drifted.schema).notices == ()
    assert found["airport_fee"].to_pylist() == [1.25] * 50


@pytest.mark.parametrize(
    ("color", "name"), [("yellow", "congestion_surcharge"), ("yellow", "airport_fee"), ("green", "trip_type")]
)
def test_a_column_that_came_later_is_null_in_files_before_it(color: str, name: str) -> None:
    before = pa.Table.from_batches(generate_trips(color, "2021-02", 50)).drop_columns([name])
    found = conformed(color, before)
    assert found.schema == SCHEMAS[color]
    assert found[name].null_count == 50


def test_a_missing_column_is_named_with_the_nearest_one(color: str, month: pa.Table) -> None:
    renamed = month.rename_columns(["fare" if name == "fare_amount" else name for name in month.schema.names])
    with pytest.raises(DataError, match=rf"{color} 2021-02: no column 'fare_amount' in {URL}; found 'fare'.*RENAMED"):
        plan_for(color, renamed.schema)


def test_a_missing_column_with_nothing_new_shows_the_nearest_of_all(color: str, month: pa.Table) -> None:
    with pytest.raises(DataError, match=r"no column 'PULocationID' in .*; found 'DOLocationID'"):
        plan_for(color, month.drop_columns(["PULocationID"]).schema)


def test_a_missing_column_without_a_near_one_shows_what_there_is() -> None:
    with pytest.raises(DataError, match=r"no column 'VendorID' in .*; found a, b, c, d, e, f, g, h, …"):
        plan_for("yellow", pa.schema([(name, pa.int64()) for name in "abcdefghij"]))


def test_a_rename_that_is_declared_is_followed(month: pa.Table, color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(taxi.RENAMED, "fare", "fare_amount")
    renamed = month.rename_columns(["fare" if name == "fare_amount" else name for name in month.schema.names])
    assert conformed(color, renamed)["fare_amount"].to_pylist() == month["fare_amount"].to_pylist()
    assert csv_type(color, "fare") == pa.float64()


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (pa.array([0.75] * 50), pa.float64()),
        (pa.array([1] * 50, pa.int16()), pa.int64()),
        (pa.array(["x"] * 50), pa.string()),
        (pa.array(["x"] * 50).dictionary_encode(), pa.string()),
        (pa.array(["x"] * 50, pa.large_string()), pa.string()),
        (pa.nulls(50), pa.float64()),
        (pa.array([datetime(2021, 2, 1)] * 50, pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([True] * 50), pa.bool_()),
        (pa.array([1] * 50, pa.decimal128(10, 2)), pa.float64()),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_new_column_stays_behind_the_others_with_a_notice(values: pa.Array, stored: pa.DataType) -> None:
    month = pa.Table.from_batches(generate_trips("green", "2021-02", 50)).append_column("cbd_fee", values)
    plan = plan_for("green", month.schema)
    found = conformed("green", month)
    assert found.schema.names == [*SCHEMAS["green"].names, "cbd_fee"]
    assert found.schema.field("cbd_fee").type == stored
    assert plan.notices == (f"new column 'cbd_fee' ({stored}) in {URL}: added as nullable",)
    assert undeclared(found.schema, "green/2021-02") == []


@pytest.mark.parametrize("other", ["AIRPORT_fee", "airport_fee"])
def test_two_columns_that_are_one_without_their_case_are_refused(other: str) -> None:
    month = pa.Table.from_batches(generate_trips("yellow", "2021-02", 50)).append_column(other, pa.array([1.0] * 50))
    with pytest.raises(DataError, match=f"'airport_fee' and '{other}' .* one and the same without their case"):
        plan_for("yellow", month.schema)


def test_integers_that_arrive_as_doubles_are_integers_again(month: pa.Table, color: str) -> None:
    drifted = replaced(month, "PULocationID", month["PULocationID"].cast(pa.float64()))
    assert conformed(color, drifted)["PULocationID"].to_pylist() == month["PULocationID"].to_pylist()


def test_a_fraction_in_an_integer_column_is_named_with_its_row(month: pa.Table, color: str) -> None:
    values = [1.0, None, *[2.0] * 40, 2.5, *[3.0] * 7]
    with pytest.raises(
        DataError,
        match=rf"{color} 2021-02: row 1,043 of {URL} holds 2.5 in column 'VendorID', which is no int64. Nothing was",
    ):
        conformed(color, replaced(month, "VendorID", pa.array(values)), rows_before=1_000)


def test_a_text_where_a_number_should_be_is_named_with_its_row(month: pa.Table, color: str) -> None:
    values = pa.array([*["12.5"] * 30, "twelve", *["1"] * 19])
    with pytest.raises(DataError, match=r"row 31 of .* holds 'twelve' in column 'fare_amount', which is no double"):
        conformed(color, replaced(month, "fare_amount", values))


def test_a_type_that_has_no_way_to_the_declared_one_is_refused_even_without_rows(month: pa.Table, color: str) -> None:
    drifted = replaced(month, "fare_amount", pa.array([[1.0]] * 50))
    with pytest.raises(DataError, match=r"row 1 of .* holds .1.0. in column 'fare_amount'"):
        conformed(color, drifted)
    empty = pa.RecordBatch.from_pylist([], schema=drifted.schema)
    with pytest.raises(DataError, match="column 'fare_amount', which is no double"):
        plan_for(color, drifted.schema).batch(empty, 0)


@given(st.lists(st.none() | st.integers(0, 265), min_size=1, max_size=40), st.integers(0, 39), st.booleans())
def test_it_is_always_the_first_fraction_that_is_named(
    numbers: list[int | None], position: int, has_fraction: bool
) -> None:
    values: list[float | None] = [None if number is None else float(number) for number in numbers]
    if has_fraction:
        values[position % len(values)] = 0.5
    month = pa.Table.from_batches(generate_trips("green", "2021-02", len(values)))
    drifted = replaced(month, "VendorID", pa.array(values, pa.float64()))
    if has_fraction:
        with pytest.raises(DataError, match=f"row {values.index(0.5) + 1} of .* holds 0.5 in column 'VendorID'"):
            conformed("green", drifted)
    else:
        assert conformed("green", drifted)["VendorID"].to_pylist() == numbers


@pytest.mark.parametrize("wrong", ["purple", "Yellow", "", None, 7, "yellow; DROP TABLE x"])
def test_an_unknown_colour_is_refused_with_the_known_ones(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="the known colours are green, yellow"):
        known_color(wrong)


def test_csv_columns_are_read_as_declared_with_integers_as_doubles() -> None:
    assert csv_type("yellow", "VendorID") == pa.float64()
    assert csv_type("yellow", "tpep_pickup_datetime") == pa.timestamp("us")
    assert csv_type("yellow", "Airport_fee") == pa.float64()
    assert csv_type("green", "store_and_fwd_flag") == csv_type("green", "brand_new") == pa.string()


def test_columns_that_are_not_as_declared_are_listed() -> None:
    green = SCHEMAS["green"]
    wrong = green.remove(0).set(0, pa.field("lpep_pickup_datetime", pa.string()))
    assert undeclared(wrong, "green/2021-02") == ["VendorID (int64)", "lpep_pickup_datetime (timestamp[us])"]


def test_a_timestamp_with_a_zone_is_refused_and_not_shifted() -> None:
    zoned = pa.field(taxi.PICKUP["green"], pa.timestamp("us", "UTC"))
    found = pa.schema([zoned if field.name == zoned.name else field for field in SCHEMAS["green"]])
    plan = conform_to("green", found, "green 2021-02", "http://x/green.parquet")
    batch = pa.RecordBatch.from_arrays([pa.nulls(1, field.type) for field in found], schema=found)
    with pytest.raises(DataError, match="has the time zone UTC, where naive New York time is declared"):
        plan.batch(batch, 0)
