"""The TLC's monthly trip files: `{base}/{color}_tripdata_{yyyy-mm}.{parquet|csv.gz|csv}`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path

import pyarrow as pa

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import NotPublishedError, ReconciliationError, about_slice
from mage_project.lib.feeds.taxi.schema import Conform, conform_to, csv_type, known_color
from mage_project.lib.formats import open_file
from mage_project.lib.http import download
from mage_project.lib.settings import Settings


def load_month(
    color: object,
    day: date,
    settings: Settings,
    staged: Path,
    *,
    refresh: bool = False,
    slice: str | None = None,
) -> Dataset:
    """Fetch the month of `color` that holds `day` and stage it in the declared schema, every row of it.

    The slice is `{color}/{yyyy-mm}` unless another is given: what this file brought, whatever days its rows claim.
    Raises ConfigurationError for an unknown colour, NotPublishedError for a month that isn't there
    (yet), DataError for a file that isn't what it should be.
    """
    color = known_color(color)
    slice = slice or f"{color}/{day:%Y-%m}"
    with about_slice(slice):
        return _load(color, day.replace(day=1), settings, staged, refresh, slice)


def _load(color: str, month_start: date, settings: Settings, staged: Path, refresh: bool, slice: str) -> Dataset:
    month = f"{month_start:%Y-%m}"
    what = f"{color} {month}"
    if month_start > date.today():
        raise NotPublishedError(
            f"{what}: the month lies in the future, so there is no file yet. Choose an earlier --date."
        )
    url = f"{settings.taxi.base_url}/{color}_tripdata_{month}.{settings.taxi.format}"
    raw = download(url, settings.raw_folder, settings.http, what=what, setting="TAXI_BASE_URL", refresh=refresh)
    with open_file(raw.path, settings.taxi.format, partial(csv_type, color), what) as opened:
        plan = conform_to(color, opened.schema, what, raw.url)
        batches = _conformed(opened.batches, plan)
        dataset = stage(batches, plan.schema, staged, slice=slice, source=raw.url)
    if opened.rows is not None and dataset.rows != opened.rows:
        raise ReconciliationError(
            f"{what}: {raw.url} says that it holds {opened.rows:,} rows, but {dataset.rows:,} came out of it. "
            "Nothing was loaded; fetch it again with --refresh, and report this if it stays."
        )
    return dataset.noting(*plan.notices)


def _conformed(batches: Iterator[pa.RecordBatch], plan: Conform) -> Iterator[pa.RecordBatch]:
    rows_before = 0
    for batch in batches:
        yield plan.batch(batch, rows_before)
        rows_before += batch.num_rows
