import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.handover import received
from mage_project.lib.local import trips
from tests.support.months import kept_rows, month_table, with_column, without_passengers, write_month


def test_the_loader_hands_over_every_row_of_the_month(run_block, published, run_kwargs):
    write_month(published.folder, rows=700)
    output = run_block("data_loaders/load_api_data.py", **run_kwargs)
    assert received(output).rows == 700
    assert received(output).slice == "green/2021-01"


def test_the_transformer_drops_known_zeros_and_keeps_the_unknown(run_block, published, run_kwargs):
    write_month(published.folder, rows=700)
    loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
    output = run_block("transformers/transform_taxi_data.py", loaded, **run_kwargs)
    table = month_table(rows=700)
    kept = received(output)
    assert kept.rows == kept_rows(table) < 700
    assert dict(kept.dropped) == {"zero_passengers": 700 - kept_rows(table)}
    assert kept.count(pc.field("passenger_count").is_null()) == table["passenger_count"].null_count > 0


def test_a_month_without_a_row_fails_the_loaders_test(run_block, published, run_kwargs):
    write_month(published.folder, change=lambda table: table.slice(0, 0))
    with pytest.raises(AssertionError, match="holds no trips; nothing was loaded"):
        run_block("data_loaders/load_api_data.py", **run_kwargs)


def test_a_month_of_which_nothing_is_left_fails_the_transformers_test(run_block, published, run_kwargs):
    write_month(published.folder, change=without_passengers)
    loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
    with pytest.raises(AssertionError, match="every trip was dropped"):
        run_block("transformers/transform_taxi_data.py", loaded, **run_kwargs)


def test_a_month_whose_times_are_mixed_up_fails_the_transformers_test(run_block, published, run_kwargs):
    def mixed_up(table: pa.Table) -> pa.Table:
        return with_column(
            table, "lpep_dropoff_datetime", pc.subtract(table["lpep_pickup_datetime"], pa.scalar(1, pa.duration("us")))
        )

    write_month(published.folder, change=mixed_up)
    loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
    with pytest.raises(AssertionError, match="end before they start"):
        run_block("transformers/transform_taxi_data.py", loaded, **run_kwargs)


def test_an_unknown_colour_is_refused_before_anything_is_asked_for(run_block, published, run_kwargs):
    with pytest.raises(ConfigurationError, match="'pink'"):
        run_block("data_loaders/load_api_data.py", **{**run_kwargs, "color": "pink"})
    assert published.requests == []


def test_the_zones_are_265(run_block, published, run_kwargs):
    trips.write_zones(published.folder / "taxi_zone_lookup.csv")
    assert received(run_block("data_loaders/load_taxi_zones.py", **run_kwargs)).rows == 265


def test_a_zone_list_of_another_length_fails_the_loaders_test(run_block, published, run_kwargs):
    path = published.folder / "taxi_zone_lookup.csv"
    trips.write_zones(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(AssertionError, match="264 zones"):
        run_block("data_loaders/load_taxi_zones.py", **run_kwargs)
