if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter

import os

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq


@data_exporter
def export_partitions(trips, *args, **kwargs):
    """The notebook's way to Parquet files by day, with pyarrow's own client for Cloud Storage."""
    trips["pickup_date"] = trips["tpep_pickup_datetime"].dt.date
    endpoint = os.environ["STORAGE_EMULATOR_HOST"].partition("://")[2]
    pq.write_to_dataset(
        pa.Table.from_pandas(trips),
        root_path=f"{kwargs['bucket']}/{kwargs['prefix']}",
        partition_cols=["pickup_date"],
        filesystem=pa.fs.GcsFileSystem(anonymous=True, scheme="http", endpoint_override=endpoint),
    )
