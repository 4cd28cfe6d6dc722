"""The blocks of the way over the bucket: names standardized, a day kept of its month, nothing dropped unseen."""

from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mage_project.lib.errors import ConfigurationError, DataError, DatasetMisuseError, NotPublishedError
from mage_project.lib.feeds.taxi.days import of_another_day
from mage_project.lib.feeds.taxi.schema import SCHEMAS
from mage_project.lib.handover import received, received_manifest
from mage_project.lib.manifest import Manifest, ManifestFile
from tests.support.blocks import block
from tests.support.months import month_table, with_column, write_month

PICKUP = "lpep_pickup_datetime"
STANDARDIZE = "transformers/standardize_column_names.py"
KEEP = "transformers/keep_execution_date.py"
LOAD = "data_loaders/load_daily_trips.py"
DAY = "2021-01-10"


def manifest_of(*names: str, partition: str = "pickup_date") -> Manifest:
    """Make a manifest by hand: one file of seven trips with these columns."""
    return Manifest(
        slice="green/2021-01",
        bucket="trips",
        path="nyc_taxi_data/green/_manifests/2021-01.json",
        rows=7,
        files=(ManifestFile(f"nyc_taxi_data/green/{partition}={DAY}/a.parquet", DAY, 7, 900, "AAAAAA=="),),
        schema=pa.schema([(name, pa.int64()) for name in names]),
        partition_column=partition,
        prefix="nyc_taxi_data/green",
        source="http://tlc/green_tripdata_2021-01.parquet",
        attempt="a",
        published_at="2021-03-01T00:00:00+00:00",
    )


class TestStandardizeColumnNames:
    @pytest.mark.parametrize("color", sorted(SCHEMAS))
    def test_the_columns_of_a_feed_are_in_lower_case_and_the_files_as_they_were(self, color, run_block):
        landed = replace(manifest_of(), schema=SCHEMAS[color])
        output = received_manifest(run_block(STANDARDIZE, landed.hand_over()))
        assert list(output.columns.values()) == [name.lower() for name in SCHEMAS[color].names]
        assert (output.schema, output.files, output.rows) == (landed.schema, landed.files, landed.rows)

    def test_spaces_become_underscores_and_the_notebook_says_so(self, run_block):
        output = run_block(STANDARDIZE, manifest_of("Trip Distance", "VendorID", "tip").hand_over())
        assert list(received_manifest(output).columns.values()) == ["trip_distance", "vendorid", "tip"]
        assert "renamed: 'Trip Distance' to trip_distance, 'VendorID' to vendorid" in output.isoformat()

    @pytest.mark.parametrize("names", [("airport_fee", "Airport Fee"), ("Pickup Date",)])
    def test_names_that_become_one_stop_the_run(self, names, run_block):
        with pytest.raises(DataError, match="Nothing was loaded"):
            run_block(STANDARDIZE, manifest_of("tip", *names).hand_over())

    @pytest.mark.parametrize("names", [("tip",), ("tip", "trip_distance")])
    def test_its_test_passes_good_names(self, names):
        self.inline_test()(manifest_of(*names).hand_over())

    @pytest.mark.parametrize(
        ("manifest", "said"),
        [
            (manifest_of("tip", "VendorID"), r"not in lower case, or with a space: \['VendorID'\]"),
            (manifest_of("tip", "trip distance"), r"not in lower case, or with a space: \['trip distance'\]"),
            (replace(manifest_of("a", "b"), renamed=(("b", "a"),)), r"not unique: \['a', 'a'\]"),
        ],
    )
    def test_its_test_fails_on_names_that_are_left_bad(self, manifest, said):
        with pytest.raises(AssertionError, match=said):
            self.inline_test()(manifest.hand_over())

    def test_staged_rows_in_the_place_of_a_manifest_are_refused(self, run_block, published, run_kwargs):
        write_month(published.folder)
        loaded = run_block("data_loaders/load_api_data.py", **run_kwargs)
        with pytest.raises(DatasetMisuseError, match="a dataset of staged rows, not a manifest"):
            run_block(STANDARDIZE, loaded)

    @staticmethod
    def inline_test():
        (found,) = block(STANDARDIZE).tests
        return found


@pytest.fixture
def daily_kwargs(run_kwargs):
    """What a run of ours gives the blocks of daily_trips for one day."""
    return {**run_kwargs, "pipeline_uuid": "daily_trips", "window": f"{DAY}/2021-01-11"}


def with_dirt(table: pa.Table) -> pa.Table:
    """Make every third trip one of 0 passengers, and give the first trips no pickup, or one of another year."""
    pickups, passengers = table[PICKUP].to_pylist(), table["passenger_count"].to_pylist()
    pickups[:6] = [None] * 5 + [datetime.fromisoformat("2009-01-10T12:00:00")]
    passengers[::3] = [0.0] * len(passengers[::3])
    dirty = with_column(table, PICKUP, pa.array(pickups, pa.timestamp("us")))
    return with_column(dirty, "passenger_count", pa.array(passengers))


