if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

from mage_project.lib.runs.context import run_of
from mage_project.lib.runs.publish import publish_to_gcs_partitions


@data_exporter
def export_to_gcs(data, *args, **kwargs):
    """Files by day of a column of timestamps. One object instead: publish_to_gcs_object(data, run, path=...)."""
    run = run_of(kwargs)
    return publish_to_gcs_partitions(data, run, prefix="my_data", partition="day", by_day_of="my_timestamp")
