"""The PostgreSQL sink against a real server: what a slice holds after loads, re-runs, races and failures."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pytest
from sqlalchemy import Connection

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import DataError, ReconciliationError, SinkError
from mage_project.lib.runs import ledger
from mage_project.lib.runs.window import Window
from mage_project.lib.settings import PostgresSettings
from mage_project.lib.sinks import postgres
from mage_project.lib.sinks.postgres import PostgresTable
from mage_project.lib.sinks.receipt import Receipt
from tests.support.warehouse import Background, dataset_of, execute, query, relations, scalar, wait_until

JANUARY, FEBRUARY, MARCH = "green/2021-01", "green/2021-02", "green/2021-03"

Stage = Callable[..., Dataset]


def no_record(connection: Connection, receipt: Receipt) -> None:
    """For tests that don't look at the ledger."""


@pytest.fixture
def trips(warehouse: PostgresSettings, schema: str) -> PostgresTable:
    return PostgresTable(warehouse, schema, "trips")


@pytest.fixture
def zones(warehouse: PostgresSettings, schema: str) -> PostgresTable:
    return PostgresTable(warehouse, schema, "zones", partitioned=False)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    def stage(slice: str, columns: dict[str, Any] | pa.Table | int) -> Dataset:
        if isinstance(columns, int):
            columns = {"n": pa.array(range(columns), pa.int64()), "fare": pa.array([1.5] * columns, pa.float64())}
        return dataset_of(tmp_path, slice, columns)

    return stage


def counts(table: PostgresTable) -> dict[str, int]:
    """Give {slice: rows}."""
    return dict(query(table.server, f"SELECT _slice, count(*) FROM {table.schema}.{table.table} GROUP BY 1 ORDER BY 1"))


def numbers(table: PostgresTable, slice: str) -> list[int]:
    sql = f"SELECT n FROM {table.schema}.{table.table} WHERE _slice = %s ORDER BY n"
    return [n for (n,) in query(table.server, sql, slice)]


# what a slice holds after loads and re-runs


def test_a_first_load_makes_schema_table_and_partition_and_gives_a_receipt(trips: PostgresTable, stage: Stage) -> None:
    receipt = trips.replace(JANUARY, stage(JANUARY, 2500), no_record)
    assert counts(trips) == {JANUARY: 2500}
    assert numbers(trips, JANUARY) == list(range(2500))
    assert (receipt.sink, receipt.slice, receipt.rows) == ("postgres", JANUARY, 2500)
    assert receipt.where == f"{trips.server.address}/{trips.schema}.trips"
    assert receipt.bytes > 2500 * 16


def test_a_rerun_neither_adds_rows_nor_leaves_bloat_or_tables_aside(trips: PostgresTable, stage: Stage) -> None:
    sizes = []
    for _ in range(4):
        trips.replace(JANUARY, stage(JANUARY, 2000), no_record)
        sizes.append(
            scalar(
                trips.server,
                "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(%s::regclass)",
                f"{trips.schema}.trips",
            )
        )
        assert counts(trips) == {JANUARY: 2000}
        assert len(relations(trips.server, trips.schema)) == 2
    assert len(set(sizes)) == 1, sizes


@pytest.mark.parametrize("order", [(JANUARY, FEBRUARY, MARCH), (MARCH, JANUARY, FEBRUARY), (FEBRUARY, MARCH, JANUARY)])
def test_slices_come_in_any_order_and_twice(trips: PostgresTable, stage: Stage, order: tuple[str, ...]) -> None:
    rows = {JANUARY: 30, FEBRUARY: 20, MARCH: 10}
    for slice in (*order, *reversed(order)):
        trips.replace(slice, stage(slice, rows[slice]), no_record)
    assert counts(trips) == rows


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_slice_that_shrinks_keeps_nothing_of_what_it_was(
    trips: PostgresTable, stage: Stage, partitioned: bool
) -> None:
    table = replace(trips, partitioned=partitioned)
    for rows in (500, 3):
        table.replace(JANUARY, stage(JANUARY, rows), no_record)
    assert numbers(table, JANUARY) == [0, 1, 2]


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_dataset_without_rows_replaces_what_was_there(trips: PostgresTable, stage: Stage, partitioned: bool) -> None:
    table = replace(trips, partitioned=partitioned)
    for slice, rows in ((JANUARY, 5), (FEBRUARY, 7), (JANUARY, 0)):
        receipt = table.replace(slice, stage(slice, rows), no_record)
    assert receipt.rows == 0
    assert counts(table) == {FEBRUARY: 7}


