"""Audit, then publish: the one way from a dataset to a sink, with the ledger written beside it."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Connection

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import CantripError
from mage_project.lib.handover import received
from mage_project.lib.runs import ledger, mage
from mage_project.lib.runs.context import RunContext, drop_staged
from mage_project.lib.sinks.postgres import PostgresTable
from mage_project.lib.sinks.receipt import Receipt

logger = logging.getLogger(__name__)


def publish_to_postgres(
    handed_over: Any, run: RunContext, *, schema: str, table: str, partitioned: bool = True
) -> dict[str, Any]:
    """Replace the dataset's slice in `schema.table` and give the receipt, as a block returns it.

    In the notebook the inline tests of the blocks before run first: there, Mage lets a person run
    an exporter whose upstream test has failed. Raises what the sink raises, with the slice in the
    ledger as failed.
    """
    dataset = received(handed_over)
    if run.origin == "notebook":
        mage.require_upstream_tests(run.pipeline, run.block)
    server = run.settings.require_postgres()
    entry = _entry(run, dataset)
    sink = PostgresTable(server, schema, table, partitioned, run.settings.slice_lock_seconds)

    def record(connection: Connection, receipt: Receipt) -> None:
        ledger.write_done(connection, entry, receipt)

    try:
        ledger.require_balance(entry)
        receipt = sink.replace(dataset.slice, dataset, record)
    except CantripError as error:
        _remember_failure(run, entry, error)
        raise
    logger.info("%s: %s rows in %s (%.2f s)", dataset.slice, f"{receipt.rows:,}", receipt.where, receipt.seconds)
    run_number = run.variables.get("pipeline_run_id")
    if run_number and mage.is_last_block(int(run_number), run.block):
        drop_staged(run.settings, run.run_id)
    return receipt.as_dict()


def _entry(run: RunContext, dataset: Dataset) -> ledger.Entry:
    dropped: dict[str, int] = {}
    for rule, count in dataset.dropped:
        dropped[rule] = dropped.get(rule, 0) + count
    variables = ledger.plain_variables(run.variables)
    return ledger.Entry(
        run.run_id,
        run.pipeline,
        run.window,
        variables,
        run.started_at,
        dataset.slice,
        dataset.fetched,
        dataset.rows,
        dropped,
        dataset.source,
    )


def _remember_failure(run: RunContext, entry: ledger.Entry, error: CantripError) -> None:
    """Write the failure down; when the warehouse itself is away, the error that is raised says so."""
    try:
        ledger.write_failed(run.settings.require_postgres(), entry, str(error))
    except CantripError as second:
        logger.warning("the ledger could not be written: %s", second)
