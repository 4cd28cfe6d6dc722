"""Files to Arrow batches: Parquet, CSV and gzipped CSV, in bounded memory, cut files refused.

A file that ends early is an error in all three: Parquet by its footer, gzip by its end marker,
plain CSV by its last line end (a value cut short would load as a shorter one).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from isal import igzip, igzip_lib

from mage_project.lib.dataset import BATCH_ROWS
from mage_project.lib.errors import DataError

# 512 KB holds memory at about 160 MB for a month of trips; more is not faster
CSV_BLOCK_BYTES = 1 << 19

# isal's stubs call the class an instance
_READ_ERRORS: tuple[type[Exception], ...] = (  # type: ignore[assignment]
    pa.ArrowInvalid,
    pa.ArrowNotImplementedError,
    EOFError,
    igzip_lib.error,
    OSError,
)


class _PageError(pa.ArrowInvalid):
    """The first line is a web page's."""


@dataclass(frozen=True)
class Opened:
    """A file's schema and its batches, to be read once; `rows` is what the file itself says it holds."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    rows: int | None = None


@contextmanager
def open_file(path: Path, format: str, csv_type: Callable[[str], pa.DataType], what: str) -> Iterator[Opened]:
    """Open `path` as `parquet`, `csv.gz` or `csv`; `what` names it in errors.

    `csv_type` gives the type to read a CSV column with, by the header's own name. Parquet carries
    its types. Raises DataError for anything that isn't what `format` says, or ends early.
    """
    if format == "parquet":
        with _refusing(path, format, what), pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            yield Opened(
                file.schema_arrow.remove_metadata(), file.iter_batches(batch_size=BATCH_ROWS), file.metadata.num_rows
            )
        return
    with _refusing(path, format, what), _plain_bytes(path, format) as stream:
        names = _header(stream, path, what)
        types = {name: csv_type(name) for name in names}
        options = pacsv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        read = pacsv.ReadOptions(column_names=names, block_size=CSV_BLOCK_BYTES, use_threads=True)
        if not stream.peek(1):
            yield Opened(pa.schema(types.items()), iter(()))  # a month without rows
            return
        with _locating(path, format, types, what):
            reader = pacsv.open_csv(stream, read_options=read, convert_options=options)
        yield Opened(reader.schema, _located(reader, path, format, types, what))


@contextmanager
def _refusing(path: Path, format: str, what: str) -> Iterator[None]:
    """Turn the readers' own errors into one paragraph."""
    try:
        yield
    except _READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's trouble, not the file's
        raise DataError(f"{what}: {path.name} can't be read as {format}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")) or isinstance(error, _PageError):
        return "it is a web page (HTML), not data. The source answered with a page: check TAXI_BASE_URL."
    again = "The file is cut short or damaged: fetch it again with --refresh."
    if isinstance(error, EOFError):
        return f"the gzip stream ends before its end marker. {again}"
    return f"{str(error).rstrip('.')}. {again}"


@contextmanager
def _plain_bytes(path: Path, format: str) -> Iterator[io.BufferedReader]:
    if format == "csv.gz":
        with igzip.open(path, "rb") as stream:
            yield io.BufferedReader(stream, buffer_size=1 << 20)
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        if file.read(1) not in (b"\n", b""):
            raise pa.ArrowInvalid("its last line has no line end, so it was cut in the middle of a row")
        file.seek(0)
        yield file


def _header(stream: IO[bytes], path: Path, what: str) -> list[str]:
    line = stream.readline().decode("utf-8-sig", errors="replace")
    names = next(csv.reader([line]), [])
    if not names:
        raise DataError(f"{what}: {path.name} is empty: not even a header. Fetch it again with --refresh.")
    if line.lstrip().lower().startswith(("<!doctype", "<html", "<?xml")):
        raise _PageError
    return names


def _located(
    reader: pacsv.CSVStreamingReader,
    path: Path,
    format: str,
    types: Mapping[str, pa.DataType],
    what: str,
) -> Iterator[pa.RecordBatch]:
    with _locating(path, format, types, what):
        yield from reader


@contextmanager
def _locating(path: Path, format: str, types: Mapping[str, pa.DataType], what: str) -> Iterator[None]:
    """When a value can't be converted, read again as text to name its row."""
    try:
        yield
    except pa.ArrowInvalid as error:
        found = _first_bad_value(path, format, types) if "conversion error" in str(error) else None
        if found is None:
            raise
        column, row, value, wanted = found
        raise DataError(
            f"{what}: row {row:,} of {path.name} holds {value!r} in column {column!r}, which is no {wanted}. "
            "Nothing was loaded. Mend the file, or declare the column's type anew in schema.py."
        ) from error


def _first_bad_value(
    path: Path, format: str, types: Mapping[str, pa.DataType]
) -> tuple[str, int, str, pa.DataType] | None:
    """Find the first value that its type refuses: (column, row counted from 1 after the header, text, type)."""
    options = pacsv.ConvertOptions(
        column_types=dict.fromkeys(types, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with _plain_bytes(path, format) as stream:
        stream.readline()
        read = pacsv.ReadOptions(column_names=list(types), block_size=CSV_BLOCK_BYTES, use_threads=False)
        before = 0
        for batch in pacsv.open_csv(stream, read_options=read, convert_options=options):
            for name, wanted in types.items():
                index = first_uncastable(batch.column(name), wanted)
                if index is not None:
                    return name, before + index + 1, batch.column(name)[index].as_py(), wanted
            before += batch.num_rows
    return None


def first_uncastable(values: pa.Array, wanted: pa.DataType) -> int | None:
    """Give the index of the first value that can't be cast to `wanted`, or None when all can."""
    try:
        values.cast(wanted)
        return None
    except pa.ArrowInvalid:
        pass
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            values.slice(low, middle - low).cast(wanted)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
