"""Files of three formats are read in bounded batches; one that is cut, damaged or no data at all is refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mage_project.lib.errors import DataError
from mage_project.lib.formats import CSV_BLOCK_BYTES, first_uncastable, open_file
from mage_project.lib.local.trips import generate_trips, write_csv, write_csv_gz, write_parquet

ROWS = 12_000  # of CSV: more than two blocks
HTML = b"<!DOCTYPE html>\n<html><body>Down for maintenance</body></html>\n"
HEADER = b"VendorID,pickup,fare_amount,flag\n"
TYPES = {"VendorID": pa.float64(), "pickup": pa.timestamp("us"), "fare_amount": pa.float64(), "flag": pa.string()}


def read(path: Path, format: str, type_of: Callable[[str], pa.DataType] = TYPES.__getitem__) -> pa.Table:
    with open_file(path, format, type_of, "green 2021-02") as opened:
        return pa.Table.from_batches(opened.batches, schema=opened.schema)


def as_text(_name: str) -> pa.DataType:
    return pa.string()


def refusal(path: Path, format: str, type_of: Callable[[str], pa.DataType] = TYPES.__getitem__) -> str:
    with pytest.raises(DataError) as caught:
        read(path, format, type_of)
    text = str(caught.value)
    assert text.startswith("green 2021-02: ")
    assert "\n" not in text
    return text


def small_csv(folder: Path, *lines: str, name: str = "x.csv") -> Path:
    path = folder / name
    content = HEADER + "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same generated green month in the three formats."""
    folder = tmp_path_factory.mktemp("month")
    for write, format in ((write_csv, "csv"), (write_csv_gz, "csv.gz"), (write_parquet, "parquet")):
        write(generate_trips("green", "2021-02", ROWS), folder / f"month.{format}")
    assert (folder / "month.csv").stat().st_size > 2 * CSV_BLOCK_BYTES
    return folder


def changed(month: Path, tmp_path: Path, format: str, change: Callable[[bytes], bytes]) -> Path:
    path = tmp_path / f"x.{format}"
    path.write_bytes(change((month / f"month.{format}").read_bytes()))
    return path


class TestWhole:
    @pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz"])
    def test_a_good_file_gives_all_its_rows(self, format: str, month: Path) -> None:
        assert read(month / f"month.{format}", format, as_text).num_rows == ROWS

    def test_parquet_keeps_its_types_and_loses_its_metadata(self, month: Path, tmp_path: Path) -> None:
        table = pa.table({"airport_fee": pa.nulls(3), "n": [1, None, 3]})
        pq.write_table(table.replace_schema_metadata({"pandas": "{}"}), tmp_path / "x.parquet")
        found = read(tmp_path / "x.parquet", "parquet")
        assert found.equals(table)
        assert found.schema.metadata is None

    def test_compressed_and_plain_csv_hold_the_same(self, month: Path) -> None:
        assert read(month / "month.csv", "csv", as_text) == read(month / "month.csv.gz", "csv.gz", as_text)

    @pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz"])
    def test_a_file_is_read_in_bounded_batches(self, format: str, month: Path, tmp_path: Path) -> None:
        path = month / f"month.{format}"
        if format == "parquet":  # one row group, as the publisher writes them
            path = tmp_path / "x.parquet"
            write_parquet(generate_trips("green", "2021-02", 3 * ROWS), path)
        with open_file(path, format, as_text, "x") as opened:
            assert len(list(opened.batches)) > 1

    def test_a_gzip_of_two_members_is_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.csv.gz"
        path.write_bytes(gzip.compress(HEADER) + gzip.compress(b"2,2021-02-01 00:00:00,1.5,N\n"))
        assert read(path, "csv.gz").num_rows == 1