class TestDailyTrips:
    @pytest.mark.parametrize("color", sorted(SCHEMAS))
    def test_the_loader_hands_over_the_whole_month_as_the_days_slice(self, color, run_block, published, daily_kwargs):
        write_month(published.folder, color, rows=700)
        month = received(run_block(LOAD, **{**daily_kwargs, "color": color}))
        assert (month.slice, month.rows, month.dropped) == (f"{color}/{DAY}", 700, ())
        assert month.source.endswith(f"/{color}_tripdata_2021-01.parquet")

    def test_days_of_a_month_share_one_download(self, run_block, published, daily_kwargs):
        write_month(published.folder)
        for window in (f"{DAY}/2021-01-11", "2021-01-11/2021-01-12"):
            run_block(LOAD, **{**daily_kwargs, "window": window})
        assert sum(request.bytes_sent > 0 for request in published.requests if request.method == "GET") == 1

    def test_a_month_without_a_row_fails_the_loaders_test(self, run_block, published, daily_kwargs):
        write_month(published.folder, change=lambda table: table.slice(0, 0))
        with pytest.raises(AssertionError, match=f"green/{DAY}: .* holds no trips; nothing was loaded"):
            run_block(LOAD, **daily_kwargs)

    def test_a_month_that_is_not_published_is_said_with_the_days_slice(self, run_block, published, daily_kwargs):
        with pytest.raises(NotPublishedError) as caught:
            run_block(LOAD, **daily_kwargs)
        assert caught.value.slice == f"green/{DAY}"

    def test_an_unknown_colour_is_refused_before_anything_is_asked_for(self, run_block, published, daily_kwargs):
        with pytest.raises(ConfigurationError, match="'pink'"):
            run_block(LOAD, **{**daily_kwargs, "color": "pink"})
        assert published.requests == []

    def test_the_day_is_kept_and_everything_else_is_counted_by_rule(self, run_block, published, daily_kwargs):
        write_month(published.folder, rows=3000, change=with_dirt)
        kept = received(run_block(KEEP, run_block(LOAD, **daily_kwargs), **daily_kwargs))
        table = with_dirt(month_table(rows=3000))
        of_day = table.filter(~of_another_day(f"green/{DAY}"))
        zeros = pc.sum(pc.equal(of_day["passenger_count"], 0)).as_py()
        assert dict(kept.dropped) == {"other_day": 3000 - len(of_day), "zero_passengers": zeros}
        assert kept.rows == len(of_day) - zeros > zeros > 0
        assert kept.fetched == 3000
        days = {time.date().isoformat() for batch in kept.batches() for time in batch.column(PICKUP).to_pylist()}
        assert days == {DAY}

    def test_trips_of_an_unknown_number_of_passengers_stay(self, run_block, published, daily_kwargs):
        write_month(published.folder, rows=3000)
        kept = received(run_block(KEEP, run_block(LOAD, **daily_kwargs), **daily_kwargs))
        of_day = month_table(rows=3000).filter(~of_another_day(f"green/{DAY}"))
        unknown = kept.count(pc.field("passenger_count").is_null())
        assert unknown == of_day["passenger_count"].null_count > 0

    def test_a_day_without_a_trip_is_a_day_of_no_rows(self, run_block, published, daily_kwargs):
        def of_another_year(table: pa.Table) -> pa.Table:
            moment = datetime.fromisoformat("2009-01-10T12:00:00")
            return with_column(table, PICKUP, pa.array([moment] * len(table), pa.timestamp("us")))

        write_month(published.folder, change=of_another_year)
        kept = received(run_block(KEEP, run_block(LOAD, **daily_kwargs), **daily_kwargs))
        assert (kept.rows, dict(kept.dropped)) == (0, {"other_day": 600, "zero_passengers": 0})

    def test_its_tests_fail_when_a_foreign_day_or_an_unknown_one_is_left(self, run_block, published, daily_kwargs):
        write_month(published.folder, change=with_dirt)
        month = received(run_block(LOAD, **daily_kwargs))
        foreign = month.count(of_another_day(month.slice))
        tests = {test.__name__: test for test in block(KEEP).tests}
        assert foreign > 6
        with pytest.raises(AssertionError, match=f"^{foreign} trips are not of {DAY}"):
            tests["every_trip_is_of_the_day"](month.hand_over())
        only_unknown = month.drop_where(pc.field(PICKUP).is_valid(), rule="known")
        with pytest.raises(AssertionError, match=f"^5 trips are not of {DAY}"):
            tests["every_trip_is_of_the_day"](only_unknown.hand_over())

    def test_its_tests_fail_when_a_trip_without_passengers_is_left(self, run_block, published, daily_kwargs):
        write_month(published.folder, rows=3000, change=with_dirt)
        month = received(run_block(LOAD, **daily_kwargs))
        of_day = month.drop_where(of_another_day(month.slice), rule="other_day")
        tests = {test.__name__: test for test in block(KEEP).tests}
        tests["every_trip_is_of_the_day"](of_day.hand_over())
        with pytest.raises(AssertionError, match=r"^\d+ trips with passenger_count = 0"):
            tests["no_trip_without_passengers"](of_day.hand_over())
