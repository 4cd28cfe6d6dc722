"""The BigQuery sink: a slice is loaded from its manifest's files and replaced in one transaction.

BigQuery itself reads the files into a staging table of this attempt, which expires by itself. One
script then deletes the slice and inserts the staged rows, compares the count, and commits. No row
passes through this process. What a killed attempt left is removed before the load: without its
staging table a script of it that is still queued fails and is rolled back.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import stamina
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError, TransportError
from requests.exceptions import RequestException

from mage_project.lib.errors import ConfigurationError, ReconciliationError, SinkError
from mage_project.lib.manifest import Manifest
from mage_project.lib.settings import GoogleSettings
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
from mage_project.lib.sinks.google_clients import bigquery_client, reason_of
from mage_project.lib.sinks.receipt import Receipt

logger = logging.getLogger(__name__)

STAGING_HOURS = 6
# BigQuery's words when two transactions, or a transaction and a statement, change one table
_CONFLICT = re.compile("concurrent update", re.IGNORECASE)


@dataclass(frozen=True)
class BigQueryTable:
    """A table to replace slices in, partitioned by day of the manifest's partition column."""

    google: GoogleSettings
    dataset: str
    table: str
    cluster_by: tuple[str, ...] = ()
    conflict_seconds: float = 600.0

    @property
    def dataset_id(self) -> str:
        """The dataset with its project."""
        return f"{self.google.project}.{self.dataset}"

    @property
    def where(self) -> str:
        """The table with project and dataset, for receipts and messages."""
        return f"{self.dataset_id}.{self.table}"

    def replace(self, manifest: Manifest) -> Receipt:
        """Put the rows of the manifest's files in the place of what the slice held.

        Raises SinkError (the slice holds what it held before), or ReconciliationError when BigQuery
        read another number of rows than the manifest promises.
        """
        started, slice = time.monotonic(), manifest.slice
        client = bigquery_client(self.google)
        with bigquery_errors(self.google, self.dataset_id, slice):
            location = self._ensure_dataset(client)
            columns = manifest.columns
            types = {columns[field.name]: bigquery_type(field) for field in manifest.schema}
            for name in ensure_table(client, self.where, types, manifest.partition_column, self.cluster_by):
                logger.warning("%s: new column %s added, null for earlier slices", self.where, name)
            require_free_names(columns.values(), manifest)
            stem = job_name("_staging", self.table, slice)
            self._remove_staging(client, f"{stem}_")
            attempt = uuid.uuid4().hex[:12]
            staging = f"{self.dataset_id}.{stem}_{attempt}"
            try:
                self._load(client, staging, manifest, location, attempt)
                committed = self._commit(client, staging, manifest, location, attempt)
            finally:
                _drop(client, staging)
        return Receipt(
            "bigquery",
            self.where,
            slice,
            manifest.rows,
            manifest.size,
            round(time.monotonic() - started, 3),
            bytes_billed=committed.total_bytes_billed,
            slot_ms=committed.slot_millis,
            content=manifest.content,
        )

    def count(self, slice: str) -> int | None:
        """Count a slice's rows; None when there is no such table."""
        client = bigquery_client(self.google)
        with bigquery_errors(self.google, self.dataset_id, slice):
            try:
                client.get_table(self.where)
            except exceptions.NotFound:
                return None
            sql = f"SELECT COUNT(*) FROM {quoted(self.where)} WHERE {SLICE_COLUMN} = {literal(slice)}"
            return int(next(iter(client.query_and_wait(sql)))[0])

    def _ensure_dataset(self, client: Any) -> str | None:
        """Give the dataset's location; a local server's dataset is made when it is missing."""
        if self.google.bigquery_endpoint:
            client.create_dataset(self.dataset_id, exists_ok=True)
        return client.get_dataset(self.dataset_id).location

    def _remove_staging(self, client: Any, prefix: str) -> None:
        """Remove staging tables of killed attempts at the slice; we hold the slice."""
        for table in client.list_tables(self.dataset_id):
            if re.fullmatch(rf"{re.escape(prefix)}[0-9a-f]{{12}}", table.table_id):
                client.delete_table(table.reference, not_found_ok=True)

    def _load(self, client: Any, staging: str, manifest: Manifest, location: str | None, attempt: str) -> None:
        """Let BigQuery read the manifest's files into the staging table."""
        from google.cloud import bigquery

        fields = [bigquery.SchemaField(field.name, bigquery_type(field)) for field in manifest.schema]
        table = bigquery.Table(staging, schema=[*fields, bigquery.SchemaField(manifest.partition_column, "DATE")])
        table.expires = datetime.now(UTC) + timedelta(hours=STAGING_HOURS)
        client.create_table(table)
        layout = bigquery.HivePartitioningOptions()
        layout.mode = "CUSTOM"
        layout.source_uri_prefix = f"gs://{manifest.bucket}/{manifest.prefix}/{{{manifest.partition_column}:DATE}}"
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            write_disposition=bigquery.WriteDisposition.WRITE_EMPTY,
            hive_partitioning=layout,
            # names with spaces stay as they are in the files
            column_name_character_map="V2",
        )
        job_id = job_name("cantrip_load", self.table, manifest.slice, attempt)
        start = partial(
            client.load_table_from_uri, manifest.uris, staging, job_id=job_id, location=location, job_config=config
        )
        job = _once(client, job_id, location, start)
        job.result()
        if job.output_rows != manifest.rows:
            raise ReconciliationError(
                f"{manifest.slice}: {manifest.where} lists {manifest.rows:,} rows, but BigQuery read "
                f"{job.output_rows:,}. Nothing was published; run api_to_gcs again, and report this if it stays."
            )

    def _commit(self, client: Any, staging: str, manifest: Manifest, location: str | None, attempt: str) -> Any:
        """Run the script; again when another worker's transaction on the table was first."""
        sql = replace_statements(
            self.where, staging, manifest.slice, manifest.columns, manifest.partition_column, manifest.rows
        )
        for trial in stamina.retry_context(
            on=_is_conflict, attempts=None, timeout=self.conflict_seconds, wait_initial=0.5, wait_max=20.0
        ):
            with trial:
                # a new id for each trial: the job of one that was rolled back stays failed
                job_id = job_name("cantrip_commit", self.table, manifest.slice, attempt, str(trial.num))
                start = partial(client.query, sql, job_id=job_id, location=location, job_retry=None)
                job = _once(client, job_id, location, start)
                job.result()
        return job