class TestCsvValues:
    def test_doubles_in_an_integer_column_empty_and_quoted_values(self, tmp_path: Path) -> None:
        path = small_csv(
            tmp_path,
            "2,2021-02-01 00:15:56,-5.5,N",
            "1.0,2008-12-31 23:59:59,,",
            ',2021-02-01 00:00:00,"12.5","Y"',
            '6,2021-02-01 00:00:00,1e2,"a, ""b"""',
            '2,2021-02-01 00:00:00,0,""',
        )
        found = read(path, "csv").to_pydict()
        assert found["VendorID"] == [2, 1, None, 6, 2]
        assert found["fare_amount"] == [-5.5, None, 12.5, 100.0, 0.0]
        assert found["flag"] == ["N", None, "Y", 'a, "b"', ""]
        assert str(found["pickup"][1]) == "2008-12-31 23:59:59"

    def test_text_that_says_not_available_stays_text(self, tmp_path: Path) -> None:
        path = small_csv(tmp_path, *(f"1,2021-02-01 00:00:00,1,{word}" for word in ("N/A", "NULL", "nan", "None")))
        assert read(path, "csv")["flag"].to_pylist() == ["N/A", "NULL", "nan", "None"]

    def test_a_byte_order_mark_and_windows_line_ends_are_no_data(self, tmp_path: Path) -> None:
        path = tmp_path / "x.csv"
        path.write_bytes(b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"2,2021-02-01 00:00:00,1,N\r\n")
        assert read(path, "csv").to_pylist()[0] | {"pickup": 0} == {
            "VendorID": 2.0,
            "pickup": 0,
            "fare_amount": 1.0,
            "flag": "N",
        }

    @pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
    @pytest.mark.parametrize("bad_row", [1, 3, 40_000, 50_000])
    def test_a_value_that_does_not_convert_is_named_with_row_and_column(
        self, name: str, bad_row: int, tmp_path: Path
    ) -> None:
        lines = ["2,2021-02-01 00:15:56,5.5,N"] * 50_000
        lines[bad_row - 1] = "2,2021-02-01 00:15:56,abc,N"
        path = small_csv(tmp_path, *lines, name=name)
        assert (len(gzip.decompress(path.read_bytes())) if name.endswith("gz") else path.stat().st_size) > (
            2 * CSV_BLOCK_BYTES
        )
        text = refusal(path, name.partition(".")[2])
        assert f"row {bad_row:,} of {name} holds 'abc' in column 'fare_amount', which is no double" in text
        assert "Nothing was loaded" in text

    @pytest.mark.parametrize(
        ("line", "value", "column"),
        [
            ("2,yesterday,5.5,N", "'yesterday'", "pickup"),
            ("2,2021-02-30 00:00:00,5.5,N", "'2021-02-30 00:00:00'", "pickup"),
            ("two,2021-02-01 00:00:00,5.5,N", "'two'", "VendorID"),
            ("2,2021-02-01 00:00:00,NULL,N", "'NULL'", "fare_amount"),
            ('2,2021-02-01 00:00:00,"",N', "''", "fare_amount"),
            ('2,2021-02-01 00:00:00,"1,5",N', "'1,5'", "fare_amount"),
        ],
    )
    def test_whatever_the_value_is_it_is_named(self, line: str, value: str, column: str, tmp_path: Path) -> None:
        text = refusal(small_csv(tmp_path, "2,2021-02-01 00:00:00,5.5,N", line), "csv")
        assert f"row 2 of x.csv holds {value} in column {column!r}" in text

    def test_a_row_with_too_few_values_is_shown(self, tmp_path: Path) -> None:
        text = refusal(small_csv(tmp_path, "2,2021-02-01 00:00:00,5.5,N", "2,2021"), "csv")
        assert "Expected 4 columns, got 2: 2,2021" in text

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.csv"
        path.write_bytes(HEADER + b"2,2021-02-01 00:00:00,5.5,\xff\n")
        assert "invalid UTF8" in refusal(path, "csv")


