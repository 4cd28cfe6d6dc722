if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_postgres


@data_exporter
def export_to_postgres(data, *args, **kwargs):
    """Small slices: partitioned=False. Big ones (a month of trips): leave it out."""
    return publish_to_postgres(data, run_of(kwargs), schema="my_schema", table="my_table", partitioned=False)
