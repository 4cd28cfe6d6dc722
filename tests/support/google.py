"""What the tests of Cloud Storage and BigQuery share: datasets by day, and what a slice really holds in each sink."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mage_project.lib.dataset import Dataset
from mage_project.lib.manifest import Manifest
from mage_project.lib.settings import GoogleSettings, PostgresSettings
from mage_project.lib.sinks.gcs import GcsPartitions
from mage_project.lib.sinks.google_clients import bigquery_client, storage_client
from mage_project.lib.sinks.manifests import broken_files, read_manifest
from tests.support.blocks import run_blocks
from tests.support.google_proxy import Proxy
from tests.support.warehouse import Home, dataset_of, query

Rows = Counter[tuple[Any, ...]]
NOT_OF_THE_ROWS = ("_slice", "pickup_date")


def trips_of(folder: Path, slice: str, days: dict[str, int], first: int = 0, **more: Any) -> Dataset:
    """Stage `days[day]` rows of each day, in mixed order: columns `n` (numbers from `first` on) and `pickup`."""
    times = [datetime.fromisoformat(day) + timedelta(minutes=7 * i) for day, rows in days.items() for i in range(rows)]
    count = len(times)
    order = sorted(range(count), key=lambda i: (i * 7919) % max(count, 1))
    numbers = pa.array([first + i for i in order], pa.int64())
    pickups = pa.array([times[i] for i in order], pa.timestamp("us"))
    columns = {"n": numbers, "pickup": pickups, **{name: pa.array([value] * count) for name, value in more.items()}}
    return dataset_of(folder, slice, columns, batch_rows=50)


def kept(month: pa.Table) -> Rows:
    """Give the rows of a month that are to arrive: those not known to be without passengers."""
    return counted(month.filter(pc.fill_null(pc.not_equal(month["passenger_count"], 0), True)))


def run_here(pipeline: str) -> Any:
    """Run a pipeline's blocks for green January in this process."""
    return run_blocks(pipeline, color="green", window="2021-01-01/2021-02-01")


def through(home: Home, storage: Proxy | None = None, bigquery: Proxy | None = None) -> Home:
    """Give the home with proxies in the place of its servers."""
    more = {"STORAGE_EMULATOR_HOST": storage.url} if storage else {}
    return home.with_environment(**more, **({"BIGQUERY_EMULATOR_HOST": bigquery.url} if bigquery else {}))


def counted(table: pa.Table) -> Rows:
    """Give a table's rows as a multiset; columns in the order of their names in lower case."""
    names = sorted((name for name in table.column_names if name not in NOT_OF_THE_ROWS), key=str.lower)
    return Counter(zip(*(table[name].to_pylist() for name in names), strict=True))


def rows_of_dataset(dataset: Dataset) -> Rows:
    return counted(pa.Table.from_batches(dataset.batches(), dataset.schema))


def rows_in_postgres(server: PostgresSettings, table: str, slice: str) -> Rows:
    schema, name = table.split(".")
    sql = "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
    columns = sorted(column for (column,) in query(server, sql, schema, name) if column not in NOT_OF_THE_ROWS)
    return Counter(query(server, f"SELECT {', '.join(columns)} FROM {table} WHERE _slice = %s", slice))


def rows_in_bigquery(google: GoogleSettings, table: str, slice: str) -> Rows:
    """Give a slice's rows in `dataset.table`; none when there is no such table."""
    from google.api_core.exceptions import NotFound

    client = bigquery_client(google)
    try:
        names = [field.name for field in client.get_table(f"{google.project}.{table}").schema]
    except NotFound:
        return Counter()
    columns = ", ".join(f"`{name}`" for name in sorted(names) if name not in NOT_OF_THE_ROWS)
    rows = client.query_and_wait(f"SELECT {columns} FROM `{google.project}.{table}` WHERE _slice = '{slice}'")
    return Counter(tuple(row.values()) for row in rows)


def tables_in(google: GoogleSettings, dataset: str) -> list[str]:
    """Give the names of a dataset's tables, staging tables among them."""
    return sorted(table.table_id for table in bigquery_client(google).list_tables(f"{google.project}.{dataset}"))


def content_of(google: GoogleSettings, path: str) -> bytes:
    return storage_client(google).bucket(google.bucket).blob(path).download_as_bytes()


def objects_under(google: GoogleSettings, prefix: str) -> dict[str, int]:
    """Give {name: generation} of the objects under a prefix."""
    blobs = storage_client(google).list_blobs(google.bucket, prefix=f"{prefix.rstrip('/')}/")
    return {blob.name: int(blob.generation) for blob in blobs}


def files_under(google: GoogleSettings, prefix: str) -> list[str]:
    """Give the names of the Parquet files under a prefix."""
    return sorted(name for name in objects_under(google, prefix) if name.endswith(".parquet"))


def table_at(google: GoogleSettings, path: str) -> pa.Table:
    """Read one Parquet object; what its folder's name says is not added."""
    return pq.ParquetFile(io.BytesIO(content_of(google, path))).read()


def manifest_of(google: GoogleSettings, prefix: str, slice: str) -> Manifest:
    manifest = read_manifest(google, prefix, slice)
    assert manifest is not None, f"{slice} has no manifest under {prefix}"
    return manifest


def rows_by_manifest(google: GoogleSettings, manifest: Manifest) -> Rows:
    """Give the rows of the files that a manifest lists."""
    return sum((counted(table_at(google, file.path)) for file in manifest.files), Counter())


def require_published(parts: GcsPartitions, slice: str, rows: Rows) -> Manifest:
    """The manifest's files are whole and hold these rows."""
    manifest = manifest_of(parts.google, parts.prefix, slice)
    assert broken_files(parts.google, manifest) == []
    assert rows_by_manifest(parts.google, manifest) == rows
    return manifest


def require_whole(parts: GcsPartitions, slice: str, rows: Rows) -> None:
    """The manifest's files are whole and hold these rows, and no other file of the slice lies there."""
    manifest = require_published(parts, slice, rows)
    of_slice = [name for name in files_under(parts.google, parts.prefix) if f"/{slice.replace('/', '_')}_" in name]
    assert of_slice == [file.path for file in manifest.files]


def put_object(google: GoogleSettings, path: str, content: bytes) -> None:
    """Store bytes under a name, whatever lay there."""
    storage_client(google).bucket(google.bucket).blob(path).upload_from_string(content)


def alter_object(google: GoogleSettings, path: str) -> None:
    """Turn the bits of one byte in the middle of an object; its size stays."""
    content = bytearray(content_of(google, path))
    content[len(content) // 2] ^= 0xFF
    put_object(google, path, bytes(content))


def alter_manifest(google: GoogleSettings, manifest: Manifest, **changes: Any) -> None:
    """Write other values into a published manifest, as a hand would."""
    document = json.loads(content_of(google, manifest.path)) | changes
    put_object(google, manifest.path, json.dumps(document).encode())


def delete_objects(google: GoogleSettings, paths: Iterable[str]) -> None:
    for path in paths:
        storage_client(google).bucket(google.bucket).blob(path).delete()
