"""The TLC's taxi zones: one CSV of 265 rows that hardly ever changes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import DataError
from mage_project.lib.formats import open_file
from mage_project.lib.http import download
from mage_project.lib.settings import Settings

# 264 is "Unknown" and 265 "Outside of NYC": their borough and zone hold the text "N/A", not a null.
ZONES = pa.schema(
    [("LocationID", pa.int64()), ("Borough", pa.string()), ("Zone", pa.string()), ("service_zone", pa.string())]
)
SLICE = "taxi_zones"


def load_zones(settings: Settings, staged: Path, *, refresh: bool = False) -> Dataset:
    """Fetch the zone list and stage it. Raises DataError when a column is missing."""
    raw = download(
        settings.taxi.zones_url,
        settings.raw_folder,
        settings.http,
        what="taxi zones",
        setting="TAXI_ZONES_URL",
        refresh=refresh,
    )
    with open_file(raw.path, "csv", _type_of, "taxi zones") as opened:
        missing = [name for name in ZONES.names if name not in opened.schema.names]
        if missing:
            raise DataError(
                f"taxi zones: no column {missing[0]!r} in {raw.url}; found {', '.join(opened.schema.names)}. "
                "Check TAXI_ZONES_URL."
            )
        batches = (batch.select(ZONES.names) for batch in opened.batches)
        return stage(batches, ZONES, staged, slice=SLICE, source=raw.url)


def _type_of(name: str) -> pa.DataType:
    return ZONES.field(name).type if name in ZONES.names else pa.string()
