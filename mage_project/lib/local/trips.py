"""A month of taxi trips out of a seed, in the TLC's own schema, spelling and dirt.

What the published files do, and these do too:

- Numbers that are counts or codes arrive as doubles (`passenger_count` 1.0), and a column without a
  value has arrow's `null` type (`airport_fee` of yellow, `ehail_fee` of green).
- About 7 % of yellow and 45 % of green rows, the file's tail, have no `passenger_count`, `RatecodeID`,
  `store_and_fwd_flag` and `congestion_surcharge` (green: no `payment_type` and `trip_type` either).
- About 2 % say `passenger_count` 0. Rows before the tail are roughly in order of pickup, not sorted.
- Refunds have every amount negative; some meters think it is 2008 or 2009; some trips
  belong to a day of the month before or after; some end before they begin.
- A parquet file is one row group. The CSV has whole seconds, no quotes, integers where parquet has
  doubles, and no `airport_fee`.

Every month has the layout of 2021 here; the publisher changed types and columns over the years.
"""

from __future__ import annotations

import csv
import gzip
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from mage_project.lib.errors import ConfigurationError

Array = np.ndarray
Random = np.random.Generator

GENERATION = 1  # raise it when the same arguments begin to give other trips: it names cache folders
BLOCK_ROWS = 65536
ZONES, NEWARK, JFK, LA_GUARDIA = 265, 1, 132, 138


def _schema(columns: str) -> pa.Schema:
    types = {"n": pa.int64(), "d": pa.float64(), "t": pa.timestamp("us"), "s": pa.string(), "0": pa.null()}
    return pa.schema([(name, types[kind]) for name, kind in (c.split(":") for c in columns.split())])


SCHEMAS = {
    "yellow": _schema(
        "VendorID:n tpep_pickup_datetime:t tpep_dropoff_datetime:t passenger_count:d trip_distance:d "
        "RatecodeID:d store_and_fwd_flag:s PULocationID:n DOLocationID:n payment_type:n fare_amount:d "
        "extra:d mta_tax:d tip_amount:d tolls_amount:d improvement_surcharge:d total_amount:d "
        "congestion_surcharge:d airport_fee:0"
    ),
    "green": _schema(
        "VendorID:n lpep_pickup_datetime:t lpep_dropoff_datetime:t store_and_fwd_flag:s RatecodeID:d "
        "PULocationID:n DOLocationID:n passenger_count:d trip_distance:d fare_amount:d extra:d mta_tax:d "
        "tip_amount:d tolls_amount:d ehail_fee:0 improvement_surcharge:d total_amount:d payment_type:d "
        "trip_type:d congestion_surcharge:d"
    ),
}
_TIMES = [name for schema in SCHEMAS.values() for name in schema.names if name.endswith("_datetime")]
_CODES = ("passenger_count", "RatecodeID", "payment_type", "trip_type")
_TYPES_IN_CSV = dict.fromkeys(_CODES, pa.int64()) | dict.fromkeys(_TIMES, pa.timestamp("s"))
_EMPTY_TOGETHER = ("passenger_count", "RatecodeID", "store_and_fwd_flag", "congestion_surcharge", "trip_type")

_ORDINARY, _ZERO, _REFUND, _WRONG_YEAR, _OTHER_MONTH, _BACKWARDS, _EMPTY = range(7)  # as count_quirks
_NEW_YEAR_2009 = 1_230_768_000
_DEMAND_BY_HOUR = np.array(  # yellow trips in each hour of the day, per mille
    [21, 13, 9, 6, 6, 10, 24, 41, 50, 49, 50, 54, 59, 60, 65, 67, 66, 70, 69, 59, 47, 43, 38, 29]
)


