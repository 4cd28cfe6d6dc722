"""The Cloud Storage sink against a real server: what lands, and what re-runs leave."""

import io
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks import parquet_files
from mage_project.lib.sinks.buckets import crc32c_of
from mage_project.lib.sinks.gcs import GcsObject, GcsPartitions
from mage_project.lib.sinks.manifests import broken_files
from tests.support.google import (
    alter_object,
    content_of,
    files_under,
    manifest_of,
    objects_under,
    put_object,
    require_whole,
    rows_by_manifest,
    rows_of_dataset,
    table_at,
    trips_of,
)
from tests.support.google_proxy import Proxy
from tests.support.warehouse import dataset_of

JANUARY, FEBRUARY, MARCH = "green/2021-01", "green/2021-02", "green/2021-03"
DAYS = {"2021-01-01": 40, "2021-01-02": 30, "2021-01-31": 20}
FILE, MANIFEST = r"POST /upload/.*\.parquet", r"POST /upload/.*_manifests/"


@pytest.fixture
def one(google: GoogleSettings, prefix: str, tmp_path: Path) -> GcsObject:
    return GcsObject(google, f"{prefix}/green_2021-01.parquet", tmp_path)


# what lands


def test_one_object_holds_the_rows_in_their_order_compressed_and_says_how_many(one: GcsObject, tmp_path: Path) -> None:
    trips = trips_of(tmp_path, JANUARY, DAYS)
    receipt = one.replace(trips)
    content = content_of(one.google, one.path)
    found = pq.ParquetFile(io.BytesIO(content))
    assert found.read()["n"].to_pylist() == [n for batch in trips.batches() for n in batch["n"].to_pylist()]
    assert found.metadata.row_group(0).column(0).compression == "ZSTD"
    assert (receipt.sink, receipt.where, receipt.slice) == ("gcs", f"gs://{one.google.bucket}/{one.path}", JANUARY)
    assert (receipt.rows, receipt.bytes, receipt.files) == (90, len(content), 1)
    assert len(table_at(one.google, one.path)) == 90
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_manifest_lists_each_file_with_its_rows_size_and_checksum(parts: GcsPartitions, tmp_path: Path) -> None:
    trips = trips_of(tmp_path, JANUARY, DAYS)
    receipt = parts.replace(trips)
    manifest = manifest_of(parts.google, parts.prefix, JANUARY)
    assert manifest.path == f"{parts.prefix}/_manifests/green_2021-01.json"
    assert {file.partition: file.rows for file in manifest.files} == DAYS
    for file in manifest.files:
        content = content_of(parts.google, file.path)
        assert (file.bytes, file.crc32c) == (len(content), crc32c_of(content))
        assert file.path.startswith(f"{parts.prefix}/pickup_date={file.partition}/green_2021-01_")
    assert (receipt.where, receipt.rows, receipt.bytes, receipt.files) == (manifest.where, 90, manifest.size, 3)
    assert (manifest.slice, manifest.rows, manifest.schema, manifest.source) == (JANUARY, 90, trips.schema, "a test")
    require_whole(parts, JANUARY, rows_of_dataset(trips))


def test_each_file_is_of_one_day_sorted_by_pickup_and_compressed(parts: GcsPartitions, tmp_path: Path) -> None:
    parts.replace(trips_of(tmp_path, JANUARY, DAYS))
    for file in manifest_of(parts.google, parts.prefix, JANUARY).files:
        table = table_at(parts.google, file.path)
        times = table["pickup"].to_pylist()
        assert times == sorted(times)
        assert {f"{time:%Y-%m-%d}" for time in times} == {file.partition}
        assert "pickup_date" not in table.column_names
        metadata = pq.ParquetFile(io.BytesIO(content_of(parts.google, file.path))).metadata
        assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_a_pickup_that_is_unknown_lands_in_the_partition_that_is_read_as_null(
    parts: GcsPartitions, tmp_path: Path
) -> None:
    trips = trips_of(tmp_path, JANUARY, DAYS)
    without = trips.map_pandas(lambda frame: frame.assign(pickup=frame.pickup.where(frame.n % 10 > 0)))
    parts.replace(without)
    days = {file.partition: file.rows for file in manifest_of(parts.google, parts.prefix, JANUARY).files}
    assert days["__HIVE_DEFAULT_PARTITION__"] == 9
    require_whole(parts, JANUARY, rows_of_dataset(without))


# re-runs


def test_a_rerun_of_the_same_rows_sends_no_file_and_leaves_one_manifest(watched: GcsPartitions, storage: Proxy) -> None:
    trips = trips_of(watched.scratch, JANUARY, DAYS)
    watched.replace(trips)
    assert len(storage.asked(FILE)) == 3
    before = objects_under(watched.google, watched.prefix)
    storage.clear()
    receipt = watched.replace(trips)
    assert storage.asked(FILE) == []
    assert storage.asked("^DELETE") == []
    assert len(storage.asked(MANIFEST)) == 1
    after = objects_under(watched.google, watched.prefix)
    assert [name for name in after if "_manifests" in name] == [f"{watched.prefix}/_manifests/green_2021-01.json"]
    assert {name for name in after if after[name] != before[name]} == {
        f"{watched.prefix}/_manifests/green_2021-01.json"
    }
    assert receipt.rows == 90
    require_whole(watched, JANUARY, rows_of_dataset(trips))


