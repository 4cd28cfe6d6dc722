if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pyarrow.compute as pc

from mage_project.lib.feeds.taxi.checks import backward_trips, backward_trips_allowed
from mage_project.lib.handover import received


@transformer
def transform_taxi_data(trips, *args, **kwargs):
    """Trips without those known to have had no passenger; an empty count is unknown and stays."""
    return received(trips).drop_where(pc.field("passenger_count") == 0, rule="zero_passengers").hand_over()


@test
def no_trip_without_passengers(output, *args) -> None:
    wrong = received(output).count(pc.field("passenger_count") == 0)
    assert wrong == 0, f"{wrong} trips with passenger_count = 0"


@test
def hardly_any_trip_ends_before_it_starts(output, *args) -> None:
    trips = received(output)
    wrong, allowed = backward_trips(trips), backward_trips_allowed(trips)
    assert wrong <= allowed, f"{trips.slice}: {wrong} trips end before they start, more than the {allowed} allowed"


@test
def trips_are_left(output, *args) -> None:
    assert received(output).rows > 0, f"{received(output).slice}: every trip was dropped"