def count_quirks(color: str, rows: int) -> dict[str, int]:
    """Give how many of `rows` trips have each quirk: exactly, and no trip has two of them."""
    few = [min(rows // 50, max(3, rows // one_in)) for one_in in (250, 50_000, 5_000, 5_000)]
    names = ("refund", "dated_2008_or_2009", "other_month", "dropoff_before_pickup")
    return {
        "zero_passengers": round(rows * 0.02),
        **dict(zip(names, few, strict=True)),
        "empty_passengers": round(rows * (0.07 if color == "yellow" else 0.45)),
    }


def generate_trips(
    color: str, month: str, rows: int, seed: int = 0, batch_rows: int = BLOCK_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield `rows` trips of `month` (yyyy-mm) in batches of at most `batch_rows` (and `BLOCK_ROWS`).

    The rows depend on colour, month, rows and seed alone. Raises ConfigurationError at the first batch.
    """
    if color not in SCHEMAS or not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month) or rows < 1 or seed < 0:
        raise ConfigurationError(
            f"no trips for {color} {month} with rows={rows}, seed={seed}: the colour must be one of "
            f"{', '.join(SCHEMAS)}, the month like 2021-02, rows at least 1, the seed at least 0."
        )
    identity = [seed, rows, int(month.replace("-", "")), list(SCHEMAS).index(color)]
    *counts, tail = count_quirks(color, rows).values()
    head = rows - tail
    quirks = np.repeat(np.arange(7, dtype=np.uint8), [head - sum(counts), *counts, tail])
    np.random.default_rng(identity).shuffle(quirks[:head])
    # where in the month each trip is (0 to 1): once through it, and once more for the tail
    position = np.concatenate([np.arange(head) / head, np.arange(tail) / max(tail, 1)])
    for number, start in enumerate(range(0, rows, BLOCK_ROWS)):
        part, rng = slice(start, start + BLOCK_ROWS), np.random.default_rng([*identity, number])
        block = _generate_block(color, month, quirks[part], position[part], rng)
        for offset in range(0, len(block), batch_rows):
            yield block.slice(offset, batch_rows)


def _generate_block(color: str, month: str, quirks: Array, position: Array, rng: Random) -> pa.RecordBatch:
    size, empty, yellow = len(quirks), quirks == _EMPTY, color == "yellow"
    miles = np.round(rng.lognormal(0.55, 0.85, size), 2)
    miles[rng.random(size) < 0.014] = 0.0  # the meter ran, the car didn't move
    pickup, dropoff = _times(month, quirks, position, miles, rng)
    zones = {zone * 42 % ZONES + 1: 1 / (zone + 8) for zone in range(ZONES)}  # some are busy, most are not
    prefix = "tpep" if yellow else "lpep"
    trips: dict[str, Array] = {
        "VendorID": np.where(empty & (rng.random(size) < 0.02), 6, _choose(rng, {1: 32, 2: 68}, size)),
        f"{prefix}_pickup_datetime": pickup * 1_000_000,
        f"{prefix}_dropoff_datetime": dropoff * 1_000_000,
        "passenger_count": _choose(rng, {1: 73, 2: 14.5, 3: 4, 4: 1.6, 5: 3.5, 6: 3.39, 7: 0.01}, size),
        "trip_distance": miles,
        "RatecodeID": _choose(rng, {1: 97, 2: 1.9, 3: 0.2, 4: 0.1, 5: 0.8}, size),
        "store_and_fwd_flag": np.where(rng.random(size) < 0.985, "N", "Y"),
        "PULocationID": _choose(rng, zones, size),
        "DOLocationID": _choose(rng, zones, size),
        "payment_type": _choose(rng, {1: 74, 2: 25, 3: 0.6, 4: 0.4}, size),
        "trip_type": _choose(rng, {1: 97, 2: 3}, size),
        "airport_fee" if yellow else "ehail_fee": np.full(size, None),
    }
    trips["passenger_count"][quirks == _ZERO] = 0
    trips["DOLocationID"][trips["RatecodeID"] == 2] = JFK  # codes 2 and 3 are the flat and Newark rates
    trips["DOLocationID"][trips["RatecodeID"] == 3] = NEWARK
    trips["payment_type"][quirks == _REFUND] = 4
    trips["payment_type"][empty] = 0
    trips |= _amounts(quirks, trips, pickup % 86400 // 3600, (dropoff - pickup) / 60, rng)
    emptied = _EMPTY_TOGETHER if yellow else (*_EMPTY_TOGETHER, "payment_type")
    arrays = [pa.array(trips[name], mask=empty if name in emptied else None) for name in SCHEMAS[color].names]
    return pa.record_batch(arrays, SCHEMAS[color].names).cast(SCHEMAS[color])


def _times(month: str, quirks: Array, position: Array, miles: Array, rng: Random) -> tuple[Array, Array]:
    """Give pickup and drop-off in seconds since 1970, New York's wall clock."""
    months = np.arange(month, np.datetime64(month) + 2, dtype="datetime64[M]")
    start, end = months.astype("datetime64[s]").astype(int)
    demand = np.tile(_DEMAND_BY_HOUR, (end - start) // 86400)
    hour_ends = np.concatenate([[0.0], demand.cumsum() / demand.sum()])
    second = np.interp(position, hour_ends, np.arange(len(hour_ends)) * 3600.0).astype(np.int64)
    second = np.abs(second + rng.integers(-900, 900, len(second)))  # reflected at both ends of the month
    pickup = end - 1 - np.abs(end - 1 - start - second)
    stray = rng.integers(1, 86400, len(pickup))
    pickup = np.where(quirks == _OTHER_MONTH, np.where(stray % 2, start - stray, end + stray), pickup)
    pickup = np.where(quirks == _WRONG_YEAR, _NEW_YEAR_2009 + stray - 43200, pickup)
    miles_per_hour = np.clip(rng.lognormal(2.5, 0.35, len(pickup)), 3, 60)
    seconds = (miles / miles_per_hour * 3600 + rng.exponential(90, len(pickup))).astype(np.int64) + 1
    seconds[rng.random(len(pickup)) < 0.002] = 86_000  # a meter left on: nearly a day
    return pickup, pickup + np.where(quirks == _BACKWARDS, -(stray % 3600) - 1, seconds)


def _amounts(quirks: Array, trips: dict, hour: Array, minutes: Array, rng: Random) -> dict[str, Array]:
    """Give the amounts in dollars; they are made in cents, so that `total_amount` is their sum."""
    size, empty, miles = len(quirks), quirks == _EMPTY, trips["trip_distance"]
    waiting = np.clip(minutes, 0, 90) * rng.uniform(0.2, 0.5, size)
    metered = 250 + 50 * (5 * miles + waiting).astype(np.int64)
    metered = np.where(empty, metered + rng.integers(0, 50, size), metered)  # apps charge odd cents
    cents: dict[str, Any] = {
        "fare_amount": np.where(trips["RatecodeID"] == 2, 5200, metered),
        "extra": np.where((hour >= 20) | (hour < 6), 50, np.where(hour >= 16, 100, 0)),
        "mta_tax": np.full(size, 50),
        "tolls_amount": np.where(rng.random(size) < np.where(miles > 8, 0.5, 0.01), 612, 0),
        "improvement_surcharge": np.full(size, 30),
        "congestion_surcharge": np.where(empty | (rng.random(size) < 0.08), 0, 250),
    }
    by_card = (trips["payment_type"] == 1) & (rng.random(size) < 0.95)
    tip_share = np.where(by_card, rng.normal(0.22, 0.06, size).clip(0), 0)
    cents["tip_amount"] = (sum(cents.values()) * tip_share).astype(np.int64)
    cents["total_amount"] = sum(cents.values())
    sign = np.where(quirks == _REFUND, -1, 1)
    return {name: amount * sign / 100 for name, amount in cents.items()}


def _choose(rng: Random, weights: dict[int, float], size: int) -> Array:
    """Give keys drawn by weight: 32-bit draws against the running sum, faster than rng.choice."""
    edges = np.cumsum(list(weights.values()), dtype=np.float32)[:-1] / sum(weights.values())
    drawn = np.searchsorted(edges.astype(np.float32), rng.random(size, dtype=np.float32), side="right")
    return np.array(list(weights))[drawn]


def write_parquet(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write trips as the TLC does: one row group. They are all in memory for that."""
    table = pa.Table.from_batches(batches)
    with _set_aside(path) as unfinished:
        pq.write_table(table, unfinished, row_group_size=len(table))


def write_csv(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write trips in the TLC's CSV form."""
    with _set_aside(path) as unfinished, unfinished.open("wb") as file:
        _write_csv_to(file, batches)


def write_csv_gz(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write trips in the TLC's CSV form, compressed; equal trips give equal bytes (no time inside)."""
    with (
        _set_aside(path) as unfinished,
        unfinished.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
    ):
        _write_csv_to(compressed, batches)


def _write_csv_to(file: BinaryIO | gzip.GzipFile, batches: Iterable[pa.RecordBatch]) -> None:
    options = pacsv.WriteOptions(quoting_style="none", quoting_header="none", batch_size=8192)
    writer = None
    for batch in batches:
        fields = [field for field in batch.schema if field.name != "airport_fee"]
        schema = pa.schema([(field.name, _TYPES_IN_CSV.get(field.name, field.type)) for field in fields])
        writer = writer or pacsv.CSVWriter(file, schema, write_options=options)
        writer.write_batch(batch.select(schema.names).cast(schema))
    if writer:
        writer.close()


def write_zones(path: Path) -> None:
    """Write 265 zones with invented names, quoted as the TLC does; `NV`, `NA` and `N/A` are text there."""
    boroughs = ("Bronx", "Brooklyn", "Manhattan", "Queens", "Staten Island")
    airports = {JFK: "JFK Airport", LA_GUARDIA: "LaGuardia Airport"}
    header = ("LocationID", "Borough", "Zone", "service_zone")
    rows: list[tuple] = [header, (NEWARK, "EWR", "Newark Airport", "EWR")]
    for zone in range(2, ZONES - 1):
        borough = "Queens" if zone in airports else boroughs[zone % len(boroughs)]
        service = "Airports" if zone in airports else "Yellow Zone" if borough == "Manhattan" else "Boro Zone"
        name = f"{borough} {('North', 'South', 'East', 'West')[zone % 4]}/Surveyor's Block {zone // 20 + 1}"
        rows.append((zone, borough, airports.get(zone, name), service))
    rows += [(ZONES - 1, "Unknown", "NV", "N/A"), (ZONES, "Unknown", "NA", "N/A")]
    with _set_aside(path) as unfinished, unfinished.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)


@contextmanager
def _set_aside(path: Path) -> Iterator[Path]:
    """Give a name beside `path`, and rename to it when all went well: nobody reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