def test_a_row_of_the_neighbouring_month_is_neither_lost_nor_doubled(trips: PostgresTable, stage: Stage) -> None:
    def month(slice: str, *days: datetime) -> Dataset:
        return stage(slice, {"pickup": pa.array(days, pa.timestamp("us"))})

    stray = datetime(2021, 3, 1, 0, 12)
    february, march = month(FEBRUARY, datetime(2021, 2, 3), stray), month(MARCH, datetime(2021, 3, 1, 0, 30))
    for slice, dataset in ((FEBRUARY, february), (MARCH, march), (FEBRUARY, february), (MARCH, march)):
        trips.replace(slice, dataset, no_record)
    first_of_march = query(
        trips.server, f"SELECT _slice, pickup FROM {trips.schema}.trips WHERE pickup >= '2021-03-01' ORDER BY 2"
    )
    assert first_of_march == [(FEBRUARY, stray), (MARCH, datetime(2021, 3, 1, 0, 30))]
    assert counts(trips) == {FEBRUARY: 2, MARCH: 1}


def test_small_slices_share_a_plain_table_with_an_index(zones: PostgresTable, stage: Stage) -> None:
    for slice, rows in (("AAPL/2023-08-01", 4), ("MSFT/2023-08-01", 5), ("AAPL/2023-08-01", 3)):
        zones.replace(slice, stage(slice, rows), no_record)
    assert counts(zones) == {"AAPL/2023-08-01": 3, "MSFT/2023-08-01": 5}
    assert relations(zones.server, zones.schema) == ["zones"]
    [(definition,)] = query(zones.server, "SELECT indexdef FROM pg_indexes WHERE schemaname = %s", zones.schema)
    assert definition.endswith("(_slice)")


