"""Opening what the block before handed over, and the text by which the notebook shows it."""

from __future__ import annotations

from typing import Any

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import DatasetMisuseError
from mage_project.lib.reference import HandedOver, facts_of

__all__ = ["HandedOver", "received"]


def received(value: Any) -> Dataset:
    """Open what the block before handed over. Raises DatasetMisuseError for anything else."""
    facts = facts_of(value)
    if facts is not None:
        return Dataset.from_facts(facts)
    raise DatasetMisuseError(
        f"this block got {_kind(value)}, not a dataset. The block before must end with "
        "`return received(trips).map_pandas(my_function).hand_over()`, or with `.drop_where(...)`: "
        "a filtered preview is not the data."
    )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__} of {shape[0]} rows" if shape else f"a {type(value).__name__}"
