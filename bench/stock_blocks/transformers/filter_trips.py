if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test


@transformer
def filter_trips(trips, *args, **kwargs):
    """The predicate of all sides: drop what is 0, keep what is unknown."""
    return trips[~(trips["passenger_count"] == 0).fillna(False)]


@test
def no_trip_without_passengers(output, *args) -> None:
    assert (output["passenger_count"] == 0).sum() == 0, "trips without passengers"
