"""A few trips that end before they start are a meter's fault; many are ours."""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.feeds.taxi.checks import BACKWARD_SHARE, backward_trips, backward_trips_allowed
from mage_project.lib.feeds.taxi.schema import DROPOFF, PICKUP
from mage_project.lib.local.trips import count_quirks, generate_trips

NOON = datetime(2021, 2, 1, 12)


def month_of(folder: Path, color: str, minutes: list[int | None]) -> Dataset:
    """Stage trips that last so many minutes each; None: the drop-off is unknown."""
    ends = [None if each is None else NOON + timedelta(minutes=each) for each in minutes]
    table = pa.table({PICKUP[color]: pa.array([NOON] * len(ends)), DROPOFF[color]: pa.array(ends, pa.timestamp("us"))})
    return stage(table.to_batches(), table.schema, folder / "a.arrow", slice=f"{color}/2021-02", source="x")


@pytest.mark.parametrize("color", ["yellow", "green"])
def test_only_trips_known_to_end_before_they_start_count(color: str, tmp_path: Path) -> None:
    assert backward_trips(month_of(tmp_path, color, [5, 0, -1, None, -600])) == 2


@pytest.mark.parametrize("color", ["yellow", "green"])
def test_a_generated_month_is_within_what_is_allowed(color: str, tmp_path: Path) -> None:
    batches = list(generate_trips(color, "2021-02", 5_000))
    trips = stage(batches, batches[0].schema, tmp_path / "a.arrow", slice=f"{color}/2021-02", source="x")
    assert backward_trips(trips) == count_quirks(color, 5_000)["dropoff_before_pickup"] > 0
    assert backward_trips(trips) <= backward_trips_allowed(trips)


@pytest.mark.parametrize(("rows", "allowed"), [(1, 1), (99, 1), (100, 1), (1_000, 10), (1_099, 10)])
def test_one_in_a_hundred_is_allowed_but_always_one(rows: int, allowed: int, tmp_path: Path) -> None:
    assert BACKWARD_SHARE == 0.01
    assert backward_trips_allowed(month_of(tmp_path, "green", [1] * rows)) == allowed


def test_a_month_with_its_columns_mixed_up_is_over_it(tmp_path: Path) -> None:
    trips = month_of(tmp_path, "green", [-5] * 50)
    assert backward_trips(trips) > backward_trips_allowed(trips)
