"""A reference can't be mistaken for the rows: each use as a table fails with the line to write instead."""

import copy
import io
import operator
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import DatasetMisuseError
from mage_project.lib.handover import received
from mage_project.lib.preview import PREVIEW_ROWS
from mage_project.lib.reference import HandedOver, facts_of

FRAME = pd.DataFrame({"fare_amount": [1.0, 2.0]})

MISUSES: dict[str, Callable[[Any], Any]] = {
    "a column as attribute": lambda trips: trips.fare_amount,
    "a method of DataFrame": lambda trips: trips.head(),
    "a method of ours, unopened": lambda trips: trips.drop_where(None, rule="r"),
    "a column": lambda trips: trips["fare_amount"],
    "several columns": lambda trips: trips[["fare_amount", "tip_amount"]],
    "the first rows": lambda trips: trips[:5],
    "a filter": lambda trips: trips[trips.fare_amount > 0],
    "a filter by column": lambda trips: trips[trips["fare_amount"] > 0],
    "a new column": lambda trips: operator.setitem(trips, "tax", 1),
    "a new attribute": lambda trips: setattr(trips, "tax", 1),
    "a deleted column": lambda trips: operator.delitem(trips, "tax"),
    "a truth value": bool,
    "not": operator.not_,
    "len": len,
    "list": list,
    "a loop": lambda trips: [row for row in trips],  # noqa: C416 - the loop is what is tried
    "iter": lambda trips: next(iter(trips)),
    "unpacking": lambda trips: [*trips],
    "in": lambda trips: "fare_amount" in trips,
    "sum": sum,
    "sorted": sorted,
    "dict": dict,
    "enumerate": lambda trips: list(enumerate(trips)),
    "pandas.DataFrame": pd.DataFrame,
    "pandas.DataFrame of a list": lambda trips: pd.DataFrame([trips]),
    "pandas.Series": pd.Series,
    "pandas.isna": pd.isna,
    "assigning it to a frame": lambda trips: FRAME.assign(all=trips),
    "adding it to a frame": lambda trips: FRAME + trips,
    "comparing a frame with it": lambda trips: FRAME == trips,  # noqa: SIM300 - the frame goes first
    "numpy.asarray": np.asarray,
    "numpy.array of a list": lambda trips: np.array([trips]),
    "numpy.sum": np.sum,
    "numpy.mean": np.mean,
    "adding it to an array": lambda trips: np.ones(2) + trips,
    "pyarrow.array": pa.array,
    "pyarrow.Table.from_pandas": pa.Table.from_pandas,
    "x > 0": lambda trips: trips > 0,
    "x >= 0": lambda trips: trips >= 0,
    "x < 0": lambda trips: trips < 0,
    "x <= 0": lambda trips: trips <= 0,
    "x == 0": lambda trips: trips == 0,
    "x != 0": lambda trips: trips != 0,
    "0 < x": lambda trips: 0 < trips,  # noqa: SIM300 - the other way round is what is tried
    "x == x": lambda trips: trips == trips,
    "x + 1": lambda trips: trips + 1,
    "1 + x": lambda trips: 1 + trips,
    "x += 1": lambda trips: operator.iadd(trips, 1),
    "x - 1": lambda trips: trips - 1,
    "x * 2": lambda trips: trips * 2,
    "2 * x": lambda trips: 2 * trips,
    "x / 2": lambda trips: trips / 2,
    "x // 2": lambda trips: trips // 2,
    "x % 2": lambda trips: trips % 2,
    "x ** 2": lambda trips: trips**2,
    "x & y": lambda trips: trips & trips,
    "x | y": lambda trips: trips | trips,
    "~x": operator.invert,
    "-x": operator.neg,
    "abs": abs,
}

# pandas and Arrow refuse these by themselves, before they ask the object for anything
LOUD: dict[str, Callable[[Any], Any]] = {
    "pandas.concat": lambda trips: pd.concat([trips]),
    "pandas.merge": lambda trips: pd.merge(trips, FRAME),
    "merging a frame with it": lambda trips: FRAME.merge(trips),
    "pyarrow.table": pa.table,
    "pyarrow.compute": pc.sum,
    "float": float,
    "a call": lambda trips: trips(),
    "a deleted attribute": lambda trips: delattr(trips, "fare_amount"),
    "to_dict": lambda trips: trips.to_dict(),
}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    table = pa.table({"fare_amount": [1.5, -2.0, None] * 700, "passenger_count": [0.0, None, 2.0] * 700})
    staged = stage(table.to_batches(), table.schema, tmp_path / "a.arrow", slice="green/2021-02", source="http://tlc/x")
    return staged.drop_where(pc.field("passenger_count") == 0, rule="zero_passengers").noting("new column 'x' (double)")


@pytest.fixture
def trips(dataset: Dataset) -> HandedOver:
    return dataset.hand_over()


