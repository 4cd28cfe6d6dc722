"""Tables in BigQuery: types, schemas and the statements that replace a slice."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from google.api_core import exceptions

from mage_project.lib.errors import DataError, SinkError
from mage_project.lib.manifest import Manifest

if TYPE_CHECKING:
    from google.cloud import bigquery

SLICE_COLUMN = "_slice"

_TYPES = {
    pa.bool_(): "BOOL",
    pa.int16(): "INT64",
    pa.int32(): "INT64",
    pa.int64(): "INT64",
    pa.float32(): "FLOAT64",
    pa.float64(): "FLOAT64",
    pa.string(): "STRING",
    pa.large_string(): "STRING",
    pa.binary(): "BYTES",
    pa.date32(): "DATE",
    # a time without a zone, as the publisher writes it: Parquet says so, and BigQuery keeps it so
    pa.timestamp("us"): "DATETIME",
}
# the API answers with the names that it had before standard SQL
_OLD_NAMES = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}


def bigquery_type(field: pa.Field) -> str:
    """Give the BigQuery type of an Arrow field, or raise DataError."""
    if field.type in _TYPES:
        return _TYPES[field.type]
    if pa.types.is_timestamp(field.type) and field.type.unit == "us" and field.type.tz:
        return "TIMESTAMP"
    raise DataError(
        f"column {field.name!r} has the Arrow type {field.type}, which has no exact type in BigQuery. "
        "Cast it in the feed's schema.py, for example to float64, string or timestamp('us')."
    )


def quoted(name: str) -> str:
    """Quote a column's name, or a table's whole path, for SQL."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(value: str) -> str:
    """Quote a text for SQL: JSON's escapes are BigQuery's, too."""
    return json.dumps(value, ensure_ascii=False)


def ensure_table(
    client: bigquery.Client, table: str, columns: Mapping[str, str], partition: str, cluster_by: Iterable[str]
) -> list[str]:
    """Make the table when it is missing, and add columns that are new; give the names added.

    Columns that the data lacks stay, null for its rows. Raises SinkError for every other difference.
    """
    from google.cloud import bigquery

    wanted = [bigquery.SchemaField(name, type_) for name, type_ in columns.items()]
    own = [bigquery.SchemaField(partition, "DATE"), bigquery.SchemaField(SLICE_COLUMN, "STRING", mode="REQUIRED")]
    try:
        existing = client.get_table(table)
    except exceptions.NotFound:
        made = bigquery.Table(table, schema=[*wanted, *own])
        made.time_partitioning = bigquery.TimePartitioning(field=partition)
        made.clustering_fields = [name for name in cluster_by if name in columns] or None
        existing = client.create_table(made, exists_ok=True)
    found = {field.name.lower(): _OLD_NAMES.get(field.field_type, field.field_type) for field in existing.schema}
    for name, type_ in {**columns, partition: "DATE", SLICE_COLUMN: "STRING"}.items():
        if name in found and found[name] != type_:
            raise SinkError(
                f"{table}: column {name!r} is {found[name]} in the table, and {type_} in the data. Nothing was loaded. "
                "Change the feed's schema.py, or make the table anew."
            )
    _require_ours(existing, table, found, partition)
    new = [field for field in wanted if field.name.lower() not in found]
    _add_columns(client, table, new)
    return [field.name for field in new]


def _add_columns(client: bigquery.Client, table: str, new: list[bigquery.SchemaField]) -> None:
    """Add nullable columns, by SQL: two slices that each add one at a time don't undo each other's."""
    for field in new:
        statement = f"ALTER TABLE {quoted(table)} ADD COLUMN IF NOT EXISTS {quoted(field.name)} {field.field_type}"
        client.query_and_wait(statement)
    if new:
        shown = client.get_table(table)
        unknown = [field for field in new if field.name not in {each.name.lower() for each in shown.schema}]
        if unknown:  # the local server's catalogue doesn't follow its tables
            shown.schema = [*shown.schema, *unknown]
            client.update_table(shown, ["schema"])


def _require_ours(existing: Any, table: str, found: Mapping[str, str], partition: str) -> None:
    by = existing.time_partitioning.field if existing.time_partitioning else None
    if by != partition or SLICE_COLUMN not in found:
        raise SinkError(
            f"{table} exists and is not partitioned by {partition} with a column {SLICE_COLUMN}, so a slice of it "
            "can't be replaced. Nothing was loaded. Rename or drop it, and the next run makes it anew."
        )


def replace_statements(
    table: str, staging: str, slice: str, columns: Mapping[str, str], partition: str, rows: int
) -> str:
    """Give the script that puts the staged rows in the slice's place, in one transaction.

    `columns` is {name in the staged table: name in the table}. The count is compared before the
    commit; an error in the script rolls the transaction back.
    """
    target = quoted(table)
    into = ", ".join(quoted(name) for name in [*columns.values(), partition, SLICE_COLUMN])
    taken = ", ".join(quoted(name) for name in [*columns, partition])
    of_slice = f"{quoted(SLICE_COLUMN)} = {literal(slice)}"
    held = f"(SELECT COUNT(*) FROM {target} WHERE {of_slice})"
    return f"""BEGIN TRANSACTION;
DELETE FROM {target} WHERE {of_slice};
INSERT INTO {target} ({into})
SELECT {taken}, {literal(slice)} FROM {quoted(staging)};
SELECT IF({held} = {rows}, {rows}, ERROR('{COUNT_DIFFERS}'));
COMMIT TRANSACTION;"""


COUNT_DIFFERS = "the slice does not hold the rows of its manifest"


def job_name(kind: str, table: str, slice: str, *attempt: str) -> str:
    """Give a job's id, or a table's name, of what BigQuery allows in both: letters, digits, `_`.

    A digest of the slice tells apart those that look alike without their other characters.
    """
    digest = hashlib.sha256(slice.encode()).hexdigest()[:8]
    return "_".join(re.sub(r"[^A-Za-z0-9]+", "_", part) for part in (kind, table, slice, digest, *attempt))


def require_free_names(columns: Iterable[str], manifest: Manifest) -> None:
    """Raise DataError when a column of the data has the name of one of ours."""
    for name in (manifest.partition_column, SLICE_COLUMN):
        if name in columns:
            raise DataError(
                f"{manifest.slice}: the data has a column {name!r}, the name of a column that every table here has of "
                "its own. Nothing was loaded. Rename it in the feed's schema.py."
            )
