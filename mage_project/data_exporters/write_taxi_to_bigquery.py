if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_bigquery


@data_exporter
def write_taxi_to_bigquery(trips, *args, **kwargs):
    """BigQuery loads the files itself and replaces the month in ny_taxi.{color}_cab_data; gives the receipt."""
    run = run_of(kwargs)
    table = f"{run.variables.get('color', 'yellow')}_cab_data"
    return publish_to_bigquery(trips, run, dataset="ny_taxi", table=table, cluster_by=["pulocationid"])
