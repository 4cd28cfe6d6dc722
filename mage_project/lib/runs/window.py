"""Windows: the half-open span of time `[start, end)` that a run covers.

Dates are compared as the publisher writes them (naive). A pipeline declares its `cadence` ("day",
"week" or "month") and its `offset`: how many windows before its execution date a scheduled run
loads (taxi: 2, because the TLC publishes two months late).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from mage_project.lib.errors import ConfigurationError

CADENCES = ("day", "week", "month")


@dataclass(frozen=True, order=True)
class Window:
    """Half-open: `start` is in it, `end` is not."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ConfigurationError(f"a window must end after its start; got {self.start} to {self.end}.")

    def __str__(self) -> str:
        return f"{self.start}/{self.end}"

    @property
    def month(self) -> str:
        """The month of its start, as `yyyy-mm`."""
        return f"{self.start:%Y-%m}"


def window_holding(day: date, cadence: str) -> Window:
    """Give the window of `cadence` that holds `day`; weeks start on Monday."""
    if cadence == "day":
        return Window(day, day + timedelta(days=1))
    if cadence == "week":
        start = day - timedelta(days=day.weekday())
        return Window(start, start + timedelta(days=7))
    if cadence == "month":
        start = day.replace(day=1)
        return Window(start, (start + timedelta(days=31)).replace(day=1))
    raise ConfigurationError(f"cadence is {cadence!r}; it must be one of {', '.join(CADENCES)}.")


def windows_before(window: Window, count: int, cadence: str) -> Window:
    """Give the window that lies `count` windows earlier."""
    for _ in range(count):
        window = window_holding(window.start - timedelta(days=1), cadence)
    return window


def parse_date(text: str) -> date:
    """Read `YYYY-MM-DD`, or raise ConfigurationError naming what was found."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is not a date. Write it as YYYY-MM-DD, for example 2021-02-10.") from None
    if not 1900 <= day.year < 3000:
        raise ConfigurationError(f"{text!r} is not a date that any data has: its year must lie in 1900 to 2999.")
    return day


def parse_window(text: str) -> Window:
    """Read what `str(window)` wrote."""
    start, _, end = text.partition("/")
    return Window(parse_date(start), parse_date(end))
