if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pyarrow.compute as pc

from mage_project.lib.feeds.taxi.zones import load_zones
from mage_project.lib.handover import received
from mage_project.lib.runs.context import run_of


@data_loader
def load_taxi_zones(*args, **kwargs):
    """The TLC's list of taxi zones."""
    run = run_of(kwargs)
    return load_zones(run.settings, run.staged("zones"), refresh=run.refresh).hand_over()


@test
def every_zone_has_a_number(output, *args) -> None:
    assert received(output).count(pc.field("LocationID").is_null()) == 0, "a zone without LocationID"


@test
def there_are_265_zones(output, *args) -> None:
    assert received(output).rows == 265, f"{received(output).rows} zones, where the TLC has 265"
