if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

from mage_project.lib.handover import received


def plausible_trips(frame):
    """Gets a batch as a DataFrame, gives one back: the rows it drops are counted under its name."""
    frame = frame[frame["trip_distance"] < 500]
    return frame.assign(tip_share=frame["tip_amount"] / frame["total_amount"])


@transformer
def transform_with_pandas(data, *args, **kwargs):
    """Say here what goes in and what comes out."""
    return received(data).map_pandas(plausible_trips).hand_over()


@test
def rows_are_left(output, *args) -> None:
    assert received(output).rows > 0, "every row was dropped"
