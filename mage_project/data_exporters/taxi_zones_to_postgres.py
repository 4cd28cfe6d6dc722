if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_postgres


@data_exporter
def taxi_zones_to_postgres(zones, *args, **kwargs):
    """The list takes the place of the one in ny_taxi.taxi_zones; gives the receipt."""
    return publish_to_postgres(zones, run_of(kwargs), schema="ny_taxi", table="taxi_zones", partitioned=False)
