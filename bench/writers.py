"""The partitioned write alone, three ways, from the same staged file: ours, and two of pyarrow's own.

All clients are imported before the clock starts. Each gives the seconds of the write.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mage_project.lib.dataset import BATCH_ROWS, Dataset, stage
from mage_project.lib.feeds.taxi.source import load_month
from mage_project.lib.settings import load_settings

PICKUP = "tpep_pickup_datetime"
PARTITION = "pickup_date"
SLICE = "yellow/2021-01"


def stage_month(arguments: argparse.Namespace) -> dict[str, Any]:
    """Stage the month as the loader does, in the file's order, or with the rows in any order of days."""
    path = Path(arguments.file)
    path.unlink(missing_ok=True)
    dataset = load_month("yellow", date.fromisoformat(arguments.date), load_settings(), path, slice=SLICE)
    if arguments.shuffled:
        table = pa.Table.from_batches(dataset.batches(), dataset.schema)
        table = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
        # rebuilt whole: take leaves a chunk for every chunk that there was
        batches = table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)
        dataset = stage(batches, dataset.schema, path, slice=SLICE, source=dataset.source)
    return {"rows": dataset.rows, "megabytes": dataset.staged_bytes / 1e6}


def write_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Files by day under a manifest, in a process with Mage in it, as every run has."""
    from google.cloud import storage  # noqa: F401  # type: ignore[attr-defined]

    from bench.workers import prepare
    from mage_project.lib.sinks.gcs import GcsPartitions

    settings = load_settings()
    prepare(settings)
    sink = GcsPartitions(
        settings.require_google(), arguments.prefix, PARTITION, PICKUP, settings.staging_folder / "bench"
    )
    dataset = _staged(Path(arguments.file))
    started = time.monotonic()
    receipt = sink.replace(dataset)
    return {"seconds": time.monotonic() - started, "rows": receipt.rows}


def write_dataset(arguments: argparse.Namespace) -> dict[str, Any]:
    """`pyarrow.dataset.write_dataset` over the same batches, with the day as a column."""
    import pyarrow.dataset as ds

    dataset = _staged(Path(arguments.file))
    schema = dataset.schema.append(pa.field(PARTITION, pa.date32()))

    def with_day() -> Iterator[pa.RecordBatch]:
        for batch in dataset.batches():
            yield batch.append_column(PARTITION, pc.cast(batch.column(PICKUP), pa.date32(), safe=False))

    bucket, filesystem = _filesystem()
    options = ds.ParquetFileFormat().make_write_options(compression="zstd")
    started = time.monotonic()
    ds.write_dataset(
        with_day(),
        f"{bucket}/{arguments.prefix}",
        schema=schema,
        format="parquet",
        file_options=options,
        partitioning=ds.partitioning(pa.schema([(PARTITION, pa.date32())]), flavor="hive"),
        filesystem=filesystem,
        min_rows_per_group=arguments.group_rows,
        max_rows_per_group=max(arguments.group_rows, 1024 * 1024),
        existing_data_behavior="overwrite_or_ignore",
    )
    return {"seconds": time.monotonic() - started}


def write_table(arguments: argparse.Namespace) -> dict[str, Any]:
    """The notebook's way: a DataFrame that is in memory already, `pq.write_to_dataset`."""
    import pyarrow.parquet as pq

    frame = pa.Table.from_batches(_staged(Path(arguments.file)).batches()).to_pandas()
    frame[PARTITION] = frame[PICKUP].dt.date
    bucket, filesystem = _filesystem()
    started = time.monotonic()
    pq.write_to_dataset(
        pa.Table.from_pandas(frame),
        root_path=f"{bucket}/{arguments.prefix}",
        partition_cols=[PARTITION],
        filesystem=filesystem,
    )
    return {"seconds": time.monotonic() - started}


def _staged(path: Path) -> Dataset:
    """Give the handle on a file that `stage_month` wrote in another process."""
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:
        schema = reader.schema
        rows = sum(reader.get_batch(index).num_rows for index in range(reader.num_record_batches))
    return Dataset(path, schema, SLICE, "bench", rows, path.stat().st_size, fetched=rows)


def _filesystem() -> tuple[str, Any]:
    from pyarrow.fs import GcsFileSystem

    google = load_settings().require_google()
    endpoint = (google.storage_endpoint or "").partition("://")[2]
    return google.bucket, GcsFileSystem(anonymous=True, scheme="http", endpoint_override=endpoint)
