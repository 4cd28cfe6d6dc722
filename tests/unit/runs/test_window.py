"""Windows tile the calendar: every day is in exactly one window of a cadence, and none overlaps another."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.runs.window import CADENCES, Window, parse_date, parse_window, window_holding, windows_before

days = st.dates(date(1990, 1, 1), date(2200, 1, 1))
cadences = st.sampled_from(CADENCES)


@given(days, cadences)
def test_a_window_holds_its_day(day: date, cadence: str) -> None:
    window = window_holding(day, cadence)
    assert window.start <= day < window.end


@given(days, cadences)
def test_each_day_of_a_window_gives_the_same_window(day: date, cadence: str) -> None:
    window = window_holding(day, cadence)
    assert window_holding(window.start, cadence) == window
    assert window_holding(window.end - timedelta(days=1), cadence) == window


@given(days, cadences)
def test_windows_tile_without_gap_or_overlap(day: date, cadence: str) -> None:
    window = window_holding(day, cadence)
    assert window_holding(window.end, cadence).start == window.end
    assert windows_before(window, 1, cadence).end == window.start


@given(days, cadences, st.integers(0, 5), st.integers(0, 5))
def test_going_back_adds_up(day: date, cadence: str, first: int, second: int) -> None:
    window = window_holding(day, cadence)
    there = windows_before(windows_before(window, first, cadence), second, cadence)
    assert there == windows_before(window, first + second, cadence)


@given(days, cadences)
def test_a_window_reads_back_from_its_text(day: date, cadence: str) -> None:
    window = window_holding(day, cadence)
    assert parse_window(str(window)) == window


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2024-02-29", "2024-02-01", "2024-03-01"),
        ("2023-02-28", "2023-02-01", "2023-03-01"),
        ("2000-02-29", "2000-02-01", "2000-03-01"),
        ("2021-12-31", "2021-12-01", "2022-01-01"),
        ("2021-01-31", "2021-01-01", "2021-02-01"),
        ("2021-04-30", "2021-04-01", "2021-05-01"),
    ],
)
def test_a_month_ends_where_the_next_begins(day: str, start: str, end: str) -> None:
    window = window_holding(date.fromisoformat(day), "month")
    assert str(window) == f"{start}/{end}"
    assert window.month == start[:7]


def test_weeks_begin_on_monday() -> None:
    assert window_holding(date(2024, 3, 3), "week") == Window(date(2024, 2, 26), date(2024, 3, 4))


@pytest.mark.parametrize(
    ("cadence", "count", "expected"),
    [
        ("month", 2, "2023-12-01/2024-01-01"),
        ("month", 14, "2022-12-01/2023-01-01"),
        ("day", 1, "2024-02-29/2024-03-01"),
    ],
)
def test_the_offset_counts_windows_and_not_days(cadence: str, count: int, expected: str) -> None:
    day = date(2024, 3, 1) if cadence == "day" else date(2024, 2, 29)
    assert str(windows_before(window_holding(day, cadence), count, cadence)) == expected


@pytest.mark.parametrize(
    "text", ["2021-02-30", "2021-13-01", "yesterday", "", "10.02.2021", "2021-02", "2021-02-10T00"]
)
def test_what_is_no_date_is_refused_with_the_form_to_write(text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{text!r} is not a date\. Write it as YYYY-MM-DD"):
        parse_date(text)


@pytest.mark.parametrize("text", ["2021-02-01", "2021-02-01/", "2021-02-01/soon", "/"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a date"):
        parse_window(text)


@pytest.mark.parametrize("end", ["2021-02-01", "2021-01-31"])
def test_a_window_ends_after_it_starts(end: str) -> None:
    with pytest.raises(ConfigurationError, match="must end after its start; got 2021-02-01 to"):
        parse_window(f"2021-02-01/{end}")


def test_an_unknown_cadence_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="cadence is 'hour'; it must be one of day, week, month"):
        window_holding(date(2021, 2, 10), "hour")


@pytest.mark.parametrize("text", ["9999-12-31", "0001-01-01", "1899-12-31", "3000-01-01"])
def test_a_year_that_no_data_has_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="1900 to 2999"):
        parse_date(text)
