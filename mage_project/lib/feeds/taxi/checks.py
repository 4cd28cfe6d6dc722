"""What the taxi blocks' inline tests ask of a whole month."""

from __future__ import annotations

import pyarrow.compute as pc

from mage_project.lib.dataset import Dataset
from mage_project.lib.feeds.taxi.schema import DROPOFF, PICKUP

# In the TLC's months a few trips in a thousand end before they start (meters set wrong). More than
# this share means that a column was mixed up, not that a meter was.
BACKWARD_SHARE = 0.01


def backward_trips(trips: Dataset) -> int:
    """Count trips whose drop-off is before their pickup, over the whole month."""
    color = trips.slice.partition("/")[0]
    return trips.count(pc.field(DROPOFF[color]) < pc.field(PICKUP[color]))


def backward_trips_allowed(trips: Dataset) -> int:
    """Give how many of them are tolerated: BACKWARD_SHARE of the rows, but always one."""
    return max(1, int(trips.rows * BACKWARD_SHARE))
