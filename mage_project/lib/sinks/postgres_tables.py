"""Tables, columns and partitions in PostgreSQL: names, types and the statements that make them.

Every table carries `_slice`, the slice that wrote the row. A table of big slices is partitioned by
list over it, one partition a slice; a table of small ones is plain, with an index.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection, CursorResult, text

from mage_project.lib.errors import DataError, SinkError

SLICE_COLUMN = "_slice"
MAX_NAME = 63  # bytes; PostgreSQL cuts what is longer, without an error

_EXACT_TYPES = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp without time zone",
}


def quoted(*names: str) -> str:
    """Quote identifiers and join them with dots: safe whatever they contain."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def column_name(name: str) -> str:
    """Give the column's name in PostgreSQL: the publisher's, in lower case."""
    return name.lower()


def sql_type(field: pa.Field) -> str:
    """Give the explicit PostgreSQL type of an Arrow field, or raise DataError."""
    if field.type in _EXACT_TYPES:
        return _EXACT_TYPES[field.type]
    if pa.types.is_timestamp(field.type) and field.type.unit == "us" and field.type.tz:
        return "timestamp with time zone"
    raise DataError(
        f"column {field.name!r} has the Arrow type {field.type}, which has no exact type in PostgreSQL. "
        "Cast it in the feed's schema.py, for example to float64, string or timestamp('us')."
    )


def sql_columns(schema: pa.Schema) -> dict[str, str]:
    """Give {column: SQL type} for a dataset's schema. Raises DataError for names that would become one or be cut."""
    columns: dict[str, str] = {}
    for field in schema:
        name = column_name(field.name)
        if len(name.encode()) > MAX_NAME:
            raise DataError(
                f"the column name {name!r} is longer than the {MAX_NAME} bytes that PostgreSQL keeps of one. "
                "Rename it in the feed's schema.py."
            )
        if name in columns or name == SLICE_COLUMN:
            raise DataError(f"two columns are called {name!r} in lower case. Rename one in the feed's schema.py.")
        columns[name] = sql_type(field)
    return columns


def partition_name(table: str, slice: str, suffix: str = "") -> str:
    """Give the name of a slice's partition, unique within PostgreSQL's 63 bytes."""
    plain = f"{table}__{re.sub(r'[^a-z0-9]+', '_', slice.lower())}"
    digest = hashlib.sha256(f"{table}\0{slice}".encode()).hexdigest()[:8]
    room = MAX_NAME - len(digest) - len(suffix) - 1
    return f"{plain.encode()[:room].decode(errors='ignore')}_{digest}{suffix}"


def run_plain(connection: Connection, statement: str) -> CursorResult[*tuple[Any, ...]]:
    """Run a statement made of quoted names and literals as it stands: `:` and `%` in them mean nothing."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def literal(value: str) -> str:
    """Quote a string for statements that take no parameters."""
    return "'" + value.replace("'", "''") + "'"


def ensure_table(
    connection: Connection, schema: str, table: str, columns: dict[str, str], partitioned: bool
) -> list[str]:
    """Make schema and table when missing, and add columns that are new; give the names added.

    Runs in the caller's transaction. Raises SinkError when the table exists with other types.
    """
    for name in (schema, table):
        if len(name.encode()) > MAX_NAME:
            raise SinkError(
                f"{name!r} is longer than the {MAX_NAME} bytes that PostgreSQL keeps of a name. Shorten it."
            )
    # two first runs at once would race for the same catalog rows
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"ddl {schema}.{table}"}
    )
    run_plain(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    existing = columns_of(connection, schema, table)
    if not existing:
        run_plain(connection, _create_statement(schema, table, columns, partitioned))
        if not partitioned:
            run_plain(connection, f"CREATE INDEX ON {quoted(schema, table)} ({quoted(SLICE_COLUMN)})")
        return []
    _require_ours(connection, schema, table, existing, partitioned)
    added = [name for name in columns if name not in existing]
    for name in added:
        run_plain(connection, f"ALTER TABLE {quoted(schema, table)} ADD COLUMN {quoted(name)} {columns[name]}")
    require_same_types(existing, {name: columns[name] for name in columns if name in existing}, f"{schema}.{table}")
    return added


def columns_of(connection: Connection, schema: str, table: str) -> dict[str, str]:
    """Give {column: SQL type} of a table as the server has it; empty when there is no such table."""
    rows = connection.execute(
        text(
            "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a "
            "JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relname = :table AND a.attnum > 0 AND NOT a.attisdropped "
            "ORDER BY a.attnum"
        ),
        {"schema": schema, "table": table},
    )
    return {str(name): str(type_) for name, type_ in rows}


def require_same_types(existing: dict[str, str], wanted: dict[str, str], where: str) -> None:
    """Refuse to append into a column of another type: binary COPY would store garbage without a word."""
    for name, type_ in wanted.items():
        if existing.get(name) != type_:
            raise SinkError(
                f"{where}: column {name!r} is {existing.get(name, 'missing')} in the table, and {type_} in the data. "
                f"Nothing was loaded. Change the table (ALTER TABLE … ALTER COLUMN {name} TYPE {type_}) or the "
                "feed's schema.py."
            )


def _create_statement(schema: str, table: str, columns: dict[str, str], partitioned: bool) -> str:
    lines = [f"{quoted(name)} {type_}" for name, type_ in columns.items()]
    lines.append(f"{quoted(SLICE_COLUMN)} text NOT NULL")
    by_slice = f" PARTITION BY LIST ({quoted(SLICE_COLUMN)})" if partitioned else ""
    return f"CREATE TABLE {quoted(schema, table)} ({', '.join(lines)}){by_slice}"


def _require_ours(connection: Connection, schema: str, table: str, existing: dict[str, str], partitioned: bool) -> None:
    kind, key = connection.execute(
        text(
            "SELECT c.relkind, pg_get_partkeydef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = :schema AND c.relname = :table"
        ),
        {"schema": schema, "table": table},
    ).one()
    ours = key == f"LIST ({SLICE_COLUMN})" if partitioned else kind == "r" and SLICE_COLUMN in existing
    if not ours:
        wanted = (
            f"partitioned by list ({SLICE_COLUMN})" if partitioned else f"a plain table with a column {SLICE_COLUMN}"
        )
        raise SinkError(
            f"{schema}.{table} exists and is not {wanted}, so a slice of it can't be replaced. "
            "Nothing was loaded. Rename or drop it, and the next run makes it anew."
        )
