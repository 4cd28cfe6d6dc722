"""What Mage's package brings along besides code."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def sample_file(name: str) -> Path:
    """Give the path of one of Mage's sample data sets."""
    spec = importlib.util.find_spec("mage_ai")
    folders = (spec.submodule_search_locations if spec else None) or []
    return Path(next(iter(folders))) / "sample_datasets" / name
