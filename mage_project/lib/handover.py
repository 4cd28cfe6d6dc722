"""Opening what the block before handed over, and the text by which the notebook shows it."""

from __future__ import annotations

from typing import Any

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import DatasetMisuseError
from mage_project.lib.manifest import KIND, Manifest
from mage_project.lib.reference import HandedOver, facts_of

__all__ = ["HandedOver", "received", "received_manifest"]


def received(value: Any) -> Dataset:
    """Open what the block before handed over. Raises DatasetMisuseError for anything else."""
    facts = facts_of(value)
    if facts is not None and facts.get("kind") != KIND:
        return Dataset.from_facts(facts)
    if facts is not None:
        raise DatasetMisuseError(
            f"{facts['slice']}: this block got a manifest of files in a bucket, not a dataset. "
            "Open it with `received_manifest(…)`."
        )
    raise DatasetMisuseError(
        f"this block got {_kind(value)}, not a dataset. The block before must end with "
        "`return received(trips).map_pandas(my_function).hand_over()`, or with `.drop_where(...)`: "
        "a filtered preview is not the data."
    )


def received_manifest(value: Any) -> Manifest:
    """Open the manifest that the block before handed over. Raises DatasetMisuseError for anything else."""
    facts = facts_of(value)
    if facts is not None and facts.get("kind") == KIND:
        return Manifest.from_facts(facts)
    found = "a dataset of staged rows" if facts is not None else _kind(value)
    raise DatasetMisuseError(
        f"this block got {found}, not a manifest of files in a bucket. The block before must end with "
        "`return require_manifest(…).hand_over()`."
    )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__} of {shape[0]} rows" if shape else f"a {type(value).__name__}"
