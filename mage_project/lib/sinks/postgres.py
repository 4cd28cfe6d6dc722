"""The PostgreSQL sink: a slice is loaded aside, then published in one short transaction.

The rows go by ADBC's binary COPY into a table of this attempt that nobody reads. One transaction
then puts it in the old slice's place (partition swap, or delete and insert for small slices) and
writes the ledger. Readers see the old rows or the new; a killed load leaves the old ones, and the
next run of the slice removes the table aside. A reader in REPEATABLE READ whose snapshot is older
than a swap finds that slice empty (PostgreSQL's DDL isn't versioned); READ COMMITTED never does.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import stamina
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import CantripError, ReconciliationError, SinkError
from mage_project.lib.settings import PostgresSettings
from mage_project.lib.sinks.postgres_server import engine_for, plain_reason
from mage_project.lib.sinks.postgres_tables import (
    SLICE_COLUMN,
    columns_of,
    ensure_table,
    literal,
    partition_name,
    quoted,
    require_same_types,
    run_plain,
    sql_columns,
)
from mage_project.lib.sinks.receipt import Receipt
from mage_project.lib.sinks.slice_lock import is_lock_timeout, slice_lock

logger = logging.getLogger(__name__)

# how long one try to swap may keep others queueing behind it
SWAP_LOCK_MS = 3000

Record = Callable[[Connection, Receipt], None]


@dataclass(frozen=True)
class PostgresTable:
    """A table to replace slices in. `partitioned`: one partition a slice (big slices), else plain (small ones)."""

    server: PostgresSettings
    schema: str
    table: str
    partitioned: bool = True
    lock_seconds: float = 600.0

    @property
    def where(self) -> str:
        """Server, database and table, for receipts and messages."""
        return f"{self.server.address}/{self.schema}.{self.table}"

    def replace(self, slice: str, dataset: Dataset, record: Record) -> Receipt:
        """Put the dataset's rows in the place of what `slice` held; `record` writes in the same transaction.

        Waits for another run of the slice, `lock_seconds` at most. Raises SinkError (nothing is
        changed), or ReconciliationError when the table aside doesn't hold the dataset's rows.
        """
        started = time.monotonic()
        columns = sql_columns(dataset.schema)
        engine = engine_for(self.server)
        try:
            with (
                _reported(self.where, slice),
                slice_lock(engine, f"{self.schema}.{self.table}", slice, self.lock_seconds),
            ):
                with engine.begin() as connection:
                    added = ensure_table(connection, self.schema, self.table, columns, self.partitioned)
                for name in added:
                    logger.warning("%s: new column %s added, null for earlier slices", self.where, name)
                aside = self._make_aside(engine, slice, columns)
                try:
                    self._load_aside(aside, dataset)
                    return self._publish(engine, slice, aside, dataset, columns, started, record)
                except BaseException:
                    self._drop(engine, aside)
                    raise
        finally:
            engine.dispose()

    def _make_aside(self, engine: Engine, slice: str, columns: dict[str, str]) -> str:
        """Make this attempt's table, after removing what killed attempts left; we hold the slice."""
        aside = partition_name(self.table, slice, f"_a{uuid.uuid4().hex[:6]}")
        with engine.begin() as connection:
            stale = connection.execute(
                text(
                    "SELECT tablename FROM pg_tables WHERE schemaname = :schema "
                    "AND starts_with(tablename, :prefix) AND length(tablename) = :length"
                ),
                {"schema": self.schema, "prefix": aside[:-6], "length": len(aside)},
            ).scalars()
            for name in stale.all():
                run_plain(connection, f"DROP TABLE {quoted(self.schema, name)}")
            parent = quoted(self.schema, self.table)
            run_plain(connection, f"CREATE TABLE {quoted(self.schema, aside)} (LIKE {parent} INCLUDING ALL)")
            # the slice is the same in every row: a default spares sending it, the CHECK spares ATTACH a scan
            run_plain(
                connection,
                f"ALTER TABLE {quoted(self.schema, aside)} ALTER COLUMN {SLICE_COLUMN} SET DEFAULT {literal(slice)}, "
                f"ADD CONSTRAINT {SLICE_COLUMN}_is CHECK ({SLICE_COLUMN} = {literal(slice)})",
            )
            require_same_types(columns_of(connection, self.schema, aside), columns, f"{self.schema}.{self.table}")
        return aside

    def _load_aside(self, aside: str, dataset: Dataset) -> None:
        """Binary COPY, in one transaction with a TRUNCATE: with wal_level=minimal that needs no WAL."""
        names = [name.lower() for name in dataset.schema.names]
        schema = pa.schema([field.with_name(name) for name, field in zip(names, dataset.schema, strict=True)])
        renamed = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in dataset.batches())
        reader = pa.RecordBatchReader.from_batches(schema, renamed)
        with (
            adbc.connect(self.server.url()) as connection,
            connection.cursor() as cursor,
            ThreadPoolExecutor(1) as thread,
        ):
            cursor.execute(f"TRUNCATE {quoted(self.schema, aside)}")
            # in the main thread the driver would take a Ctrl-C for itself and report it as a failed load
            copy = thread.submit(cursor.adbc_ingest, aside, reader, mode="append", db_schema_name=self.schema)
            try:
                copy.result()
            except KeyboardInterrupt:
                cursor.adbc_cancel()
                raise
            connection.commit()

    def _publish(
        self,
        engine: Engine,
        slice: str,
        aside: str,
        dataset: Dataset,
        columns: dict[str, str],
        started: float,
        record: Record,
    ) -> Receipt:
        loaded = quoted(self.schema, aside)
        with engine.connect() as connection:
            rows, size = run_plain(
                connection, f"SELECT count(*), pg_total_relation_size({literal(loaded)}) FROM {loaded}"
            ).one()
        if rows != dataset.rows:
            raise ReconciliationError(
                f"{slice}: {dataset.rows:,} rows were kept, but {rows:,} arrived in {self.where}. "
                "Nothing was published; run it again, and report this if it stays."
            )
        swap = self._swap_partition if self.partitioned else self._swap_rows
        deadline = time.monotonic() + self.lock_seconds
        for attempt in stamina.retry_context(
            on=lambda error: is_lock_timeout(error) and time.monotonic() < deadline,
            attempts=None,
            timeout=None,
            wait_initial=0.2,
            wait_max=5.0,
        ):
            with attempt, engine.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = {SWAP_LOCK_MS}"))
                swap(connection, slice, aside, columns)
                receipt = Receipt("postgres", self.where, slice, rows, size, round(time.monotonic() - started, 3))
                record(connection, receipt)
        return receipt

    def _swap_partition(self, connection: Connection, slice: str, aside: str, _columns: dict[str, str]) -> None:
        name = partition_name(self.table, slice)
        parent = quoted(self.schema, self.table)
        run_plain(connection, f"DROP TABLE IF EXISTS {quoted(self.schema, name)}")
        run_plain(connection, f"ALTER TABLE {quoted(self.schema, aside)} RENAME TO {quoted(name)}")
        bound = f"FOR VALUES IN ({literal(slice)})"
        run_plain(connection, f"ALTER TABLE {parent} ATTACH PARTITION {quoted(self.schema, name)} {bound}")

    def _swap_rows(self, connection: Connection, slice: str, aside: str, columns: dict[str, str]) -> None:
        table, names = quoted(self.schema, self.table), ", ".join(quoted(name) for name in [*columns, SLICE_COLUMN])
        run_plain(connection, f"DELETE FROM {table} WHERE {SLICE_COLUMN} = {literal(slice)}")
        run_plain(connection, f"INSERT INTO {table} ({names}) SELECT {names} FROM {quoted(self.schema, aside)}")
        run_plain(connection, f"DROP TABLE {quoted(self.schema, aside)}")

    def _drop(self, engine: Engine, aside: str) -> None:
        try:
            with engine.begin() as connection:
                run_plain(connection, f"DROP TABLE IF EXISTS {quoted(self.schema, aside)}")
        except DBAPIError as error:
            logger.warning("%s stays behind (%s); the next run of the slice removes it", aside, plain_reason(error))


@contextmanager
def _reported(where: str, slice: str) -> Iterator[None]:
    """Turn the drivers' errors into one paragraph."""
    try:
        yield
    except CantripError:
        raise
    except (DBAPIError, adbc_driver_manager.Error) as error:
        raise SinkError(
            f"{slice}: {where} refused the load: {plain_reason(error)}. The slice holds what it held before."
        ) from error
