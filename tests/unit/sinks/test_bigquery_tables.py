"""Names and texts mean what they say whatever they contain, types are explicit, and a strange table stays as it is."""

import json
import re
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from google.api_core.exceptions import NotFound
from google.cloud import bigquery
from hypothesis import example, given
from hypothesis import strategies as st

from mage_project.lib.errors import DataError, SinkError
from mage_project.lib.feeds.taxi.schema import SCHEMAS
from mage_project.lib.sinks.bigquery_tables import (
    COUNT_DIFFERS,
    SLICE_COLUMN,
    bigquery_type,
    ensure_table,
    job_name,
    literal,
    quoted,
    replace_statements,
    require_free_names,
)
from mage_project.lib.sinks.manifests import file_slug

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
TABLE = "p.ny_taxi.green_cab_data"
COLUMNS = {"vendorid": "INT64", "fare_amount": "FLOAT64"}


def inside(text: str, quote: str) -> str:
    """Give what stands between the quotes; fails when one of them is closed before its end."""
    assert text[0] == text[-1] == quote
    inner = text[1:-1]
    assert quote not in inner.replace("\\\\", "").replace(f"\\{quote}", "")
    return inner


@given(texts)
@example("trips` ; DROP TABLE x; --")
@example("ends with \\")
@example("\\`")
def test_a_quoted_name_is_one_name_whatever_it_contains(name: str) -> None:
    inner = inside(quoted(name), "`")
    assert inner.replace("\\\\", "\0").replace("\\`", "`").replace("\0", "\\") == name.replace("\0", "\\")


@given(texts)
@example('green"; DROP TABLE x; --')
@example("it's")
@example("two\nlines \\")
def test_a_literal_ends_where_it_should(value: str) -> None:
    inside(literal(value), '"')
    assert "\n" not in literal(value)
    assert json.loads(literal(value)) == value


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (pa.bool_(), "BOOL"),
        (pa.int16(), "INT64"),
        (pa.int32(), "INT64"),
        (pa.int64(), "INT64"),
        (pa.float32(), "FLOAT64"),
        (pa.float64(), "FLOAT64"),
        (pa.string(), "STRING"),
        (pa.large_string(), "STRING"),
        (pa.binary(), "BYTES"),
        (pa.date32(), "DATE"),
        (pa.timestamp("us"), "DATETIME"),
        (pa.timestamp("us", "UTC"), "TIMESTAMP"),
        (pa.timestamp("us", "America/New_York"), "TIMESTAMP"),
    ],
    ids=str,
)
def test_types_are_explicit(type_: pa.DataType, expected: str) -> None:
    assert bigquery_type(pa.field("x", type_)) == expected


@pytest.mark.parametrize(
    "type_",
    [pa.null(), pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.uint64(), pa.list_(pa.int64()), pa.decimal128(10, 2)],
    ids=str,
)
def test_a_type_without_an_exact_one_is_refused_with_the_column_and_the_remedy(type_: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"column 'fare' has the Arrow type .*, which has no exact type.*schema\.py"):
        bigquery_type(pa.field("fare", type_))


@pytest.mark.parametrize("color", sorted(SCHEMAS))
def test_every_declared_column_has_a_type(color: str) -> None:
    types = {field.name: bigquery_type(field) for field in SCHEMAS[color]}
    assert types["PULocationID"] == "INT64"
    assert types["RatecodeID"] == "FLOAT64"
    assert types[f"{'tpep' if color == 'yellow' else 'lpep'}_pickup_datetime"] == "DATETIME"


def test_the_script_replaces_the_slice_in_one_transaction_and_counts_before_it_commits() -> None:
    columns = {"VendorID": "vendorid", "fare amount": "fare_amount"}
    assert replace_statements(TABLE, "p.ny_taxi._staging_1", "green/2021-01", columns, "pickup_date", 701) == (
        "BEGIN TRANSACTION;\n"
        'DELETE FROM `p.ny_taxi.green_cab_data` WHERE `_slice` = "green/2021-01";\n'
        "INSERT INTO `p.ny_taxi.green_cab_data` (`vendorid`, `fare_amount`, `pickup_date`, `_slice`)\n"
        'SELECT `VendorID`, `fare amount`, `pickup_date`, "green/2021-01" FROM `p.ny_taxi._staging_1`;\n'
        'SELECT IF((SELECT COUNT(*) FROM `p.ny_taxi.green_cab_data` WHERE `_slice` = "green/2021-01") = 701, 701, '
        "ERROR('the slice does not hold the rows of its manifest'));\n"
        "COMMIT TRANSACTION;"
    )


@pytest.mark.parametrize("slice", ['green"; COMMIT; --', "o'hara/2021-01", "a`b", "a\\", "a\nb"])
def test_a_hostile_slice_stays_a_text_in_the_script(slice: str) -> None:
    script = replace_statements(TABLE, "s", slice, {"a`b": "a_b"}, "pickup_date", 1)
    assert script.count(literal(slice)) == 3
    without = script.replace(literal(slice), "?")
    assert without == replace_statements(TABLE, "s", "x", {"a`b": "a_b"}, "pickup_date", 1).replace('"x"', "?")
    assert "SELECT `a\\`b`, " in without


def test_the_text_by_which_a_wrong_count_is_known_needs_no_quoting() -> None:
    assert not set("'\"\\\n") & set(COUNT_DIFFERS)


def test_a_jobs_name_is_of_letters_digits_and_underscores() -> None:
    name = job_name("cantrip_load", "green_cab_data", "green/2021-01", "a1b2")
    assert re.fullmatch(r"cantrip_load_green_cab_data_green_2021_01_[0-9a-f]{8}_a1b2", name)
    assert re.fullmatch(r"[A-Za-z0-9_]+", job_name("_staging", "größe", "a`; DROP"))