class TestCut:
    @pytest.mark.parametrize("keep", [5, 4_000, -9, -8, -4, -1])
    def test_a_gzip_that_ends_early_is_refused_wherever_it_was_cut(
        self, keep: int, month: Path, tmp_path: Path
    ) -> None:
        text = refusal(changed(month, tmp_path, "csv.gz", lambda content: content[:keep]), "csv.gz", as_text)
        assert "the gzip stream ends before its end marker" in text
        assert "--refresh" in text

    def test_a_gzip_with_another_checksum_is_refused(self, month: Path, tmp_path: Path) -> None:
        path = changed(month, tmp_path, "csv.gz", lambda content: content[:-8] + b"abcd" + content[-4:])
        assert "CRC check failed" in refusal(path, "csv.gz", as_text)

    @pytest.mark.parametrize("cut", [1, 7, 60, 200])
    def test_a_csv_cut_in_the_middle_of_a_row_is_refused(self, cut: int, month: Path, tmp_path: Path) -> None:
        path = changed(month, tmp_path, "csv", lambda content: content[:-cut])
        assert "its last line has no line end" in refusal(path, "csv", as_text)

    @pytest.mark.parametrize("part", [0, 3, 1_000, 50_000])
    def test_a_parquet_file_cut_short_is_refused(self, part: int, month: Path, tmp_path: Path) -> None:
        path = changed(month, tmp_path, "parquet", lambda content: content[:part])
        assert "can't be read as parquet" in refusal(path, "parquet")

    def test_a_parquet_file_damaged_in_the_middle_is_refused(self, month: Path, tmp_path: Path) -> None:
        damaged = changed(
            month, tmp_path, "parquet", lambda content: content[:30_000] + b"\xff" * 2_000 + content[32_000:]
        )
        assert "The file is cut short or damaged" in refusal(damaged, "parquet")


class TestNoData:
    @pytest.mark.parametrize("format", ["parquet", "csv", "csv.gz"])
    def test_a_web_page_is_called_one(self, format: str, tmp_path: Path) -> None:
        path = tmp_path / f"x.{format}"
        path.write_bytes(HTML)
        assert "it is a web page (HTML), not data" in refusal(path, format)

    def test_a_compressed_web_page_is_called_one_too(self, tmp_path: Path) -> None:
        path = tmp_path / "x.csv.gz"
        path.write_bytes(gzip.compress(HTML))
        assert "it is a web page (HTML), not data" in refusal(path, "csv.gz")

    @pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["empty", "empty gzip"])
    def test_an_empty_compressed_file_has_not_even_a_header(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x.csv.gz"
        path.write_bytes(content)
        assert "is empty: not even a header" in refusal(path, "csv.gz")

    @pytest.mark.parametrize("format", ["parquet", "csv"])
    def test_an_empty_file_is_refused(self, format: str, tmp_path: Path) -> None:
        (tmp_path / f"x.{format}").touch()
        assert f"x.{format}" in refusal(tmp_path / f"x.{format}", format)

    @pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
    def test_a_header_without_rows_is_an_empty_month_with_its_columns(self, name: str, tmp_path: Path) -> None:
        found = read(small_csv(tmp_path, name=name), name.partition(".")[2])
        assert (found.num_rows, found.schema) == (0, pa.schema(TYPES.items()))

    def test_a_header_that_was_cut_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.csv").write_bytes(HEADER[:-1])
        assert "no line end" in refusal(tmp_path / "x.csv", "csv")

    def test_a_file_that_is_not_there_is_the_disks_trouble(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "x.csv", "csv")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 2.0, None], None), ([1.0, 2.5, 3.5], 1), ([None, None, 0.5], 2), ([0.5], 0), ([], None)],
)
def test_the_first_value_that_can_not_be_cast_is_found(values: list[float | None], expected: int | None) -> None:
    assert first_uncastable(pa.array(values, pa.float64()), pa.int64()) == expected
