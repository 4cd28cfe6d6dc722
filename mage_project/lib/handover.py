"""What travels between blocks: a reference to a dataset that can't be mistaken for its rows.

Mage stores what a block returns and gives it to the next one. A DataFrame of first rows would
arrive as a DataFrame, and `trips[trips.fare > 0]` or a stock exporter would quietly work on ten
rows. So blocks hand over an object of our own: Mage pickles it, the notebook shows its text (the
first rows and the counts), and whatever treats it as a table fails with the line to write instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mage_project.lib.errors import DatasetMisuseError

if TYPE_CHECKING:
    import pandas as pd

    from mage_project.lib.dataset import Dataset

PREVIEW_ROWS = 10
PREVIEW_WIDTH = 110

# What pandas, scikit-learn, xgboost, joblib and IPython ask of any object; "no" is the right answer.
_PROBES = ("to_dict", "get_booster", "fit", "predict", "to_json")


class HandedOver:
    """A reference to a dataset. Open it with `received(x)`; using it as a table raises an error."""

    def __init__(self, dataset: Dataset, text: str) -> None:
        self.__dict__["_dataset"] = dataset
        self.__dict__["_text"] = text

    def isoformat(self) -> str:
        """Give the text that the notebook shows: Mage's encoder prints objects that have this method."""
        return self.__dict__["_text"]

    def __repr__(self) -> str:
        return self.isoformat()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or name in _PROBES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _refuse(self, f".{name}")

    def __getitem__(self, key: object) -> NoReturn:
        _refuse(self, "[…]")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        _refuse(self, "[…] = …")

    def __bool__(self) -> NoReturn:
        _refuse(self, "as a truth value")

    def __len__(self) -> NoReturn:
        _refuse(self, "with len()")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse(self, "as an array")

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def received(value: Any) -> Dataset:
    """Open what the block before handed over. Raises DatasetMisuseError for anything else."""
    if isinstance(value, HandedOver):
        return value.__dict__["_dataset"]
    raise DatasetMisuseError(
        f"this block got {_kind(value)}, not a dataset. The block before must end with "
        "`return received(trips).map_pandas(my_function).hand_over()`, or with `.drop_where(...)`: "
        "a filtered preview is not the data."
    )


def describe(dataset: Dataset) -> str:
    """Give the first rows as a text table under the counts, as the notebook shows it."""
    counts = f"{dataset.rows:,} rows of {dataset.slice}"
    if dataset.dropped:
        rules = ", ".join(f"{count:,} by {rule}" for rule, count in dataset.dropped)
        counts = f"{counts}: {dataset.fetched:,} fetched, dropped {rules}"
    lines = [counts, f"from {dataset.source}", *dataset.notices, "", f"The first {min(PREVIEW_ROWS, dataset.rows)}:"]
    return "\n".join(lines) + "\n" + _text_table(dataset.head(PREVIEW_ROWS))


def _text_table(frame: pd.DataFrame) -> str:
    """Columns side by side as far as they fit, the rest below: readable without scrolling sideways."""
    return frame.to_string(index=False, na_rep="", line_width=PREVIEW_WIDTH, max_colwidth=40)


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__} of {shape[0]} rows" if shape else f"a {type(value).__name__}"


def _refuse(reference: HandedOver, use: str) -> NoReturn:
    dataset = reference.__dict__["_dataset"]
    raise DatasetMisuseError(
        f"{dataset.slice}: this is a reference to {dataset.rows:,} staged rows, not a DataFrame, and was used {use}. "
        "Write `received(trips).map_pandas(my_function).hand_over()` (my_function gets one DataFrame of a batch at "
        'a time), `received(trips).drop_where(pc.field("fare_amount") < 0, rule="negative_fare").hand_over()`, or '
        "`received(trips).head()` for a look; export it with a sink of mage_project.lib.sinks."
    )
