"""The ledger: one row per run and slice, in the warehouse, written in the sink's own transaction.

`fetched = kept + dropped by rule`, `landed = kept` and `loaded = landed` hold for every row in state
`done`. A run may store a slice in several places, one exporter each: their receipts stand side by
side in its row, and one that failed makes the row `failed` until it succeeds.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    MetaData,
    Table,
    Text,
    case,
    cast,
    func,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, distinct_on, insert
from sqlalchemy.schema import CheckConstraint, CreateSchema

from mage_project.lib.errors import ReconciliationError
from mage_project.lib.runs.window import Window
from mage_project.lib.settings import ROOT, PostgresSettings
from mage_project.lib.sinks.postgres_server import engine_for
from mage_project.lib.sinks.postgres_tables import columns_of, quoted, run_plain
from mage_project.lib.sinks.receipt import Receipt

SCHEMA = "cantrip"

LEDGER = Table(
    "ledger",
    MetaData(schema=SCHEMA),
    Column("run_id", Text, primary_key=True),
    Column("slice", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("window_start", Date, nullable=False),
    Column("window_end", Date, nullable=False),
    Column("state", Text, nullable=False),
    Column("fetched", BigInteger),
    Column("kept", BigInteger),
    Column("dropped", JSONB, nullable=False),
    Column("receipts", JSONB, nullable=False),
    Column("source", Text),
    Column("error", Text),
    Column("variables", JSONB, nullable=False),
    Column("code_version", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("state IN ('done', 'failed')", name="ledger_state"),
    CheckConstraint("state = 'failed' OR fetched >= kept", name="ledger_fetched"),
)


# Variables of Mage's and of this run alone: a retry compares the others.
_NOT_OURS = re.compile(
    r"^(execution_|interval_|pipeline_|block_|trigger_|repo_path$|env$|event$|ds$|hr$|window$|refresh$|date$|context$)"
)


@cache
def code_version() -> str:
    """Give the commit that runs (`-dirty` when edited), or `unknown`."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"


@dataclass(frozen=True)
class Entry:
    """What a run knows of one slice, before it is written down."""

    run_id: str
    pipeline: str
    window: Window
    variables: dict[str, str]
    started_at: datetime
    slice: str
    fetched: int | None
    kept: int | None
    dropped: dict[str, int]
    source: str | None = None
    # the exporting block: its receipt stands under this name
    block: str = "run"
    # asked of git when the entry is made: while it is written, readers of the table wait
    code_version: str = field(default_factory=code_version)


def plain_variables(variables: Mapping[str, Any]) -> dict[str, str]:
    """Give the pipeline's own variables as text, without Mage's and without the run's date."""
    plain = {name: value for name, value in variables.items() if isinstance(value, str | int | float | bool)}
    return {name: str(value) for name, value in sorted(plain.items()) if not _NOT_OURS.match(name)}


def require_balance(entry: Entry) -> None:
    """Raise ReconciliationError unless every fetched row was kept or dropped by a named rule."""
    dropped = sum(entry.dropped.values())
    if entry.fetched is None or entry.kept is None or entry.fetched != entry.kept + dropped:
        raise ReconciliationError(
            f"{entry.slice}: {entry.fetched} rows were fetched, but {entry.kept} kept and {dropped} dropped by rule "
            "don't add up to that. Nothing was published; run it again, and report this if it stays."
        )


def write_done(connection: Connection, entry: Entry, receipt: Receipt) -> None:
    """Write a published slice, in the transaction that publishes it."""
    require_balance(entry)
    if receipt.rows != entry.kept:
        raise ReconciliationError(
            f"{entry.slice}: {entry.kept} rows were kept, but {receipt.rows} stored in {receipt.where}. "
            "Run it again, and report this if it stays."
        )
    _write(connection, entry, "done", receipt.as_dict(), None)


def write_stored(server: PostgresSettings, entry: Entry, receipt: Receipt) -> None:
    """Write a slice that a sink outside this server has published, in a transaction of its own."""
    engine = engine_for(server)
    with engine.begin() as connection:
        write_done(connection, entry, receipt)
    engine.dispose()


def write_failed(server: PostgresSettings, entry: Entry, cause: str) -> None:
    """Write a failed slice with its cause, in a transaction of its own."""
    engine = engine_for(server)
    with engine.begin() as connection:
        _write(connection, entry, "failed", {"error": cause}, cause)
    engine.dispose()


def write_failed_run(
    server: PostgresSettings,
    run_id: str,
    pipeline: str,
    window: Window,
    slice: str,
    variables: Mapping[str, Any],
    cause: str,
) -> None:
    """Write a slice whose run failed before it reached a sink: no counts are known."""
    entry = Entry(run_id, pipeline, window, plain_variables(variables), datetime.now(UTC), slice, None, None, {})
    write_failed(server, entry, cause)


