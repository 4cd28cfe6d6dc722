"""Published months as tests need them: generated, then spoilt on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mage_project.lib.local import trips

WRITERS = {"parquet": trips.write_parquet, "csv.gz": trips.write_csv_gz, "csv": trips.write_csv}


def month_table(color: str = "green", month: str = "2021-01", rows: int = 600) -> pa.Table:
    """Give a generated month."""
    return pa.Table.from_batches(trips.generate_trips(color, month, rows))


def write_month(
    folder: Path,
    color: str = "green",
    month: str = "2021-01",
    rows: int = 600,
    format: str = "parquet",
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> Path:
    """Write a month as the publisher names it, after `change`."""
    path = folder / f"{color}_tripdata_{month}.{format}"
    path.unlink(missing_ok=True)
    table = change(month_table(color, month, rows))
    if len(table):
        WRITERS[format](table.to_batches(), path)
    else:
        pq.write_table(table, path)  # a row group can't be of 0 rows, as the publisher's one would be
    return path


def without_passengers(table: pa.Table) -> pa.Table:
    """Make every trip one of 0 passengers."""
    return with_column(table, "passenger_count", pa.array([0.0] * len(table)))


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Put `values` in the place of a column."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def kept_rows(table: pa.Table) -> int:
    """Count the rows that a load keeps: 0 passengers are known to be none, no number is unknown."""
    return len(table) - (pc.sum(pc.equal(table["passenger_count"], 0)).as_py() or 0)
