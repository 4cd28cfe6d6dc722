if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.feeds.taxi.schema import PICKUP
from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_gcs_partitions


@data_exporter
def taxi_to_gcs_partitioned_parquet(trips, *args, **kwargs):
    """The month as Parquet files by pickup date under nyc_taxi_data/{color}, with a manifest; gives the receipt."""
    run = run_of(kwargs)
    color = run.variables.get("color", "yellow")
    return publish_to_gcs_partitions(
        trips, run, prefix=f"nyc_taxi_data/{color}", partition="pickup_date", by_day_of=PICKUP[color]
    )
