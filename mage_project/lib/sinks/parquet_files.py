"""A dataset's rows as Parquet: one file, or a few for each day, in memory that doesn't grow with the rows.

Rows come in any order of days: even a month that is almost in order has late rows at its end. They
wait for the rest of their day in one local file; then each day is read back, sorted by its time column and
encoded. Nothing is kept open for a day, so that a month with 400 wrong dates costs what one with 31 does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import DataError, SinkError

# one row group, and the most rows of a day's file: about 7 MB of trips in memory, 1 MB stored
FILE_ROWS = 49_152
# how many rows may wait in memory for the rest of their day: about 20 MB of trips
WAITING_ROWS = 131_072
# BigQuery refuses a job that touches more partitions
MOST_DAYS = 4000
DAY_MICROSECONDS = 86_400_000_000
# the name that Hive, Spark and BigQuery read as a null
NO_DAY = "__HIVE_DEFAULT_PARTITION__"
_NULL = int(np.iinfo(np.int64).min) // DAY_MICROSECONDS + 1
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class DayRows:
    """Rows of one day, at most FILE_ROWS of them; `day` is as it stands in a partition's name."""

    day: str
    rows: pa.Table


def write_one_file(dataset: Dataset, path: Path) -> int:
    """Write all rows, in their order, to one zstd-compressed Parquet file; give the rows it holds."""
    with _on_disk(dataset.slice, path), pq.ParquetWriter(path, dataset.schema, compression="zstd") as writer:
        for table in _in_pieces(dataset.batches(), dataset.schema, FILE_ROWS):
            writer.write_table(table, row_group_size=FILE_ROWS)
    return pq.read_metadata(path).num_rows


def encode(table: pa.Table, sort_by: str) -> pa.Buffer:
    """Give a table as a Parquet file in memory, one row group sorted by `sort_by`, zstd-compressed."""
    # Arrow's sort is stable: the same rows in the same order give the same bytes
    ordered = table.take(pc.sort_indices(table.column(sort_by)))
    sink = pa.BufferOutputStream()
    pq.write_table(ordered, sink, compression="zstd", row_group_size=FILE_ROWS)
    return sink.getvalue()


def rows_by_day(dataset: Dataset, column: str, spill: Path) -> Generator[DayRows]:
    """Give a dataset's rows a day of the timestamp `column` at a time, whatever their order.

    Rows wait in memory for the rest of their day, and in the file `spill` when they are too many.
    Raises DataError when the column is no timestamp in microseconds or holds more days than a table
    can have partitions, SinkError when the disk is full.
    """
    if column not in dataset.schema.names or dataset.schema.field(column).type != pa.timestamp("us"):
        raise DataError(
            f"{dataset.slice}: the rows can't be laid out by day of {column!r}: it is not a column of timestamps. "
            f"The columns are {', '.join(dataset.schema.names)}."
        )
    waiting = _WaitingDays(dataset.schema, spill)
    with _on_disk(dataset.slice, spill):
        for batch in dataset.batches():
            for day, rows in _split(batch, column):
                waiting.add(day, rows)
            if len(waiting.days) > MOST_DAYS:
                raise DataError(
                    f"{dataset.slice}: column {column!r} holds more than {MOST_DAYS:,} different days, which is more "
                    "than one load may touch. Nothing was published. Is it the right column, are its times right?"
                )
        yield from waiting.by_day()
    spill.unlink(missing_ok=True)


class _WaitingDays:
    """Rows that wait for the rest of their day: in memory up to WAITING_ROWS, then on disk, a day's together."""

    def __init__(self, schema: pa.Schema, spill: Path) -> None:
        self._schema, self._path = schema, spill
        self._held: dict[int, list[pa.RecordBatch]] = {}
        self._held_rows = 0
        self._writer: pa.RecordBatchFileWriter | None = None
        self._spilt: dict[int, list[int]] = {}
        self._written = 0

    @property
    def days(self) -> set[int]:
        """The days that rows were taken of."""
        return {*self._held, *self._spilt}

    def add(self, day: int, rows: pa.RecordBatch) -> None:
        """Take rows of one day."""
        self._held.setdefault(day, []).append(rows)
        self._held_rows += rows.num_rows
        if self._held_rows > WAITING_ROWS:
            self._spill()

    def by_day(self) -> Iterator[DayRows]:
        """Give all rows, a day at a time, in the order of days; no more are taken afterwards."""
        if self._writer is None:
            for day in sorted(self._held):
                yield from self._files(day, iter(self._held[day]))
            return
        self._spill()
        self._writer.close()
        with pa.OSFile(str(self._path), "rb") as file, pa.ipc.open_file(file) as reader:
            for day in sorted(self._spilt):
                yield from self._files(day, (reader.get_batch(index) for index in self._spilt[day]))

    def _files(self, day: int, batches: Iterator[pa.RecordBatch]) -> Iterator[DayRows]:
        for rows in _in_pieces(batches, self._schema, FILE_ROWS):
            yield DayRows(_day_name(day), rows)

    def _spill(self) -> None:
        """Write what is held to disk, each day's rows as one batch."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(str(self._path), self._schema)
        for day, held in self._held.items():
            together = pa.Table.from_batches(held, self._schema).combine_chunks()
            for batch in together.to_batches():
                self._writer.write_batch(batch)
                self._spilt.setdefault(day, []).append(self._written)
                self._written += 1
        self._held, self._held_rows = {}, 0


def _split(batch: pa.RecordBatch, column: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Split a batch by day; in each part the rows keep their order."""
    days = _day_numbers(batch.column(column))
    order: np.ndarray | None = None
    if np.any(days[1:] < days[:-1]):
        order = np.argsort(days, kind="stable")
        days = days[order]
    bounds = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for start, end in pairwise(bounds):
        if order is not None or end - start < batch.num_rows // 2:
            # a copy: a few rows would otherwise hold the whole batch in memory while they wait
            picked = np.arange(start, end) if order is None else order[start:end]
            yield int(days[start]), batch.take(pa.array(picked))
        else:
            yield int(days[start]), batch.slice(start, end - start)


def _day_numbers(times: pa.Array) -> np.ndarray:
    """Give the days since 1970 of timestamps in microseconds; a null's is _NULL."""
    numbers = times.cast(pa.int64()).fill_null(_NULL * DAY_MICROSECONDS)
    return np.floor_divide(numbers.to_numpy(zero_copy_only=False), DAY_MICROSECONDS)


def _day_name(number: int) -> str:
    if number == _NULL:
        return NO_DAY
    with suppress(OverflowError):
        return (_EPOCH + timedelta(days=number)).isoformat()
    raise DataError(f"day {number} after 1970 is no date of the years 1 to 9999. Nothing was written. Mend the file.")


def _in_pieces(batches: Iterator[pa.RecordBatch], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Put batches together, or cut them, to tables of `rows` rows; the last one may be shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(waiting, schema)
            yield table.slice(0, rows)
            rest = table.slice(rows)
            waiting, count = rest.to_batches(), len(rest)
    if count:
        yield pa.Table.from_batches(waiting, schema)


class _on_disk:  # noqa: N801 - reads as a word in `with`
    """Turn a full disk into one paragraph, and leave no half file behind."""

    def __init__(self, slice: str, path: Path) -> None:
        self.slice, self.path = slice, path

    def __enter__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        self.path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise SinkError(
                f"{self.slice}: can't write {self.path.name} in {self.path.parent}: {error.strerror or error}. Free "
                "some space (`./cantrip clean`), or set CANTRIP_HOME to a larger disk. Nothing was published."
            ) from error
