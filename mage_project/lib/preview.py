"""The text of a dataset: counts, notices and the first rows, as the notebook shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from mage_project.lib.dataset import Dataset

PREVIEW_ROWS = 5
# a notebook beside the tree, on a laptop, holds about this many characters
PREVIEW_WIDTH = 80


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
