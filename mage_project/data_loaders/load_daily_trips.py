if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

from mage_project.lib.feeds.taxi.schema import undeclared
from mage_project.lib.feeds.taxi.source import load_month
from mage_project.lib.handover import received
from mage_project.lib.runs.context import run_of


@data_loader
def load_daily_trips(*args, **kwargs):
    """The month that holds the execution date, downloaded once for all of its days."""
    run = run_of(kwargs)
    color, day = run.variables.get("color", "yellow"), run.window.start
    staged = run.staged("month")
    return load_month(color, day, run.settings, staged, refresh=run.refresh, slice=f"{color}/{day}").hand_over()


@test
def the_month_has_trips(output, *args) -> None:
    trips = received(output)
    assert trips.rows > 0, f"{trips.slice}: {trips.source} holds no trips; nothing was loaded"


@test
def the_schema_is_as_declared(output, *args) -> None:
    trips = received(output)
    wrong = undeclared(trips.schema, trips.slice)
    assert not wrong, f"{trips.slice}: not as declared: {wrong}"