# columns and types


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_new_column_is_null_for_earlier_slices_and_may_be_missing_again(
    trips: PostgresTable, stage: Stage, partitioned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    table = replace(trips, partitioned=partitioned)
    table.replace(JANUARY, stage(JANUARY, {"n": [1]}), no_record)
    table.replace(FEBRUARY, stage(FEBRUARY, {"n": [2], "Congestion_Fee": [0.75]}), no_record)
    table.replace(MARCH, stage(MARCH, {"n": [3]}), no_record)
    table.replace(JANUARY, stage(JANUARY, {"n": [4]}), no_record)
    sql = f"SELECT n, congestion_fee, _slice FROM {table.schema}.trips ORDER BY n"
    assert query(table.server, sql) == [(2, 0.75, FEBRUARY), (3, None, MARCH), (4, None, JANUARY)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{table.where}: new column congestion_fee added, null for earlier slices"
    ]


@pytest.mark.parametrize(
    ("column", "in_table", "in_data"),
    [
        (pa.array([1], pa.float64()), "bigint", "double precision"),
        (pa.array([1], pa.int64()), "double precision", "bigint"),
        (pa.array([0], pa.timestamp("us")), "bigint", "timestamp without time zone"),
        (pa.array(["12345678"]), "bigint", "text"),
        (pa.array([0], pa.timestamp("us", "UTC")), "timestamp without time zone", "timestamp with time zone"),
        (pa.array([1], pa.int32()), "bigint", "integer"),
    ],
)
@pytest.mark.parametrize("partitioned", [True, False])
def test_a_type_conflict_is_refused_before_a_byte_is_copied(
    trips: PostgresTable, stage: Stage, column: pa.Array, in_table: str, in_data: str, partitioned: bool
) -> None:
    """Binary COPY would store 5e-324 for 1 here, without an error."""
    table = replace(trips, partitioned=partitioned)
    first = {"bigint": pa.array([7], pa.int64()), "double precision": pa.array([7.0])}.get(
        in_table, pa.array([7], pa.timestamp("us"))
    )
    table.replace(JANUARY, stage(JANUARY, {"value": first}), no_record)
    before = query(table.server, f"SELECT * FROM {table.schema}.trips")
    for slice in (JANUARY, FEBRUARY):
        with pytest.raises(SinkError) as refused:
            table.replace(slice, stage(slice, {"value": column}), no_record)
        text = str(refused.value)
        assert f"column 'value' is {in_table} in the table, and {in_data} in the data" in text
        assert f"ALTER COLUMN value TYPE {in_data}" in text
    assert query(table.server, f"SELECT * FROM {table.schema}.trips") == before
    assert len(relations(table.server, table.schema)) == (2 if partitioned else 1)


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([-(2**63), 2**63 - 1, 0, None], pa.int64()),
        ([-(2**31), 2**31 - 1, None], pa.int32()),
        ([-(2**15), 2**15 - 1, None], pa.int16()),
        ([5e-324, 1.7976931348623157e308, -0.0, 0.1, None, math.inf, -math.inf], pa.float64()),
        ([0.5, None], pa.float32()),
        ([True, False, None], pa.bool_()),
        ([date(1, 1, 1), date(1969, 12, 31), date(9999, 12, 31), None], pa.date32()),
        ([datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(1970, 1, 1)], pa.timestamp("us")),
        ([datetime(2008, 12, 31, 23, 0, 0, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), None], pa.timestamp("us")),
        ([datetime(2021, 3, 14, 2, 30, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        (["", None, "N/A", "NULL", "\\N", "\\.", "a\nb\r\n\tc", 'it\'s "quoted", {1,2}', "ü☃𝄞 نص"], pa.string()),
        (["large", None], pa.large_string()),
        ([b"\x00\xff", b"", None], pa.binary()),
    ],
    ids=str,
)
def test_values_arrive_bit_by_bit(trips: PostgresTable, stage: Stage, values: list, type: pa.DataType) -> None:
    table = pa.table({"i": pa.array(range(len(values)), pa.int64()), "value": pa.array(values, type)})
    trips.replace(JANUARY, stage(JANUARY, table), no_record)
    found = [value for (value,) in query(trips.server, f"SELECT value FROM {trips.schema}.trips ORDER BY i")]
    found = [bytes(value) if isinstance(value, memoryview) else value for value in found]
    assert found == values
    assert [math.copysign(1, v) for v in found if v == 0.0] == [math.copysign(1, v) for v in values if v == 0.0]


def test_not_a_number_stays_one(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, {"value": pa.array([math.nan], pa.float64())}), no_record)
    assert scalar(trips.server, f"SELECT value = 'NaN' FROM {trips.schema}.trips")


def test_a_type_without_an_equal_in_postgresql_is_refused_by_name(trips: PostgresTable, stage: Stage) -> None:
    with pytest.raises(DataError, match="column 'odd' has the Arrow type uint64"):
        trips.replace(JANUARY, stage(JANUARY, {"odd": pa.array([1], pa.uint64())}), no_record)
    assert relations(trips.server, trips.schema) == []


def test_a_nul_in_text_is_refused_and_the_old_rows_stay(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, {"value": ["old"]}), no_record)
    with pytest.raises(SinkError, match="refused the load") as refused:
        trips.replace(JANUARY, stage(JANUARY, {"value": ["a", "nul\0here"]}), no_record)
    assert "holds what it held before" in str(refused.value)
    assert query(trips.server, f"SELECT value FROM {trips.schema}.trips") == [("old",)]
    assert len(relations(trips.server, trips.schema)) == 2


@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "plain",
        'sa"y',
        "per%cent %s %(x)s",
        ":colon :x",
        "a::b",
        "quo'te",
        "ünï☃" * 7,
        "semi; DROP TABLE x --",
        "select",
    ],
)
def test_names_may_hold_anything(
    warehouse: PostgresSettings, schema: str, stage: Stage, name: str, partitioned: bool
) -> None:
    ugly = f"{schema} {name}"[:30]
    table = PostgresTable(warehouse, ugly, name, partitioned)
    slice, other = f"slice {name}/2021-01 \\ é", f"slice {name}/2021-02"
    try:
        for each, rows in ((slice, 3), (other, 4), (slice, 2)):
            dataset = stage(each, {name: pa.array(range(rows), pa.int64()), f"{name} 2": ["x"] * rows})
            table.replace(each, dataset, no_record)
        column, where = postgres.quoted(name.lower()), postgres.quoted(ugly, name)
        of_slice = f"SELECT {column} FROM {where} WHERE _slice = {postgres.literal(slice)} ORDER BY 1"
        assert query(warehouse, of_slice) == [(0,), (1,)]
        assert scalar(warehouse, f"SELECT count(*) FROM {where}") == 6
        assert len(relations(warehouse, ugly)) == (3 if partitioned else 1)
    finally:
        execute(warehouse, f"DROP SCHEMA IF EXISTS {postgres.quoted(ugly)} CASCADE")


