"""Audit, then publish: the one way from a dataset or a manifest to a sink, with the ledger written beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import CantripError
from mage_project.lib.handover import received, received_manifest
from mage_project.lib.manifest import Manifest
from mage_project.lib.runs import ledger, mage
from mage_project.lib.runs.context import RunContext, drop_staged
from mage_project.lib.sinks.bigquery import BigQueryTable
from mage_project.lib.sinks.gcs import GcsObject, GcsPartitions
from mage_project.lib.sinks.postgres import PostgresTable
from mage_project.lib.sinks.postgres_server import engine_for
from mage_project.lib.sinks.receipt import Receipt
from mage_project.lib.sinks.slice_lock import slice_lock

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
    entry = _entry_of_dataset(run, dataset)
    server, seconds = run.settings.require_postgres(), run.settings.slice_lock_seconds
    sink = PostgresTable(server, schema, table, partitioned, seconds)

    def record(connection: Connection, receipt: Receipt) -> None:
        ledger.write_done(connection, entry, receipt)

    return _publish(run, entry, lambda: sink.replace(dataset.slice, dataset, record))


def publish_to_gcs_object(handed_over: Any, run: RunContext, *, path: str) -> dict[str, Any]:
    """Replace the Parquet object `path` of the settings' bucket by the dataset's rows, and give the receipt."""
    dataset = received(handed_over)
    sink = GcsObject(run.settings.require_google(), path, run.staging_folder)
    return _publish_and_record(run, _entry_of_dataset(run, dataset), sink.where, lambda: sink.replace(dataset))


def publish_to_gcs_partitions(
    handed_over: Any, run: RunContext, *, prefix: str, partition: str, by_day_of: str
) -> dict[str, Any]:
    """Replace the slice's files under `{prefix}/{partition}=YYYY-MM-DD/`, and give the receipt.

    `by_day_of` is the column of timestamps whose day a row lands under.
    """
    dataset = received(handed_over)
    sink = GcsPartitions(run.settings.require_google(), prefix, partition, by_day_of, run.staging_folder)
    return _publish_and_record(run, _entry_of_dataset(run, dataset), sink.where, lambda: sink.replace(dataset))


def publish_to_bigquery(
    handed_over: Any, run: RunContext, *, dataset: str, table: str, cluster_by: Iterable[str] = ()
) -> dict[str, Any]:
    """Replace the manifest's slice in `dataset.table` of BigQuery, which reads the files itself; give the receipt.

    `dataset` is the name without DATASET_SUFFIX.
    """
    manifest = received_manifest(handed_over)
    google = run.settings.require_google()
    seconds = run.settings.slice_lock_seconds
    sink = BigQueryTable(google, google.dataset(dataset), table, tuple(cluster_by), seconds)
    return _publish_and_record(run, _entry_of_manifest(run, manifest), sink.where, lambda: sink.replace(manifest))


def _publish_and_record(
    run: RunContext, entry: ledger.Entry, where: str, replace: Callable[[], Receipt]
) -> dict[str, Any]:
    """Publish where the ledger's transaction doesn't reach: one run of the slice at a time, the ledger after it."""

    def replace_and_record() -> Receipt:
        server = run.settings.require_postgres()
        engine = engine_for(server)  # a warehouse that is away is said before anything is published
        try:
            with slice_lock(engine, where, entry.slice, run.settings.slice_lock_seconds):
                receipt = replace()
                ledger.write_stored(server, entry, receipt)
                return receipt
        finally:
            engine.dispose()

    return _publish(run, entry, replace_and_record)


def _publish(run: RunContext, entry: ledger.Entry, replace: Callable[[], Receipt]) -> dict[str, Any]:
    if run.origin == "notebook":
        mage.require_upstream_tests(run.pipeline, run.block)
    try:
        ledger.require_balance(entry)
        receipt = replace()
    except CantripError as error:
        _remember_failure(run, entry, error)
        raise
    logger.info("%s: %s rows in %s (%.2f s)", receipt.slice, f"{receipt.rows:,}", receipt.where, receipt.seconds)
    run_number = run.variables.get("pipeline_run_id")
    if run_number and mage.is_last_block(int(run_number), run.block):
        drop_staged(run.settings, run.run_id)
    return receipt.as_dict()


def _entry_of_dataset(run: RunContext, dataset: Dataset) -> ledger.Entry:
    dropped: dict[str, int] = {}
    for rule, count in dataset.dropped:
        dropped[rule] = dropped.get(rule, 0) + count
    return _entry(run, dataset.slice, dataset.fetched, dataset.rows, dropped, dataset.source)


def _entry_of_manifest(run: RunContext, manifest: Manifest) -> ledger.Entry:
    """What landed is what is loaded: the manifest's rows, none dropped."""
    return _entry(run, manifest.slice, manifest.rows, manifest.rows, {}, manifest.where)


def _entry(run: RunContext, slice: str, fetched: int, kept: int, dropped: dict[str, int], source: str) -> ledger.Entry:
    # each execution in the notebook is an attempt of its own: a failure must not hide what an earlier one published
    attempt = "" if run.variables.get("pipeline_run_id") else f"@{run.started_at:%Y%m%dT%H%M%S.%f}"
    return ledger.Entry(
        run_id=f"{run.run_id}{attempt}",
        pipeline=run.pipeline,
        window=run.window,
        variables=ledger.plain_variables(run.variables),
        started_at=run.started_at,
        slice=slice,
        fetched=fetched,
        kept=kept,
        dropped=dropped,
        source=source,
        block=run.block or "notebook",
    )


def _remember_failure(run: RunContext, entry: ledger.Entry, error: CantripError) -> None:
    """Write the failure down; when the warehouse itself is away, the error that is raised says so."""
    try:
        ledger.write_failed(run.settings.require_postgres(), entry, str(error))
    except CantripError as second:
        logger.warning("the ledger could not be written: %s", second)