def _drop(client: Any, staging: str) -> None:
    """Remove the staging table; when that fails it expires, and whether the slice was replaced is known already."""
    try:
        client.delete_table(staging, not_found_ok=True)
    except (exceptions.GoogleAPIError, RequestException) as error:
        logger.warning("%s stays behind until it expires: %s", staging, reason_of(error))


def _once(client: Any, job_id: str, location: str | None, start: Callable[[], Any]) -> Any:
    """Start a job of this id; when it is there already (the answer to an earlier call got lost), take that one."""
    try:
        return start()
    except exceptions.Conflict:
        return client.get_job(job_id, location=location)


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, exceptions.GoogleAPIError) and bool(_CONFLICT.search(str(error)))


@contextmanager
def bigquery_errors(google: GoogleSettings, dataset: str, slice: str) -> Iterator[None]:
    """Turn the client's errors into one paragraph; it has retried what a retry can mend."""
    try:
        yield
    except TransportError as error:  # the way to the server, not its answer
        raise _failed(google, dataset, slice, error) from error
    except exceptions.NotFound as error:
        if re.search("not found:? dataset", str(error), re.IGNORECASE):
            raise ConfigurationError(
                f"{slice}: there is no dataset {dataset}. Create it with `bq mk --dataset {dataset.replace('.', ':')}` "
                "(`terraform apply` does), or check GCP_PROJECT and DATASET_SUFFIX. Nothing was loaded."
            ) from error
        raise _failed(google, dataset, slice, error) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise ConfigurationError(
            f"{slice}: BigQuery refuses the work on {dataset}: {reason_of(error)}. The account needs the roles "
            "bigquery.dataEditor on the dataset, bigquery.jobUser on the project and storage.objectViewer on the "
            "bucket. Nothing was loaded."
        ) from error
    except (exceptions.GoogleAPIError, RequestException) as error:
        if COUNT_DIFFERS in str(error):
            raise ReconciliationError(
                f"{slice}: after the insert, {COUNT_DIFFERS}. It was rolled back; run it again, and report this if it "
                "stays."
            ) from error
        raise _failed(google, dataset, slice, error) from error


def _failed(google: GoogleSettings, dataset: str, slice: str, error: Exception) -> SinkError:
    if "gs://" in str(error):
        remedy = "If a file is missing or altered, run api_to_gcs for the window again: it mends the files."
    else:
        remedy = "Is it running? `./cantrip up` starts it." if google.bigquery_endpoint else "Run it again later."
    return SinkError(
        f"{slice}: BigQuery could not load it into {dataset}: {reason_of(error)}. The slice holds what it held before. "
        f"{remedy}"
    )
