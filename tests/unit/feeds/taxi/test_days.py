"""A trip is of the day of its pickup, to the microsecond; an unknown pickup is of no day."""

from datetime import date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mage_project.lib.feeds.taxi.days import day_of, of_another_day
from mage_project.lib.feeds.taxi.schema import PICKUP, TIMESTAMP

days = st.dates(date(1, 1, 2), date(9999, 12, 30))


def others(slice: str, *pickups: datetime | None) -> list[datetime | None]:
    """Give the pickups that are not of the slice's day."""
    column = PICKUP[slice.partition("/")[0]]
    table = pa.table({column: pa.array(pickups, TIMESTAMP)})
    return table.filter(of_another_day(slice)).column(column).to_pylist()


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("color", ["green", "yellow"])
def test_the_day_begins_at_midnight_and_ends_before_the_next(color: str) -> None:
    first, last = at("2021-01-10T00:00:00"), at("2021-01-10T23:59:59.999999")
    before, after = at("2021-01-09T23:59:59.999999"), at("2021-01-11T00:00:00")
    assert others(f"{color}/2021-01-10", first, before, last, after) == [before, after]


def test_the_same_day_of_another_month_or_year_is_another_day() -> None:
    wrong = [at("2021-02-10T12:00:00"), at("2009-01-10T12:00:00"), at("2021-10-01T12:00:00")]
    assert others("green/2021-01-10", *wrong) == wrong


def test_an_unknown_pickup_is_of_no_day_and_does_not_stay() -> None:
    assert others("green/2021-01-10", None, at("2021-01-10T12:00:00")) == [None]


@given(days, st.datetimes())
def test_it_is_the_day_that_the_pickup_is_written_with(day: date, pickup: datetime) -> None:
    noon = datetime(day.year, day.month, day.day, 12)
    assert others(f"green/{day}", pickup, noon) == ([] if pickup.date() == day else [pickup])


@given(days)
def test_a_slices_name_gives_its_day_again(day: date) -> None:
    assert day_of(f"green/{day}") == day
    assert day_of(f"yellow/{day + timedelta(days=1)}") - day == timedelta(days=1)


@pytest.mark.parametrize("slice", ["green/2021-01", "green", "green/tenth"])
def test_a_slice_that_is_no_days_is_refused(slice: str) -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        day_of(slice)
