"""The declared columns of the TLC's trip records, and how a published file is brought to them.

Source: the TLC's data dictionaries (yellow and green, 2021) and the published files. The types are
those of the Parquet files; money is in US dollars, distances in miles, times are naive New York
local time. What the publisher's files really hold:

- `passenger_count` and `RatecodeID` are doubles, because a third to a half of them is empty.
- A column without a single value (`ehail_fee`, `airport_fee` in 2021) has Arrow's type null.
- Integers become doubles when a month has an empty one (`payment_type` in green).
- `airport_fee` turned into `Airport_fee` in 2023: names are compared without case.
- Before 2019 there is no `congestion_surcharge`, before 2025 no `cbd_congestion_fee`, and CSV files
  of yellow have no `airport_fee`: absent later additions are filled with null.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from mage_project.lib.errors import ConfigurationError, DataError
from mage_project.lib.formats import first_uncastable

TIMESTAMP = pa.timestamp("us")

# Names that the publisher changed beyond their case: {name in the file: declared name}.
RENAMED: dict[str, str] = {}

# Columns that the publisher added after the first files: null where a file doesn't have them.
ADDED_LATER = frozenset({"congestion_surcharge", "airport_fee", "cbd_congestion_fee", "ehail_fee", "trip_type"})

_MONEY = ("fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount")

YELLOW = pa.schema(
    [
        ("VendorID", pa.int64()),
        ("tpep_pickup_datetime", TIMESTAMP),
        ("tpep_dropoff_datetime", TIMESTAMP),
        ("passenger_count", pa.float64()),
        ("trip_distance", pa.float64()),
        ("RatecodeID", pa.float64()),
        ("store_and_fwd_flag", pa.string()),
        ("PULocationID", pa.int64()),
        ("DOLocationID", pa.int64()),
        ("payment_type", pa.int64()),
        *((name, pa.float64()) for name in _MONEY),
        ("improvement_surcharge", pa.float64()),
        ("total_amount", pa.float64()),
        ("congestion_surcharge", pa.float64()),
        ("airport_fee", pa.float64()),
    ]
)

GREEN = pa.schema(
    [
        ("VendorID", pa.int64()),
        ("lpep_pickup_datetime", TIMESTAMP),
        ("lpep_dropoff_datetime", TIMESTAMP),
        ("store_and_fwd_flag", pa.string()),
        ("RatecodeID", pa.float64()),
        ("PULocationID", pa.int64()),
        ("DOLocationID", pa.int64()),
        ("passenger_count", pa.float64()),
        ("trip_distance", pa.float64()),
        *((name, pa.float64()) for name in _MONEY),
        ("ehail_fee", pa.float64()),
        ("improvement_surcharge", pa.float64()),
        ("total_amount", pa.float64()),
        ("payment_type", pa.float64()),
        ("trip_type", pa.float64()),
        ("congestion_surcharge", pa.float64()),
    ]
)

SCHEMAS = {"yellow": YELLOW, "green": GREEN}
PICKUP = {"yellow": "tpep_pickup_datetime", "green": "lpep_pickup_datetime"}
DROPOFF = {"yellow": "tpep_dropoff_datetime", "green": "lpep_dropoff_datetime"}


def known_color(color: object) -> str:
    """Give `color` back, or raise ConfigurationError naming the known ones."""
    if color not in SCHEMAS:
        raise ConfigurationError(f"color is {color!r}; the known colours are {', '.join(sorted(SCHEMAS))}.")
    return str(color)


def csv_type(color: str, name: str) -> pa.DataType:
    """Give the type to read a CSV column with: integers as doubles, since `1.0` stands there for 1."""
    declared = {field.name.lower(): field.type for field in SCHEMAS[color]}
    wanted = declared.get(RENAMED.get(name, name).lower(), pa.string())
    return pa.float64() if pa.types.is_integer(wanted) else wanted


@dataclass(frozen=True)
class Conform:
    """How one file's columns become the declared ones: its schema, notices, and the function for a batch."""

    schema: pa.Schema
    notices: tuple[str, ...]
    batch: Callable[[pa.RecordBatch, int], pa.RecordBatch]