def test_a_name_that_postgresql_would_cut_is_refused(trips: PostgresTable, stage: Stage) -> None:
    """Two columns, or two tables, that differ in their ends only would become one."""
    with pytest.raises(DataError, match="longer than the 63 bytes"):
        trips.replace(JANUARY, stage(JANUARY, {"n" * 64: [1]}), no_record)
    with pytest.raises(SinkError, match="longer than the 63 bytes"):
        replace(trips, table="ü" * 32).replace(JANUARY, stage(JANUARY, {"n": [1]}), no_record)
    assert relations(trips.server, trips.schema) == []


def test_two_columns_that_differ_in_case_only_are_refused(trips: PostgresTable, stage: Stage) -> None:
    with pytest.raises(DataError, match="two columns are called 'fee'"):
        trips.replace(JANUARY, stage(JANUARY, {"fee": [1], "Fee": [2]}), no_record)


def test_a_column_of_the_data_called_slice_is_refused(trips: PostgresTable, stage: Stage) -> None:
    with pytest.raises(DataError, match="'_slice'"):
        trips.replace(JANUARY, stage(JANUARY, {"n": [1], "_slice": ["mine"]}), no_record)


# what else is in the database


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE {0}.trips (n bigint)",
        "CREATE TABLE {0}.trips (n bigint, _slice text)",
        "CREATE TABLE {0}.trips (n bigint, _slice text) PARTITION BY RANGE (n)",
        "CREATE TABLE {0}.trips (n bigint, _slice text) PARTITION BY LIST (n)",
        "CREATE VIEW {0}.trips AS SELECT 1::bigint AS n, 'x' AS _slice",
    ],
)
def test_a_table_that_is_not_ours_is_refused_and_left_as_it_is(
    trips: PostgresTable, stage: Stage, statement: str
) -> None:
    execute(trips.server, f"CREATE SCHEMA {trips.schema}")
    execute(trips.server, statement.format(trips.schema))
    before = query(trips.server, f"SELECT * FROM {trips.schema}.trips")
    with pytest.raises(SinkError, match=r"exists and is not partitioned by list \(_slice\)") as refused:
        trips.replace(JANUARY, stage(JANUARY, {"n": [1]}), no_record)
    assert "Rename or drop it" in str(refused.value)
    assert query(trips.server, f"SELECT * FROM {trips.schema}.trips") == before


def test_a_plain_table_without_the_slice_column_is_refused_for_small_slices(zones: PostgresTable, stage: Stage) -> None:
    execute(zones.server, f"CREATE SCHEMA {zones.schema}")
    execute(zones.server, f"CREATE TABLE {zones.schema}.zones AS SELECT 1::bigint AS n")
    with pytest.raises(SinkError, match="is not a plain table with a column _slice"):
        zones.replace(JANUARY, stage(JANUARY, {"n": [2]}), no_record)
    assert query(zones.server, f"SELECT n FROM {zones.schema}.zones") == [(1,)]


def test_an_index_that_a_user_made_survives_a_rerun_and_covers_the_new_partition(
    trips: PostgresTable, stage: Stage
) -> None:
    trips.replace(JANUARY, stage(JANUARY, 10), no_record)
    execute(trips.server, f"CREATE INDEX by_fare ON {trips.schema}.trips (fare)")
    for slice in (JANUARY, FEBRUARY, JANUARY):
        trips.replace(slice, stage(slice, 20), no_record)
    indexed = query(
        trips.server,
        "SELECT t.relname FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid "
        "JOIN pg_class t ON t.oid = x.indrelid WHERE i.inhparent = %s::regclass",
        f"{trips.schema}.by_fare",
    )
    partitions = set(relations(trips.server, trips.schema)) - {"trips"}
    assert {name for (name,) in indexed} == partitions
    assert len(indexed) == 2
    assert scalar(
        trips.server, "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", f"{trips.schema}.by_fare"
    )


