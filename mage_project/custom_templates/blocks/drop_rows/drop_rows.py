if "transformer" not in globals():
    from mage_ai.data_preparation.decorators import transformer
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pyarrow.compute as pc

from mage_project.lib.handover import received


@transformer
def drop_rows(data, *args, **kwargs):
    """Say here which rows go, and why."""
    return received(data).drop_where(pc.field("fare_amount") < 0, rule="negative_fare").hand_over()


@test
def no_such_row_is_left(output, *args) -> None:
    assert received(output).count(pc.field("fare_amount") < 0) == 0, "negative fares are left"
