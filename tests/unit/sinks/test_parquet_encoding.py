"""What lands is Parquet that any reader takes: typed, compressed, in groups, and the same for the same rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import DataError
from mage_project.lib.sinks import parquet_files
from mage_project.lib.sinks.parquet_files import encode, write_one_file

PICKUP = "lpep_pickup_datetime"
SCHEMA = pa.schema([("row", pa.int64()), (PICKUP, pa.timestamp("us"))])
START = datetime(2021, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@pytest.fixture(autouse=True, scope="module")
def groups_of_six() -> Iterator[None]:
    with patch.object(parquet_files, "FILE_ROWS", 6):
        yield


def staged(folder: Path, rows: int) -> Dataset:
    table = pa.table([pa.array(range(rows)), pa.array([START] * rows, SCHEMA[1].type)], SCHEMA)
    batches = table.to_batches(max_chunksize=4)
    return stage(batches, SCHEMA, folder / "month.arrow", slice="green/2021-01", source="a test")


def read(content: pa.Buffer) -> pq.ParquetFile:
    return pq.ParquetFile(pa.BufferReader(content))


def test_a_days_file_is_one_compressed_group_of_rows_sorted_by_time_the_unknown_last() -> None:
    moments = [START + timedelta(hours=5), None, START, START + timedelta(hours=1), START]
    table = pa.table([pa.array(range(5)), pa.array(moments, pa.timestamp("us"))], SCHEMA)
    file = read(encode(table, PICKUP))
    assert file.metadata.num_row_groups == 1
    assert {file.metadata.row_group(0).column(index).compression for index in range(2)} == {"ZSTD"}
    # rows of one moment stay in their order
    assert file.read().column("row").to_pylist() == [2, 4, 3, 0, 1]
    assert file.schema_arrow == SCHEMA


def test_how_rows_are_cut_into_batches_does_not_change_their_file() -> None:
    table = pa.table([pa.array(range(6)), pa.array([START, None, START, None, START, START], SCHEMA[1].type)], SCHEMA)
    in_pieces = pa.Table.from_batches(table.to_batches(max_chunksize=2))
    assert encode(in_pieces, PICKUP) == encode(table, PICKUP)
    assert encode(table.slice(1), PICKUP) != encode(table, PICKUP)


def test_a_time_without_a_zone_is_stored_without_one() -> None:
    file = read(encode(pa.table([pa.array([0]), pa.array([START], SCHEMA[1].type)], SCHEMA), PICKUP))
    stored = str(file.schema.column(1).logical_type)
    assert "isAdjustedToUTC=false" in stored
    assert "timeUnit=microseconds" in stored


def test_one_file_holds_all_rows_in_their_order(tmp_path: Path) -> None:
    dataset = staged(tmp_path, 20)
    assert write_one_file(dataset, tmp_path / "new" / "month.parquet") == dataset.rows == 20
    file = pq.ParquetFile(tmp_path / "new" / "month.parquet")
    assert file.read().column("row").to_pylist() == list(range(20))
    assert [file.metadata.row_group(index).num_rows for index in range(4)] == [6, 6, 6, 2]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_one_file_of_no_rows_has_its_columns(tmp_path: Path) -> None:
    assert write_one_file(staged(tmp_path, 0), tmp_path / "none.parquet") == 0
    assert pq.read_schema(tmp_path / "none.parquet") == SCHEMA


def test_half_of_one_file_does_not_stay(tmp_path: Path) -> None:
    dataset = staged(tmp_path, 20)
    dataset.path.unlink()
    with pytest.raises(DataError, match="is gone"):
        write_one_file(dataset, tmp_path / "month.parquet")
    assert list(tmp_path.iterdir()) == []