def test_a_constraint_that_a_user_made_refuses_the_rows_that_break_it_and_survives(
    trips: PostgresTable, stage: Stage
) -> None:
    trips.replace(JANUARY, stage(JANUARY, {"n": [1, 2]}), no_record)
    execute(trips.server, f"ALTER TABLE {trips.schema}.trips ADD CONSTRAINT positive CHECK (n > 0)")
    execute(trips.server, f"ALTER TABLE {trips.schema}.trips ADD UNIQUE (n, _slice)")
    trips.replace(JANUARY, stage(JANUARY, {"n": [3]}), no_record)
    for wrong in ([-1], [5, 5]):
        with pytest.raises(SinkError, match=r"violates|duplicate"):
            trips.replace(JANUARY, stage(JANUARY, {"n": wrong}), no_record)
    assert numbers(trips, JANUARY) == [3]
    with pytest.raises(psycopg2.errors.CheckViolation):
        execute(trips.server, f"INSERT INTO {trips.schema}.trips VALUES (-1, '{JANUARY}')")


def test_a_view_over_the_table_survives_a_rerun(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    execute(
        trips.server,
        f"CREATE VIEW {trips.schema}.per_slice AS SELECT _slice, count(*) FROM {trips.schema}.trips GROUP BY 1",
    )
    trips.replace(JANUARY, stage(JANUARY, 5), no_record)
    assert query(trips.server, f"SELECT * FROM {trips.schema}.per_slice") == [(JANUARY, 5)]


def test_a_view_over_the_partition_itself_is_named_and_nothing_is_lost(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    [partition] = set(relations(trips.server, trips.schema)) - {"trips"}
    execute(trips.server, f"CREATE VIEW {trips.schema}.mine AS SELECT * FROM {trips.schema}.{partition}")
    with pytest.raises(SinkError, match="other objects depend on it"):
        trips.replace(JANUARY, stage(JANUARY, 5), no_record)
    assert counts(trips) == {JANUARY: 3}
    assert set(relations(trips.server, trips.schema)) == {"trips", partition}


def test_what_a_killed_load_left_aside_is_removed_by_the_next_run_of_its_slice(
    trips: PostgresTable, stage: Stage
) -> None:
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    for slice in (JANUARY, FEBRUARY):
        left = postgres.partition_name("trips", slice, "_a0ff1ce")
        execute(trips.server, f"CREATE TABLE {trips.schema}.{left} (LIKE {trips.schema}.trips)")
    trips.replace(JANUARY, stage(JANUARY, 4), no_record)
    assert counts(trips) == {JANUARY: 4}
    # February's may belong to a run that is under way
    assert sum(name.endswith("_a0ff1ce") for name in relations(trips.server, trips.schema)) == 1


# the ledger, in the same transaction


def entry_for(dataset: Dataset, run_id: str = "1:test") -> ledger.Entry:
    window = Window(date(2021, 1, 1), date(2021, 2, 1))
    started = datetime.now(UTC)
    return ledger.Entry(
        run_id,
        "api_to_postgres",
        window,
        {},
        started,
        dataset.slice,
        dataset.fetched,
        dataset.rows,
        dict(dataset.dropped),
    )


def ledger_rows(server: PostgresSettings, run_id: str) -> list[dict]:
    return ledger.entries_of(server, run_id)


@pytest.mark.parametrize("partitioned", [True, False])
def test_the_ledgers_row_is_written_with_the_slice(trips: PostgresTable, stage: Stage, partitioned: bool) -> None:
    dataset, run_id = stage(JANUARY, 12), f"{trips.schema}:done"
    entry = entry_for(dataset, run_id)
    replace(trips, partitioned=partitioned).replace(
        JANUARY, dataset, lambda connection, receipt: ledger.write_done(connection, entry, receipt)
    )
    [row] = ledger_rows(trips.server, run_id)
    assert (row["state"], row["fetched"], row["kept"]) == ("done", 12, 12)
    [receipt] = ledger.receipts_of(row)
    assert (receipt["sink"], receipt["rows"]) == ("postgres", 12)


@pytest.mark.parametrize("partitioned", [True, False])
def test_when_the_ledger_cannot_be_written_the_slice_is_unchanged(
    trips: PostgresTable, stage: Stage, partitioned: bool
) -> None:
    table, run_id = replace(trips, partitioned=partitioned), f"{trips.schema}:undone"
    table.replace(JANUARY, stage(JANUARY, 3), no_record)
    dataset = stage(JANUARY, 9)

    def write_then_fail(connection: Connection, receipt: Receipt) -> None:
        ledger.write_done(connection, entry_for(dataset, run_id), receipt)
        raise RuntimeError("the ledger's disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        table.replace(JANUARY, dataset, write_then_fail)
    assert numbers(table, JANUARY) == [0, 1, 2]
    assert ledger_rows(table.server, run_id) == []
    assert len(relations(table.server, table.schema)) == (2 if partitioned else 1)


def test_a_ledger_that_does_not_balance_publishes_nothing(trips: PostgresTable, stage: Stage) -> None:
    dataset = stage(JANUARY, 9)
    entry = replace(entry_for(dataset, f"{trips.schema}:odd"), fetched=10)
    with pytest.raises(ReconciliationError, match="10 rows were fetched, but 9 kept and 0 dropped"):
        trips.replace(JANUARY, dataset, lambda connection, receipt: ledger.write_done(connection, entry, receipt))
    assert counts(trips) == {}


@pytest.mark.parametrize("partitioned", [True, False])
@pytest.mark.parametrize("lie", [-1, 1])
def test_a_dataset_whose_counts_lie_publishes_nothing(
    trips: PostgresTable, stage: Stage, lie: int, partitioned: bool
) -> None:
    table = replace(trips, partitioned=partitioned)
    table.replace(JANUARY, stage(JANUARY, 3), no_record)
    dataset = stage(JANUARY, 9)
    with pytest.raises(ReconciliationError, match=f"{9 + lie} rows were kept, but 9 arrived"):
        table.replace(JANUARY, replace(dataset, fetched=dataset.fetched + lie), no_record)
    assert numbers(table, JANUARY) == [0, 1, 2]
    assert len(relations(table.server, table.schema)) == (2 if partitioned else 1)


def test_a_source_that_dies_in_the_middle_of_its_rows_changes_nothing(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    dataset = stage(JANUARY, 5000)
    whole = dataset.path.read_bytes()
    dataset.path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    with pytest.raises(Exception):  # noqa: B017 - whatever Arrow makes of it
        trips.replace(JANUARY, dataset, no_record)
    assert numbers(trips, JANUARY) == [0, 1, 2]
    assert len(relations(trips.server, trips.schema)) == 2


# several at once


class Gate:
    """A ledger callback that holds its run inside the publishing transaction until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection: Connection, receipt: Receipt) -> None:
        self.reached.set()
        assert self.opened.wait(60)


def waits_for_advisory_lock(server: PostgresSettings) -> int:
    return scalar(server, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_reader_sees_the_old_rows_or_the_new_and_never_anything_else(
    trips: PostgresTable, stage: Stage, partitioned: bool
) -> None:
    table = replace(trips, partitioned=partitioned)
    table.replace(JANUARY, stage(JANUARY, 1000), no_record)
    table.replace(FEBRUARY, stage(FEBRUARY, 10), no_record)
    done = threading.Event()

    def read() -> set[tuple[int, int]]:
        seen = set()
        connection = psycopg2.connect(table.server.url())
        connection.autocommit = True
        with connection.cursor() as cursor:
            while not done.is_set():
                cursor.execute(
                    f"SELECT count(*) FILTER (WHERE _slice = '{JANUARY}'), "
                    f"count(*) FILTER (WHERE _slice = '{FEBRUARY}') FROM {table.schema}.trips"
                )
                seen.add(cursor.fetchone())
                cursor.execute(f"SELECT count(*) FROM {table.schema}.trips WHERE _slice = '{JANUARY}'")
                seen.add((cursor.fetchone()[0], 10))
        connection.close()
        return seen

    readers = [Background(read) for _ in range(2)]
    try:
        for rows in (700, 1000, 700, 1000, 700):
            table.replace(JANUARY, stage(JANUARY, rows), no_record)
    finally:
        done.set()
    for reader in readers:
        assert reader.result() <= {(1000, 10), (700, 10)}


@pytest.mark.parametrize("partitioned", [True, False])
def test_of_two_runs_of_one_slice_the_second_waits_and_wins(
    trips: PostgresTable, stage: Stage, partitioned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    table, gate = replace(trips, partitioned=partitioned), Gate()
    first = Background(table.replace, JANUARY, stage(JANUARY, 3), gate)
    assert gate.reached.wait(60)
    second = Background(table.replace, JANUARY, stage(JANUARY, 5), no_record)
    wait_until(lambda: waits_for_advisory_lock(table.server), "the second run to wait for the slice")
    assert "another run is replacing" in caplog.text
    gate.opened.set()
    assert first.result().rows == 3
    assert second.result().rows == 5
    assert numbers(table, JANUARY) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("partitioned", [True, False])
def test_runs_of_different_slices_at_once_all_succeed(trips: PostgresTable, stage: Stage, partitioned: bool) -> None:
    """On a table that isn't there yet, too: they race to make it."""
    table, slices = replace(trips, partitioned=partitioned), [f"green/2021-{month:02}" for month in range(1, 7)]
    for _ in range(2):
        runs = [Background(table.replace, slice, stage(slice, 50 + i), no_record) for i, slice in enumerate(slices)]
        assert [run.result().rows for run in runs] == [50, 51, 52, 53, 54, 55]
    assert counts(table) == {slice: 50 + i for i, slice in enumerate(slices)}
    assert len(relations(table.server, table.schema)) == (7 if partitioned else 1)


def test_a_slice_that_stays_locked_is_an_error_that_says_what_to_do(trips: PostgresTable, stage: Stage) -> None:
    table = replace(trips, lock_seconds=0.2)
    table.replace(JANUARY, stage(JANUARY, 3), no_record)
    holder = psycopg2.connect(table.server.url())
    try:
        with holder.cursor() as cursor:
            cursor.execute(f"SELECT pg_advisory_lock(hashtextextended('{table.schema}.trips/{JANUARY}', 0))")
        with pytest.raises(SinkError, match="another run has been replacing this slice") as refused:
            table.replace(JANUARY, stage(JANUARY, 5), no_record)
        table.replace(FEBRUARY, stage(FEBRUARY, 2), no_record)
    finally:
        holder.close()
    assert "raise SLICE_LOCK_SECONDS" in str(refused.value)
    assert counts(table) == {JANUARY: 3, FEBRUARY: 2}


def test_a_swap_that_readers_hold_up_lets_others_pass_tries_again_and_succeeds(
    trips: PostgresTable, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_out = threading.Event()
    is_lock_timeout = postgres.is_lock_timeout

    def noticed(error: Exception) -> bool:
        timed_out.set()
        return is_lock_timeout(error)

    monkeypatch.setattr(postgres, "SWAP_LOCK_MS", 100)
    monkeypatch.setattr(postgres, "is_lock_timeout", noticed)
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    reader = psycopg2.connect(trips.server.url())
    try:
        with reader.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {trips.schema}.trips")
            run = Background(trips.replace, JANUARY, stage(JANUARY, 5), no_record)
            assert timed_out.wait(60)
            assert counts(trips) == {JANUARY: 3}
            reader.commit()
    finally:
        reader.close()
    assert run.result().rows == 5
    assert counts(trips) == {JANUARY: 5}
    assert len(relations(trips.server, trips.schema)) == 2


def test_a_swap_that_readers_hold_up_for_too_long_fails_and_leaves_nothing_aside(
    trips: PostgresTable, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "SWAP_LOCK_MS", 100)
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)
    reader = psycopg2.connect(trips.server.url())
    try:
        with reader.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {trips.schema}.trips")
            with pytest.raises(SinkError, match="lock timeout"):
                replace(trips, lock_seconds=0.3).replace(JANUARY, stage(JANUARY, 5), no_record)
    finally:
        reader.close()
    assert counts(trips) == {JANUARY: 3}
    assert len(relations(trips.server, trips.schema)) == 2


def test_a_run_whose_server_connection_is_cut_changes_nothing(trips: PostgresTable, stage: Stage) -> None:
    trips.replace(JANUARY, stage(JANUARY, 3), no_record)

    def cut(connection: Connection, receipt: Receipt) -> None:
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        query(trips.server, "SELECT pg_terminate_backend(%s)", own)

    with pytest.raises(SinkError, match=r"refused the load|can't be reached"):
        trips.replace(JANUARY, stage(JANUARY, 5), cut)
    assert counts(trips) == {JANUARY: 3}
