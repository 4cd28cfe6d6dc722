"""The text of a dataset: counts, notices and the first rows, as the notebook shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

PREVIEW_ROWS = 5
# a notebook beside the tree, on a laptop, holds about this many characters
PREVIEW_WIDTH = 80


def describe(facts: Mapping[str, Any], first_rows: pd.DataFrame) -> str:
    """Give the first rows as a text table under the counts; `facts` are those that a reference carries."""
    counts = f"{facts['rows']:,} rows of {facts['slice']}"
    if facts["dropped"]:
        rules = ", ".join(f"{count:,} by {rule}" for rule, count in facts["dropped"])
        counts = f"{counts}: {facts['fetched']:,} fetched, dropped {rules}"
    lines = [counts, f"from {facts['source']}", *facts["notices"], "", f"The first {len(first_rows)}:"]
    return "\n".join(lines) + "\n" + _text_table(first_rows)


def describe_files(facts: Mapping[str, Any]) -> str:
    """Give the text of a manifest: what lies where, and the first files."""
    files = facts["files"]
    megabytes = sum(file["bytes"] for file in files) / 1e6
    lines = [
        f"{facts['rows']:,} rows of {facts['slice']} in {len(files)} Parquet files, {megabytes:,.1f} MB",
        f"gs://{facts['bucket']}/{facts['path']}",
        f"from {facts['source']}",
        *facts["notices"],
        "",
        f"The first {min(PREVIEW_ROWS, len(files))} files:",
        *(f"{file['rows']:>9,} rows  {file['path']}" for file in files[:PREVIEW_ROWS]),
    ]
    return "\n".join(lines)


def _text_table(frame: pd.DataFrame) -> str:
    """Columns side by side as far as they fit, the rest below: readable without scrolling sideways."""
    return frame.to_string(index=False, na_rep="", line_width=PREVIEW_WIDTH, max_colwidth=40)