@pytest.mark.parametrize(("one", "other"), [("BRK.A/1", "BRK-A/1"), ("a/b", "a_b"), ("a//b", "a/b")])
def test_slices_that_look_alike_have_jobs_and_files_of_their_own(one: str, other: str) -> None:
    assert job_name("_staging", "t", one) != job_name("_staging", "t", other)
    assert file_slug(one) != file_slug(other)


@pytest.mark.parametrize("name", ["_slice", "pickup_date"])
def test_a_column_of_the_data_with_the_name_of_one_of_ours_is_refused(name: str) -> None:
    manifest = SimpleNamespace(partition_column="pickup_date", slice="green/2021-01")
    require_free_names(["fare", "tip"], manifest)
    with pytest.raises(DataError, match=f"green/2021-01: the data has a column '{name}'"):
        require_free_names(["fare", name], manifest)


def test_the_same_attempt_has_the_same_job_and_another_one_its_own() -> None:
    assert job_name("load", "t", "s", "1") == job_name("load", "t", "s", "1") != job_name("load", "t", "s", "2")


class Client:
    """Stands in for BigQuery: one table, or none, and what was asked of it."""

    def __init__(self, schema: dict[str, str] | None = None, partition: str | None = "pickup_date") -> None:
        self.made: list[bigquery.Table] = []
        self.updated: list[str] = []
        self.asked: list[str] = []
        self.table: Any = None
        if schema is not None:
            fields = [bigquery.SchemaField(name, type_) for name, type_ in schema.items()]
            by = SimpleNamespace(field=partition) if partition else None
            self.table = SimpleNamespace(schema=fields, time_partitioning=by)

    def get_table(self, name: str) -> Any:
        if self.table is None:
            raise NotFound(f"Not found: Table {name}")
        return self.table

    def create_table(self, table: bigquery.Table, exists_ok: bool) -> bigquery.Table:
        assert exists_ok  # another run may make it meanwhile
        self.made.append(table)
        return table

    def query_and_wait(self, statement: str) -> None:
        self.asked.append(statement)

    def update_table(self, table: Any, fields: list[str]) -> None:
        assert fields == ["schema"]
        self.updated = [field.name for field in table.schema]


OURS = {**COLUMNS, "pickup_date": "DATE", SLICE_COLUMN: "STRING"}


def ensure(client: Client, columns: dict[str, str] = COLUMNS) -> list[str]:
    return ensure_table(cast(Any, client), TABLE, columns, "pickup_date", ["pulocationid", "vendorid"])


def test_a_missing_table_is_made_by_day_and_clustered_by_what_it_has() -> None:
    client = Client()
    assert ensure(client) == []
    (table,) = client.made
    assert {field.name: field.field_type for field in table.schema} == OURS
    assert {field.name: field.mode for field in table.schema}[SLICE_COLUMN] == "REQUIRED"
    assert table.time_partitioning.field == "pickup_date"
    assert table.clustering_fields == ["vendorid"]


@pytest.mark.parametrize("old_names", [False, True], ids=["as in SQL", "as the API answers"])
def test_a_table_that_fits_stays_as_it_is(old_names: bool) -> None:
    old = {"INT64": "INTEGER", "FLOAT64": "FLOAT"}
    client = Client({name: old.get(type_, type_) if old_names else type_ for name, type_ in OURS.items()})
    assert ensure(client) == []
    assert (client.made, client.updated) == ([], [])


def test_a_new_column_is_added_behind_the_others_and_told() -> None:
    client = Client(OURS)
    assert ensure(client, {**COLUMNS, "cbd_congestion_fee": "FLOAT64"}) == ["cbd_congestion_fee"]
    assert client.asked == [f"ALTER TABLE `{TABLE}` ADD COLUMN IF NOT EXISTS `cbd_congestion_fee` FLOAT64"]
    assert client.updated == [*OURS, "cbd_congestion_fee"]


def test_a_column_that_the_data_lacks_stays() -> None:
    client = Client({**OURS, "ehail_fee": "FLOAT64"})
    assert ensure(client) == []
    assert client.updated == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"fare_amount": "STRING"}, "column 'fare_amount' is STRING in the table, and FLOAT64 in the data"),
        ({"fare_amount": "NUMERIC"}, "column 'fare_amount' is NUMERIC"),
        ({"pickup_date": "TIMESTAMP"}, "column 'pickup_date' is TIMESTAMP in the table, and DATE in the data"),
        ({SLICE_COLUMN: "INTEGER"}, "column '_slice' is INT64"),
    ],
)
def test_a_column_of_another_type_is_refused_and_nothing_is_changed(changed: dict[str, str], said: str) -> None:
    client = Client({**OURS, **changed})
    with pytest.raises(SinkError, match=rf"^{TABLE}: {said}.*Nothing was loaded.*schema\.py"):
        ensure(client, {**COLUMNS, "new": "INT64"})
    assert client.updated == []


@pytest.mark.parametrize(
    "client",
    [
        Client(OURS, partition=None),
        Client(OURS, partition="lpep_pickup_datetime"),
        Client({**COLUMNS, "pickup_date": "DATE"}),
    ],
    ids=["not partitioned", "by another column", "without a slice"],
)
def test_a_table_of_somebody_else_is_refused_and_left_alone(client: Client) -> None:
    with pytest.raises(SinkError, match=r"exists and is not partitioned by pickup_date with a column _slice.*drop it"):
        ensure(client, {**COLUMNS, "new": "INT64"})
    assert client.updated == []