def conform_to(color: str, found: pa.Schema, what: str, url: str) -> Conform:
    """Plan the way from a file's schema to the declared one.

    New columns stay, behind the declared ones, with a notice. Raises DataError for a missing
    column, naming the nearest one found, and for two columns that are one without their case.
    """
    declared = SCHEMAS[color]
    keys = [RENAMED.get(name, name).lower() for name in found.names]
    twice = [name for name, key in zip(found.names, keys, strict=True) if keys.count(key) > 1]
    if twice:
        raise DataError(
            f"{what}: the columns {' and '.join(map(repr, twice))} of {url} are one and the same without their case. "
            "Nothing was loaded. Which one is meant? Tell it in RENAMED in mage_project/lib/feeds/taxi/schema.py."
        )
    by_name = dict(zip(keys, found.names, strict=True))
    known = {name.lower() for name in declared.names}
    new = [name for key, name in by_name.items() if key not in known]
    missing = [name for name in declared.names if name.lower() not in by_name and name not in ADDED_LATER]
    if missing:
        raise DataError(_missing_text(missing[0], new or found.names, what, url))
    schema = pa.schema([*declared, *(pa.field(name, _storable(found.field(name).type)) for name in new)])
    notices = tuple(f"new column {name!r} ({schema.field(name).type}) in {url}: added as nullable" for name in new)

    def conformed(batch: pa.RecordBatch, rows_before: int) -> pa.RecordBatch:
        columns = []
        for field in schema:
            source = by_name.get(field.name.lower())
            if source is None:
                columns.append(pa.nulls(batch.num_rows, field.type))
            else:
                columns.append(_cast(batch.column(source), field, what, url, rows_before))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    return Conform(schema, notices, conformed)


def _cast(values: pa.Array, field: pa.Field, what: str, url: str, rows_before: int) -> pa.Array:
    if values.type == field.type:
        return values
    if pa.types.is_timestamp(values.type) and values.type.tz:
        raise DataError(
            f"{what}: column {field.name!r} of {url} has the time zone {values.type.tz}, where naive New York time is "
            "declared: which of the two the publisher means can't be told from the file. Nothing was loaded. "
            "Convert it in schema.py."
        )
    try:
        return values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        index = first_uncastable(values, field.type) if isinstance(error, pa.ArrowInvalid) else 0
        value = values[index or 0].as_py() if len(values) else None
        raise DataError(
            f"{what}: row {rows_before + (index or 0) + 1:,} of {url} holds {value!r} in column {field.name!r}, "
            f"which is no {field.type}. Nothing was loaded. "
            "Mend the file, or declare the column's type anew in schema.py."
        ) from error


def _storable(type_: pa.DataType) -> pa.DataType:
    """Give a type that every sink can hold for a column nobody declared."""
    if pa.types.is_integer(type_):
        return pa.int64()
    if pa.types.is_floating(type_) or pa.types.is_null(type_) or pa.types.is_decimal(type_):
        return pa.float64()
    if pa.types.is_timestamp(type_):
        return TIMESTAMP
    return type_ if pa.types.is_boolean(type_) or pa.types.is_date32(type_) else pa.string()


def _missing_text(name: str, found: list[str], what: str, url: str) -> str:
    """`found`: the columns that nobody declared, since one of them may be the missing one."""
    near = difflib.get_close_matches(name.lower(), [other.lower() for other in found], n=1, cutoff=0.4)
    spelt = next((other for other in found if near and other.lower() == near[0]), None)
    seen = f"found {spelt!r}" if spelt else f"found {', '.join(found[:8])}{', …' if len(found) > 8 else ''}"
    return (
        f"{what}: no column {name!r} in {url}; {seen}. Did the publisher rename it? Add it to RENAMED in "
        "mage_project/lib/feeds/taxi/schema.py. Nothing was loaded."
    )


def undeclared(schema: pa.Schema, slice: str) -> list[str]:
    """Give the declared columns that a staged schema lacks or holds with another type, for inline tests."""
    declared = SCHEMAS[known_color(slice.partition("/")[0])]
    return [
        f"{field.name} ({field.type})"
        for field in declared
        if field.name not in schema.names or schema.field(field.name).type != field.type
    ]
