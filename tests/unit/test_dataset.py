"""A dataset accounts for every row: what the rules drop is counted once, and nothing else goes missing."""

import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mage_project.lib.dataset import BATCH_ROWS, Dataset, from_pandas, stage
from mage_project.lib.errors import DataError, DatasetMisuseError, ReconciliationError, SinkError
from mage_project.lib.handover import received

TRIPS = {
    "VendorID": pa.array([1, 2, 2, None, 1, 6], pa.int64()),
    "passenger_count": pa.array([0.0, 1.0, None, 0.0, 2.0, None]),
    "fare_amount": pa.array([5.0, -7.5, 0.0, -2.5, None, 12.0]),
    "pickup": pa.array([datetime(2008, 12, 31, 23, 59), *[datetime(2021, 2, day) for day in range(1, 6)]]),
    "flag": pa.array(["N", "", None, "Y", "N", None]),
}
NO_PASSENGERS = pc.field("passenger_count") == 0
REFUND = pc.field("fare_amount") < 0

values = st.lists(st.tuples(*[st.none() | st.integers(-2, 2)] * 2), max_size=30)
rules = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(-2, 2)), max_size=4)


def staged(folder: Path, columns: dict | pa.Table = TRIPS, batch_rows: int = 2) -> Dataset:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    batches = table.to_batches(max_chunksize=batch_rows)
    return stage(batches, table.schema, folder / "trips.arrow", slice="green/2021-02", source="http://tlc/green")


def table_of(dataset: Dataset) -> pa.Table:
    return pa.Table.from_batches(dataset.batches(), schema=dataset.schema)


@pytest.fixture
def trips(tmp_path: Path) -> Dataset:
    return staged(tmp_path)