def slices(server: PostgresSettings, pipeline: str | None = None) -> list[dict[str, Any]]:
    """Give the newest entry of every slice and pipeline, oldest window first.

    A run that failed before it knew its slice stands under its window, until the same window is done.
    """
    rows = _read(server, _of(pipeline), newest_only=True)
    return [row for row in rows if not any(_makes_up_for(other, row) for other in rows)]


def stored(server: PostgresSettings, pipeline: str | None = None) -> list[dict[str, Any]]:
    """Give what every slice holds now in every place: the newest receipt of each, with its entry's counts.

    An entry that failed counts with the receipts that it has: they were published.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(_read(server, _of(pipeline)), key=lambda row: row["finished_at"]):
        for receipt in receipts_of(row):
            newest[row["slice"], receipt["where"]] = {**row, "receipt": receipt}
    return [newest[key] for key in sorted(newest)]


def receipts_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the receipts of an entry, without its failures."""
    return [receipt for receipt in row["receipts"].values() if "error" not in receipt]


def _of(pipeline: str | None) -> ColumnElement[bool]:
    return LEDGER.c.pipeline == pipeline if pipeline else true()


def entries_of(server: PostgresSettings, run_id: str) -> list[dict[str, Any]]:
    """Give what one run wrote."""
    return _read(server, LEDGER.c.run_id == run_id)


def _makes_up_for(done: dict[str, Any], failed: dict[str, Any]) -> bool:
    """Whether `failed` names no slice but its window, and `done` loaded that window later."""
    same = all(done[name] == failed[name] for name in ("pipeline", "window_start", "window_end", "variables"))
    nameless = failed["slice"] == str(Window(failed["window_start"], failed["window_end"]))
    return same and nameless and done["state"] == "done" and done["finished_at"] > failed["finished_at"]


def _write(connection: Connection, entry: Entry, state: str, receipt: dict[str, Any], cause: str | None) -> None:
    """Write the entry, or add to it what another of its exporters wrote; one failure makes it `failed`."""
    ensure_ledger(connection)
    values = {
        "run_id": entry.run_id,
        "slice": entry.slice,
        "pipeline": entry.pipeline,
        "window_start": entry.window.start,
        "window_end": entry.window.end,
        "state": state,
        "fetched": entry.fetched,
        "kept": entry.kept,
        "dropped": entry.dropped,
        "receipts": {entry.block: receipt},
        "source": entry.source,
        "error": cause,
        "variables": entry.variables,
        "code_version": entry.code_version,
        "started_at": entry.started_at,
        "finished_at": datetime.now(UTC),
    }
    statement = insert(LEDGER).values(values)
    receipts = LEDGER.c.receipts.op("||")(statement.excluded.receipts)
    failure = func.jsonb_path_query_first(receipts, cast("$.*.error", JSONPATH)).op("#>>")(text("'{}'"))
    merged = {
        **values,
        "receipts": receipts,
        "state": case((failure.is_(None), "done"), else_="failed"),
        "error": failure,
    }
    connection.execute(statement.on_conflict_do_update(index_elements=["run_id", "slice"], set_=merged))


def ensure_ledger(connection: Connection) -> None:
    """Make schema and table when missing, and the columns that a later version added; one at a time."""
    existing = columns_of(connection, SCHEMA, LEDGER.name)
    missing = [column for column in LEDGER.columns if column.name not in existing]
    if not missing:
        return
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('ddl cantrip.ledger', 0))"))
    connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
    LEDGER.create(connection, checkfirst=True)
    for column in missing if existing else ():
        type_ = column.type.compile(connection.dialect)
        run_plain(connection, f"ALTER TABLE {SCHEMA}.ledger ADD COLUMN IF NOT EXISTS {quoted(column.name)} {type_}")


def _read(
    server: PostgresSettings, *conditions: ColumnElement[bool], newest_only: bool = False
) -> list[dict[str, Any]]:
    engine = engine_for(server)
    with engine.begin() as connection:
        ensure_ledger(connection)
        statement = select(LEDGER).where(*conditions)
        if newest_only:
            statement = statement.ext(distinct_on(LEDGER.c.pipeline, LEDGER.c.slice)).order_by(
                LEDGER.c.pipeline, LEDGER.c.slice, LEDGER.c.finished_at.desc()
            )
        rows = [dict(row._mapping) for row in connection.execute(statement)]
    engine.dispose()
    return sorted(rows, key=lambda row: (row["pipeline"], row["window_start"], row["slice"]))
