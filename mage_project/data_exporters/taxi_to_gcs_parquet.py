if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_gcs_object


@data_exporter
def taxi_to_gcs_parquet(trips, *args, **kwargs):
    """The month as one Parquet object, ny_taxi_data/{color}_{yyyy-mm}.parquet; gives the receipt."""
    run = run_of(kwargs)
    color = run.variables.get("color", "yellow")
    return publish_to_gcs_object(trips, run, path=f"ny_taxi_data/{color}_{run.window.month}.parquet")
