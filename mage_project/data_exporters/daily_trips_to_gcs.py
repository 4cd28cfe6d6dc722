if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_gcs_object


@data_exporter
def daily_trips_to_gcs(trips, *args, **kwargs):
    """The day as one Parquet object, {color}/{YYYY}/{MM}/{DD}/daily_trips.parquet; gives the receipt."""
    run = run_of(kwargs)
    color = run.variables.get("color", "yellow")
    return publish_to_gcs_object(trips, run, path=f"{color}/{run.window.start:%Y/%m/%d}/daily_trips.parquet")
