"""One day of a month's trips: which rows are of it, by their pickup."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from mage_project.lib.feeds.taxi.schema import PICKUP, TIMESTAMP


def day_of(slice: str) -> date:
    """Give the day of a slice `{color}/{yyyy-mm-dd}`."""
    return date.fromisoformat(slice.partition("/")[2])


def of_another_day(slice: str) -> pc.Expression:
    """Give the condition of trips that were not picked up on the slice's day; an unknown pickup is of no day.

    A month's file holds a few trips of other months: those of its day in *another* month's file are
    not this slice's (they are counted as `other_day` where they lie).
    """
    pickup = pc.field(PICKUP[slice.partition("/")[0]])
    start = datetime.combine(day_of(slice), time())
    begin, end = (pa.scalar(each, TIMESTAMP) for each in (start, start + timedelta(days=1)))
    return pickup.is_null() | (pickup < begin) | (pickup >= end)
