if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test

import pandas as pd


@data_loader
def read_csv(*args, **kwargs):
    """The month as Mage's own API template reads it: types named, dates parsed."""
    types = {"VendorID": "Int64", "passenger_count": "Int64", "RatecodeID": "Int64", "payment_type": "Int64"}
    types |= {"PULocationID": "Int64", "DOLocationID": "Int64", "store_and_fwd_flag": str}
    dates = ["tpep_pickup_datetime", "tpep_dropoff_datetime"]
    return pd.read_csv(kwargs["url"], sep=",", compression="gzip", dtype=types, parse_dates=dates)


@test
def there_are_trips(output, *args) -> None:
    assert len(output) > 0, "no trips"