class TestRules:
    def test_an_unknown_count_is_not_zero_and_stays(self, trips: Dataset) -> None:
        kept = trips.drop_where(NO_PASSENGERS, rule="zero_passengers")
        assert table_of(kept)["passenger_count"].to_pylist() == [1.0, None, 2.0, None]
        assert (kept.fetched, kept.rows, kept.dropped) == (6, 4, (("zero_passengers", 2),))

    def test_a_row_that_two_rules_mean_is_counted_under_the_first(self, trips: Dataset) -> None:
        kept = trips.drop_where(NO_PASSENGERS, rule="zero_passengers").drop_where(REFUND, rule="refund")
        assert kept.dropped == (("zero_passengers", 2), ("refund", 1))
        assert kept.rows == table_of(kept).num_rows == 3

    def test_a_rule_that_meets_nothing_drops_nothing_and_says_so(self, trips: Dataset) -> None:
        kept = trips.drop_where(pc.field("fare_amount") > 1e9, rule="too_dear")
        assert (kept.rows, kept.dropped) == (6, (("too_dear", 0),))

    def test_the_dataset_before_the_rule_is_as_it_was(self, trips: Dataset) -> None:
        trips.drop_where(NO_PASSENGERS, rule="zero_passengers")
        assert trips.rows == table_of(trips).num_rows == 6

    def test_rows_keep_their_order_and_values_exactly(self, trips: Dataset) -> None:
        kept = trips.drop_where(NO_PASSENGERS, rule="zero_passengers")
        assert table_of(kept).to_pydict() == pa.table(TRIPS).take([1, 2, 4, 5]).to_pydict()

    def test_a_rule_may_drop_everything(self, trips: Dataset) -> None:
        none = trips.drop_where(pc.field("passenger_count") >= 0, rule="known").drop_where(
            pc.field("passenger_count").is_null(), rule="unknown"
        )
        assert (none.rows, list(none.batches()), none.count()) == (0, [], 0)
        assert list(none.head().columns) == list(TRIPS)

    def test_a_rule_over_a_column_that_is_not_there_names_those_that_are(self, trips: Dataset) -> None:
        with pytest.raises(DataError, match=r"green/2021-02: rule 'cheap' can't be applied.*VendorID, passenger_count"):
            trips.drop_where(pc.field("fare") < 1, rule="cheap")

    @given(rows=values, rules=rules)
    def test_fetched_is_always_kept_plus_dropped(
        self, rows: list[tuple], rules: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        columns = {name: pa.array([row[index] for row in rows], pa.int64()) for index, name in enumerate("ab")}
        dataset = staged(tmp_path_factory.getbasetemp(), columns, batch_rows=7)
        expected = rows
        for column, value in rules:
            dataset = dataset.drop_where(pc.field(column) == value, rule=f"{column}={value}")
            expected = [row for row in expected if row["ab".index(column)] != value]
        found = table_of(dataset)
        assert list(zip(*(found[name].to_pylist() for name in "ab"), strict=True)) == expected
        assert dataset.rows == dataset.count() == len(expected)
        assert dataset.fetched == len(rows) == dataset.rows + sum(count for _, count in dataset.dropped)


class TestCount:
    def test_it_counts_over_all_batches_and_not_a_sample(self, tmp_path: Path) -> None:
        numbers = staged(tmp_path, {"n": pa.array(range(100_000))}, batch_rows=BATCH_ROWS)
        assert numbers.count(pc.field("n") >= 99_990) == 10

    def test_it_counts_only_what_the_rules_keep(self, trips: Dataset) -> None:
        kept = trips.drop_where(NO_PASSENGERS, rule="zero_passengers")
        assert (trips.count(REFUND), kept.count(REFUND), kept.count(NO_PASSENGERS)) == (2, 1, 0)
        assert (trips.count(), kept.count()) == (6, 4)


class TestMapPandas:
    def test_types_stay_as_declared_though_pandas_turns_integers_into_doubles(self, trips: Dataset) -> None:
        mapped = trips.map_pandas(lambda frame: frame)
        assert mapped.schema == trips.schema
        assert table_of(mapped).to_pydict() == pa.table(TRIPS).to_pydict()

    def test_types_stay_when_the_first_batch_already_looks_otherwise(self, tmp_path: Path) -> None:
        backwards = pa.table(TRIPS).take([5, 4, 3, 2, 1, 0])
        trips = staged(tmp_path, backwards, batch_rows=3)  # the first three have an empty VendorID
        mapped = trips.map_pandas(lambda frame: frame)
        assert mapped.schema == trips.schema
        assert table_of(mapped).to_pydict() == backwards.to_pydict()

    def test_rows_that_the_function_drops_are_counted_under_its_name(self, trips: Dataset) -> None:
        def without_refunds(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[~(frame["fare_amount"] < 0)]

        mapped = trips.map_pandas(without_refunds)
        assert (mapped.fetched, mapped.rows, mapped.dropped) == (6, 4, (("without_refunds", 2),))
        assert trips.map_pandas(without_refunds, rule="refund").dropped == (("refund", 2),)
        assert trips.map_pandas(lambda frame: frame.head(1)).dropped == (("lambda", 3),)

    def test_drops_before_and_after_add_up(self, trips: Dataset) -> None:
        mapped = (
            trips.noting("a new column")
            .drop_where(NO_PASSENGERS, rule="zero_passengers")
            .map_pandas(lambda frame: frame[frame["VendorID"] != 6], rule="no_vendor")
            .drop_where(REFUND, rule="refund")
        )
        assert mapped.dropped == (("zero_passengers", 2), ("no_vendor", 1), ("refund", 1))
        assert mapped.fetched == 6
        assert mapped.rows == table_of(mapped).num_rows == 2
        assert mapped.notices == ("a new column",)

    def test_a_column_that_it_adds_takes_the_type_of_the_first_batch(self, trips: Dataset) -> None:
        mapped = trips.map_pandas(lambda frame: frame.assign(fare_cents=(frame["fare_amount"] * 100).round()))
        assert mapped.schema.field("fare_cents").type == pa.float64()
        assert table_of(mapped)["fare_cents"].to_pylist() == [500.0, -750.0, 0.0, -250.0, None, 1200.0]

    def test_a_column_that_it_leaves_out_is_gone(self, trips: Dataset) -> None:
        assert "flag" not in trips.map_pandas(lambda frame: frame.drop(columns="flag")).schema.names

    def test_it_gets_bounded_batches(self, tmp_path: Path) -> None:
        sizes: list[int] = []
        numbers = staged(tmp_path, {"n": pa.array(range(10_000))}, batch_rows=1_000)
        mapped = numbers.map_pandas(lambda frame: sizes.append(len(frame)) or frame)  # type: ignore[func-returns-value]
        assert sizes == [1_000] * 10
        assert mapped.rows == 10_000

    def test_more_rows_than_it_got_are_refused(self, trips: Dataset) -> None:
        def doubled(frame: pd.DataFrame) -> pd.DataFrame:
            return pd.concat([frame, frame])

        with pytest.raises(ReconciliationError, match="doubled made 4 rows out of 2"):
            trips.map_pandas(doubled)

    @pytest.mark.parametrize(
        ("given_back", "kind"),
        [(None, "NoneType"), ("a text", "str"), (np.zeros(2), "ndarray")],
        ids=["nothing", "text", "array"],
    )
    def test_something_else_than_a_frame_is_refused_with_the_line_to_write(
        self, trips: Dataset, given_back: object, kind: str
    ) -> None:
        with pytest.raises(DatasetMisuseError, match=rf"must give back a DataFrame, but gave {kind}.*return frame"):
            trips.map_pandas(lambda frame: given_back)  # type: ignore[arg-type, return-value]

    def test_a_reference_is_no_frame(self, trips: Dataset) -> None:
        with pytest.raises(DatasetMisuseError, match="gave HandedOver"):
            trips.map_pandas(lambda frame: trips.hand_over())  # type: ignore[arg-type, return-value]

    def test_a_new_column_without_a_value_needs_a_type(self, trips: Dataset) -> None:
        with pytest.raises(DataError, match=r"new column 'tax' is empty in the first batch.*dtype='float64'"):
            trips.map_pandas(lambda frame: frame.assign(tax=None))
        typed = trips.map_pandas(lambda frame: frame.assign(tax=pd.Series(np.nan, frame.index, dtype="float64")))
        assert typed.schema.field("tax").type == pa.float64()

    def test_a_type_that_changes_between_batches_is_refused(self, trips: Dataset) -> None:
        def drifting(frame: pd.DataFrame) -> pd.DataFrame:
            return frame.assign(note=1 if frame["VendorID"].iloc[0] == 1 else "text")

        with pytest.raises(DataError, match="what drifting gave back doesn't fit the columns"):
            trips.map_pandas(drifting)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda frame: frame.drop(columns="flag"), "doesn't fit the columns"),
            (lambda frame: frame.assign(late=1), "column 'late', which the batches before don't have"),
        ],
        ids=["one column less", "one column more"],
    )
    def test_columns_that_change_between_batches_are_refused(
        self, trips: Dataset, change: Callable[[pd.DataFrame], pd.DataFrame], text: str
    ) -> None:
        with pytest.raises(DataError, match=text):
            trips.map_pandas(lambda frame: frame if frame["VendorID"].iloc[0] == 1 else change(frame))

    def test_what_the_function_raises_passes_and_leaves_no_file(self, trips: Dataset, tmp_path: Path) -> None:
        with pytest.raises(KeyError, match="fare"):
            trips.map_pandas(lambda frame: frame[frame["fare"] > 0])
        assert [path.name for path in tmp_path.iterdir()] == ["trips.arrow"]


