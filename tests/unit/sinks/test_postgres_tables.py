"""Names fit into PostgreSQL and mean what they say whatever they contain; types are explicit."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mage_project.lib.errors import DataError
from mage_project.lib.feeds.taxi.schema import SCHEMAS
from mage_project.lib.sinks.postgres_tables import (
    MAX_NAME,
    _create_statement,
    column_name,
    literal,
    partition_name,
    quoted,
    sql_columns,
    sql_type,
)

HOSTILE = ['trips"; DROP TABLE x; --', "a.b", "Ünïcödé", "with space", "select", "50%", ":name", "'"]

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=90)


def unquoted(identifier: str) -> str:
    """Read one quoted identifier as PostgreSQL does; fails when it ends before its end."""
    assert identifier[0] == identifier[-1] == '"'
    inner = identifier[1:-1]
    assert '"' not in inner.replace('""', "")
    return inner.replace('""', '"')


@given(names)
@example('trips"; DROP TABLE x; --')
def test_a_quoted_identifier_is_one_identifier_whatever_it_contains(name: str) -> None:
    assert unquoted(quoted(name)) == name


@given(names)
@example("green'; DROP TABLE x; --")
def test_a_literal_ends_where_it_should(value: str) -> None:
    text = literal(value)
    assert text[0] == text[-1] == "'"
    assert "'" not in text[1:-1].replace("''", "")
    assert text[1:-1].replace("''", "'") == value


def test_names_are_joined_with_dots() -> None:
    assert quoted("ny_taxi", "green_cab_data") == '"ny_taxi"."green_cab_data"'


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_column_stays_a_column_in_the_statement_that_makes_the_table(name: str) -> None:
    statement = _create_statement("ny_taxi", name, {name.lower(): "text"}, partitioned=True)
    assert statement == (
        f"CREATE TABLE {quoted('ny_taxi', name)} ({quoted(name.lower())} text, "
        '"_slice" text NOT NULL) PARTITION BY LIST ("_slice")'
    )


def test_a_table_of_small_slices_is_plain() -> None:
    assert "PARTITION" not in _create_statement("s", "t", {"n": "bigint"}, partitioned=False)


@given(names, names, st.sampled_from(["", "_a1b2c3"]))
def test_a_partitions_name_fits_into_63_bytes(table: str, slice: str, suffix: str) -> None:
    name = partition_name(table, slice, suffix)
    assert len(name.encode()) <= MAX_NAME == 63
    assert name.endswith(suffix)
    assert name == partition_name(table, slice, suffix)


@given(st.lists(st.tuples(names, names), min_size=2, max_size=8, unique=True))
def test_no_two_slices_share_a_partition(pairs: list[tuple[str, str]]) -> None:
    assert len({partition_name(table, slice) for table, slice in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("t", "green/2021-02"), ("t", "green-2021/02")),
        (("t", "GREEN/2021-02"), ("t", "green/2021-02")),
        (("a__b", "c"), ("a", "b__c")),
        (("t", "x" * 80 + "1"), ("t", "x" * 80 + "2")),
    ],
)
def test_slices_that_look_alike_are_told_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert partition_name(*one) != partition_name(*other)


def test_a_partitions_name_can_be_read() -> None:
    assert partition_name("green_cab_data", "green/2021-02").startswith("green_cab_data__green_2021_02_")


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (pa.int64(), "bigint"),
        (pa.int32(), "integer"),
        (pa.float64(), "double precision"),
        (pa.string(), "text"),
        (pa.bool_(), "boolean"),
        (pa.date32(), "date"),
        (pa.timestamp("us"), "timestamp without time zone"),
        (pa.timestamp("us", "UTC"), "timestamp with time zone"),
        (pa.timestamp("us", "America/New_York"), "timestamp with time zone"),
    ],
    ids=str,
)
def test_types_are_explicit(type_: pa.DataType, expected: str) -> None:
    assert sql_type(pa.field("x", type_)) == expected


@pytest.mark.parametrize(
    "type_",
    [pa.null(), pa.timestamp("ns"), pa.timestamp("s"), pa.uint64(), pa.list_(pa.int64()), pa.decimal128(10, 2)],
    ids=str,
)
def test_a_type_without_an_exact_one_is_refused_with_the_column_and_the_remedy(type_: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"column 'fare' has the Arrow type .*, which has no exact type.*schema\.py"):
        sql_type(pa.field("fare", type_))


@pytest.mark.parametrize("color", ["yellow", "green"])
def test_every_declared_column_has_a_type(color: str) -> None:
    columns = sql_columns(SCHEMAS[color])
    assert list(columns) == [name.lower() for name in SCHEMAS[color].names]
    assert columns["ratecodeid"] == "double precision"
    assert columns[f"{'tpep' if color == 'yellow' else 'lpep'}_pickup_datetime"] == "timestamp without time zone"


def test_two_columns_that_become_one_in_lower_case_are_refused() -> None:
    schema = pa.schema([("airport_fee", pa.float64()), ("Airport_Fee", pa.float64())])
    with pytest.raises(DataError, match="two columns are called 'airport_fee' in lower case"):
        sql_columns(schema)


@pytest.mark.parametrize("name", ["_slice", "_SLICE"])
def test_a_source_column_can_not_take_the_place_of_the_slice(name: str) -> None:
    with pytest.raises(DataError, match="_slice"):
        sql_columns(pa.schema([(name, pa.string())]))


@pytest.mark.parametrize("name", ["x" * 64, "ü" * 32])
def test_a_column_name_that_would_be_cut_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="longer than the 63 bytes"):
        sql_columns(pa.schema([(name, pa.string())]))
    assert list(sql_columns(pa.schema([(name[1:], pa.string())]))) == [name[1:]]


def test_columns_are_the_publishers_in_lower_case() -> None:
    assert column_name("PULocationID") == "pulocationid"