@pytest.mark.parametrize("use", MISUSES.values(), ids=MISUSES.keys())
def test_using_it_as_a_table_fails_with_the_line_to_write(use: Callable[[Any], Any], trips: HandedOver) -> None:
    with pytest.raises(DatasetMisuseError) as caught:
        use(trips)
    text = str(caught.value)
    assert text.startswith("green/2021-02: this is a reference to 1,400 rows that lie elsewhere, not a DataFrame")
    assert "`received(trips).map_pandas(my_function).hand_over()`" in text
    assert 'drop_where(pc.field("fare_amount") < 0, rule="negative_fare").hand_over()`' in text


@pytest.mark.parametrize("use", LOUD.values(), ids=LOUD.keys())
def test_what_others_refuse_by_themselves_is_no_silent_pass_either(
    use: Callable[[Any], Any], trips: HandedOver
) -> None:
    with pytest.raises((TypeError, AttributeError)):
        use(trips)


@pytest.mark.parametrize(
    "name",
    [
        *("to_dict", "to_json", "columns", "dtypes", "shape", "fit", "predict", "get_booster"),
        *("_repr_html_", "_repr_mimebundle_", "_ipython_display_", "__dataframe__", "__array_interface__", "__next__"),
    ],
)
def test_whoever_probes_for_an_attribute_hears_no(name: str, trips: HandedOver) -> None:
    assert not hasattr(trips, name)
    assert getattr(trips, name, "no") == "no"


def test_mage_does_not_take_it_for_something_to_iterate_over(trips: HandedOver) -> None:
    assert not isinstance(trips, Iterable)


def test_it_can_be_compared_by_identity_and_counted_in_a_list(trips: HandedOver) -> None:
    outputs = [trips]
    assert trips in outputs
    assert len({trips}) == 1


def through_pickle(trips: HandedOver) -> HandedOver:
    return pickle.loads(pickle.dumps(trips))


def through_joblib(trips: HandedOver) -> HandedOver:
    buffer = io.BytesIO()
    joblib.dump(trips, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


@pytest.mark.parametrize("way", [through_pickle, through_joblib, copy.copy, copy.deepcopy])
def test_it_arrives_whole_however_mage_carries_it(
    way: Callable[[HandedOver], HandedOver], trips: HandedOver, dataset: Dataset
) -> None:
    arrived = way(trips)
    assert repr(arrived) == repr(trips)
    found = received(arrived)
    assert (found.rows, found.fetched, found.dropped) == (1400, 2100, (("zero_passengers", 700),))
    assert list(found.batches()) == list(dataset.batches())
    with pytest.raises(DatasetMisuseError, match="1,400 rows that lie elsewhere"):
        len(arrived)


def test_a_stored_reference_holds_no_rows(trips: HandedOver) -> None:
    assert len(pickle.dumps(trips)) < 6_000


def test_a_reference_of_a_reloaded_module_is_still_one(trips: HandedOver) -> None:
    before = type("HandedOver", (), {"__module__": HandedOver.__module__, "__qualname__": "HandedOver"})()
    vars(before)["_facts"] = vars(trips)["_facts"]
    assert not isinstance(before, HandedOver)
    assert received(before).rows == 1400


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (FRAME, "a DataFrame of 2 rows"),
        (np.zeros(3), "a ndarray of 3 rows"),
        ([FRAME], "a list"),
        ({"rows": 1}, "a dict"),
        (None, "a NoneType"),
    ],
    ids=["a frame", "an array", "a list", "a dict", "nothing"],
)
def test_anything_else_that_arrives_is_refused_with_the_line_to_write(value: object, kind: str) -> None:
    assert facts_of(value) is None
    with pytest.raises(DatasetMisuseError, match=f"this block got {kind}, not a dataset") as caught:
        received(value)
    assert "`return received(trips).map_pandas(my_function).hand_over()`" in str(caught.value)


def test_its_text_shows_the_counts_the_rules_the_notices_and_the_first_rows(trips: HandedOver) -> None:
    text = trips.isoformat()
    lines = text.splitlines()
    assert repr(trips) == str(trips) == text
    assert lines[0] == "1,400 rows of green/2021-02: 2,100 fetched, dropped 700 by zero_passengers"
    assert lines[1:3] == ["from http://tlc/x", "new column 'x' (double)"]
    assert f"The first {PREVIEW_ROWS}:" in lines
    table = lines[lines.index(f"The first {PREVIEW_ROWS}:") + 1 :]
    assert table[0].split() == ["fare_amount", "passenger_count"]
    assert len(table) == 1 + PREVIEW_ROWS
    assert table[1].split() == ["-2.0"]  # the count is unknown and shows as nothing
    assert table[2].split() == ["2.0"]


def test_the_text_of_few_rows_and_of_none_says_how_many(tmp_path: Path) -> None:
    for rows in (0, 3):
        table = pa.table({"n": pa.array(range(rows), pa.int64())})
        dataset = stage(table.to_batches(), table.schema, tmp_path / f"{rows}.arrow", slice="s", source="u")
        assert dataset.hand_over().isoformat().startswith(f"{rows} rows of s\nfrom u\n")
        assert f"The first {rows}:" in dataset.hand_over().isoformat()
