if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pyarrow.compute as pc

from mage_project.lib.feeds.taxi.days import day_of, of_another_day
from mage_project.lib.handover import received


@transformer
def keep_execution_date(trips, *args, **kwargs):
    """The trips of the execution date, without those known to have had no passenger."""
    month = received(trips)
    of_day = month.drop_where(of_another_day(month.slice), rule="other_day")
    return of_day.drop_where(pc.field("passenger_count") == 0, rule="zero_passengers").hand_over()


@test
def every_trip_is_of_the_day(output, *args) -> None:
    trips = received(output)
    wrong = trips.count(of_another_day(trips.slice))
    assert wrong == 0, f"{wrong} trips are not of {day_of(trips.slice)}"


@test
def no_trip_without_passengers(output, *args) -> None:
    wrong = received(output).count(pc.field("passenger_count") == 0)
    assert wrong == 0, f"{wrong} trips with passenger_count = 0"
