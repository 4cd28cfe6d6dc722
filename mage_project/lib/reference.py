"""What travels between blocks: a reference to a dataset that can't be mistaken for its rows.

Mage stores what a block returns and gives it to the next one. A DataFrame of first rows would
arrive as a DataFrame, and `trips[trips.fare > 0]` or a stock exporter would quietly work on ten
rows. So blocks hand over an object of our own: Mage pickles it, the notebook shows its text (the
first rows and the counts), and whatever treats it as a table fails with the line to write instead.

It carries plain facts and no object of another class of ours, and blocks never import this module:
both because Mage reloads modules under an open notebook.
"""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

from mage_project.lib.errors import DatasetMisuseError

# What pandas, scikit-learn, xgboost, joblib and IPython ask of any object; "no" is the right answer.
_PROBES = ("to_dict", "get_booster", "fit", "predict", "to_json")

# Operators that mean something for a column of values; `==` would otherwise answer False and go on.
_OPERATORS = (
    *("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "invert", "abs"),
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"),
    *("radd", "rsub", "rmul", "rmatmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rand", "ror", "rxor"),
)


_INSTEAD = (
    "Write `received(trips).map_pandas(my_function).hand_over()` (my_function gets one DataFrame of a batch at "
    'a time), `received(trips).drop_where(pc.field("fare_amount") < 0, rule="negative_fare").hand_over()`, or '
    "`received(trips).head()` for a look; export it with a sink of mage_project.lib.sinks."
)


class HandedOver:
    """A reference to a dataset. Open it with `received(x)`; using it as a table raises an error."""

    def __init__(self, facts: dict[str, Any], text: str) -> None:
        self.__dict__["_facts"] = facts
        self.__dict__["_text"] = text

    def isoformat(self) -> str:
        """Give the text that the notebook shows: Mage's encoder prints objects that have this method."""
        return self.__dict__["_text"]

    def __repr__(self) -> str:
        return self.isoformat()

    def __getattr__(self, name: str) -> Any:
        if name == "__iter__":
            # pandas asks the object and then converts it, which refuses; Mage asks the class, and
            # would store something iterable piece by piece
            return lambda: self[:]
        if name.startswith("_") or name in _PROBES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return _refuse(self, f".{name}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        _refuse(self, f".{name} = …")

    def __getitem__(self, key: object) -> NoReturn:
        _refuse(self, "[…]")

    def __setitem__(self, key: object, value: object) -> NoReturn:
        _refuse(self, "[…] = …")

    def __delitem__(self, key: object) -> NoReturn:
        _refuse(self, "with del […]")

    def __bool__(self) -> NoReturn:
        _refuse(self, "as a truth value")

    def __len__(self) -> NoReturn:
        _refuse(self, "with len()")

    def __array__(self, *args: object, **kwargs: object) -> NoReturn:
        _refuse(self, "as an array")

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        # Mage reloads modules while a notebook is open, so the class is looked up now: pickle
        # refuses an object of the class that was there before
        restore = importlib.import_module(__name__).restore
        return restore, (self.__dict__["_facts"], self.__dict__["_text"])


def _refuse_operator(self: HandedOver, *_others: object) -> NoReturn:
    _refuse(self, "with an operator")


for _operator in _OPERATORS:
    setattr(HandedOver, f"__{_operator}__", _refuse_operator)


def restore(facts: dict[str, Any], text: str) -> HandedOver:
    """Make a reference again, as unpickling does."""
    return HandedOver(facts, text)


def facts_of(value: object) -> dict[str, Any] | None:
    """Give the facts that a reference carries, or None for anything else, whichever reload it is of."""
    kind = type(value)
    is_reference = (kind.__module__, kind.__qualname__) == (HandedOver.__module__, HandedOver.__qualname__)
    return dict(vars(value)["_facts"]) if is_reference else None


def _refuse(reference: HandedOver, use: str) -> NoReturn:
    facts = reference.__dict__["_facts"]
    raise DatasetMisuseError(
        f"{facts['slice']}: this is a reference to {facts['rows']:,} rows that lie elsewhere, not a DataFrame, and was "
        f"used {use}. {facts.get('instead', _INSTEAD)}"
    )