def test_a_rerun_with_other_rows_of_one_day_sends_that_day_and_removes_its_old_file(
    watched: GcsPartitions, storage: Proxy
) -> None:
    watched.replace(trips_of(watched.scratch, JANUARY, DAYS))
    before = set(files_under(watched.google, watched.prefix))
    storage.clear()
    # the rows of the days before keep their numbers: only the last day's content differs
    changed = trips_of(watched.scratch, JANUARY, {**DAYS, "2021-01-31": 21})
    watched.replace(changed)
    after = set(files_under(watched.google, watched.prefix))
    [new], [old] = after - before, before - after
    assert [each.what.rpartition(" ")[2] for each in storage.asked(FILE)] == [new]
    assert len(storage.asked("^DELETE")) == 1
    assert "pickup_date=2021-01-31" in new and "pickup_date=2021-01-31" in old
    require_whole(watched, JANUARY, rows_of_dataset(changed))


def test_a_rerun_with_other_rows_replaces_the_object(one: GcsObject, tmp_path: Path) -> None:
    one.replace(trips_of(tmp_path, JANUARY, DAYS))
    other = trips_of(tmp_path, JANUARY, {"2021-01-05": 7}, first=1000)
    one.replace(other)
    assert sorted(table_at(one.google, one.path)["n"].to_pylist()) == list(range(1000, 1007))
    assert len(table_at(one.google, one.path)) == 7


def test_a_slice_that_shrinks_keeps_no_date_of_what_it_was(parts: GcsPartitions, tmp_path: Path) -> None:
    parts.replace(trips_of(tmp_path, JANUARY, DAYS))
    shrunk = trips_of(tmp_path, JANUARY, {"2021-01-02": 5})
    parts.replace(shrunk)
    assert [file.partition for file in manifest_of(parts.google, parts.prefix, JANUARY).files] == ["2021-01-02"]
    require_whole(parts, JANUARY, rows_of_dataset(shrunk))
    empty = trips_of(tmp_path, JANUARY, {})
    assert parts.replace(empty).files == 0
    require_whole(parts, JANUARY, rows_of_dataset(empty))


def test_a_row_of_the_next_month_stays_in_its_own_slice(parts: GcsPartitions, tmp_path: Path) -> None:
    february = trips_of(tmp_path, FEBRUARY, {"2021-02-27": 5, "2021-03-01": 1})
    march = trips_of(tmp_path, MARCH, {"2021-03-01": 4, "2021-03-02": 3}, first=100)
    parts.replace(march)
    before = objects_under(parts.google, parts.prefix)
    for trips in (february, trips_of(tmp_path, FEBRUARY, {"2021-02-27": 5, "2021-03-01": 1}), february):
        parts.replace(trips)
    after = objects_under(parts.google, parts.prefix)
    assert before.items() <= after.items(), "march was touched"
    first = [name for name in after if "pickup_date=2021-03-01/" in name]
    assert sorted(name.rpartition("/")[2][:13] for name in first) == ["green_2021-02", "green_2021-03"]
    require_whole(parts, FEBRUARY, rows_of_dataset(february))
    require_whole(parts, MARCH, rows_of_dataset(march))
    parts.replace(trips_of(tmp_path, FEBRUARY, {"2021-02-27": 5}))
    require_whole(parts, MARCH, rows_of_dataset(march))


def test_files_that_a_killed_run_left_go_and_a_missing_or_altered_one_is_sent_again(
    parts: GcsPartitions, tmp_path: Path
) -> None:
    trips = trips_of(tmp_path, JANUARY, DAYS)
    parts.replace(trips)
    bucket_file = manifest_of(parts.google, parts.prefix, JANUARY).files[0].path
    orphan = f"{parts.prefix}/pickup_date=2021-01-09/green_2021-01_{'0' * 16}.parquet"
    put_object(parts.google, orphan, b"half")
    alter_object(parts.google, bucket_file)
    [broken] = broken_files(parts.google, manifest_of(parts.google, parts.prefix, JANUARY))
    assert broken.startswith(f"{bucket_file} was altered")
    parts.replace(trips)
    require_whole(parts, JANUARY, rows_of_dataset(trips))


def test_files_of_one_day_with_the_same_rows_are_files_of_their_own(
    parts: GcsPartitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "FILE_ROWS", 2)
    table = pa.table({"n": [7] * 6, "at": [datetime(2021, 1, 1, 8)] * 6}).cast(
        pa.schema([("n", pa.int64()), ("at", pa.timestamp("us"))])
    )
    trips = dataset_of(parts.scratch, JANUARY, table)
    assert replace(parts, by_day_of="at").replace(trips).rows == 6
    manifest = manifest_of(parts.google, parts.prefix, JANUARY)
    assert len({file.path for file in manifest.files}) == len(manifest.files) == 3
    assert rows_by_manifest(parts.google, manifest) == rows_of_dataset(trips)


def test_a_file_of_another_size_under_its_old_checksum_is_mended_by_the_next_run(
    parts: GcsPartitions, bucket_folder: Path
) -> None:
    """The local server answers with the checksum of the upload, whatever lies on its disk since."""
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    parts.replace(trips)
    manifest = manifest_of(parts.google, parts.prefix, JANUARY)
    os.truncate(bucket_folder / manifest.files[0].path, 500)
    assert broken_files(parts.google, manifest) == [
        f"{manifest.files[0].path} was altered: 500 bytes, not {manifest.files[0].bytes:,}"
    ]
    parts.replace(trips)
    require_whole(parts, JANUARY, rows_of_dataset(trips))