class TestBatches:
    def test_one_staged_batch_is_in_memory_at_a_time(self, tmp_path: Path) -> None:
        wide = staged(tmp_path, {"n": pa.array(range(400_000))}, batch_rows=10_000)
        before = pa.total_allocated_bytes()
        most = max(pa.total_allocated_bytes() - before for _ in wide.drop_where(pc.field("n") < 0, rule="r").batches())
        assert 0 < most < 4 * 10_000 * 8  # the whole column is 3.2 MB

    def test_a_staged_file_that_is_gone_says_to_run_the_loader_again(self, trips: Dataset) -> None:
        trips.path.unlink()
        for use in (trips.count, lambda: list(trips.batches()), trips.head, trips.hand_over):
            with pytest.raises(DataError, match=r"trips\.arrow is gone\. .*run the loader again"):
                use()

    def test_a_staged_file_of_another_size_is_refused(self, trips: Dataset) -> None:
        with trips.path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(DataError, match=rf"has {trips.staged_bytes + 4} bytes and not the {trips.staged_bytes} "):
            list(trips.batches())


class TestHead:
    def test_it_gives_the_first_kept_rows_over_batch_edges(self, trips: Dataset) -> None:
        head = trips.drop_where(NO_PASSENGERS, rule="zero_passengers").head(3)
        assert head["fare_amount"].tolist()[:2] == [-7.5, 0.0]
        assert len(head) == 3

    def test_a_dataset_without_rows_gives_the_columns(self, tmp_path: Path) -> None:
        empty = staged(tmp_path, pa.table(TRIPS).slice(0, 0))
        assert list(empty.head().columns) == list(TRIPS)
        assert (empty.rows, empty.count(), empty.map_pandas(lambda frame: frame).rows) == (0, 0, 0)


