if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_postgres


@data_exporter
def taxi_data_to_postgres(trips, *args, **kwargs):
    """The month takes the place of what its slice held in ny_taxi.{color}_cab_data; gives the receipt."""
    run = run_of(kwargs)
    table = f"{run.variables.get('color', 'yellow')}_cab_data"
    return publish_to_postgres(trips, run, schema="ny_taxi", table=table)