class TestStage:
    def test_it_leaves_nothing_when_the_batches_raise(self, tmp_path: Path) -> None:
        def breaking_off() -> Iterator[pa.RecordBatch]:
            yield pa.table(TRIPS).to_batches()[0]
            raise DataError("cut short")

        with pytest.raises(DataError, match="cut short"):
            stage(breaking_off(), pa.table(TRIPS).schema, tmp_path / "x" / "a.arrow", slice="s", source="u")
        assert list((tmp_path / "x").iterdir()) == []

    def test_a_damaged_source_is_not_taken_for_a_full_disk(self, tmp_path: Path) -> None:
        def damaged() -> Iterator[pa.RecordBatch]:
            yield pa.table(TRIPS).to_batches()[0]
            raise OSError("Corrupt snappy compressed data.")

        with pytest.raises(OSError, match="Corrupt snappy"):
            stage(damaged(), pa.table(TRIPS).schema, tmp_path / "a.arrow", slice="s", source="u")

    def test_a_full_disk_is_one_paragraph_and_leaves_nothing(self, tmp_path: Path) -> None:
        big = pa.table({"n": pa.array(range(100_000))})
        limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(SinkError, match=r"green/2021-02: can't stage rows in .*cantrip clean.*CANTRIP_HOME"):
                staged(tmp_path, big, batch_rows=10_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        assert list(tmp_path.iterdir()) == []

    def test_staging_again_replaces_the_file_only_when_it_is_whole(self, trips: Dataset, tmp_path: Path) -> None:
        def breaking_off() -> Iterator[pa.RecordBatch]:
            yield pa.table(TRIPS).to_batches()[0]
            raise DataError("cut short")

        with pytest.raises(DataError, match="cut short"):
            stage(breaking_off(), trips.schema, trips.path, slice="s", source="u")
        assert table_of(trips).num_rows == 6

    def test_a_small_frame_becomes_a_dataset_without_its_index(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"symbol": ["AAPL", "MSFT"], "close": [189.5, 402.0]}, index=[7, 8])
        dataset = from_pandas(frame, tmp_path / "a.arrow", slice="AAPL/2024-02-01", source="polygon")
        assert dataset.schema == pa.schema([("symbol", pa.string()), ("close", pa.float64())])
        assert table_of(dataset).to_pydict() == frame.to_dict("list")


def test_what_is_handed_over_is_the_same_dataset_to_the_next_block(trips: Dataset) -> None:
    kept = trips.noting("a notice").drop_where(NO_PASSENGERS, rule="zero_passengers")
    found = received(kept.hand_over())
    assert table_of(found).equals(table_of(kept))
    assert replace(found, rules=()) == replace(kept, rules=())
    assert [rule.name for rule in found.rules] == ["zero_passengers"]
