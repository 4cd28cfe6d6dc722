"""Mage's internals, known here and nowhere else. Written against Mage 0.9.80.

`execution` runs blocks, `records` keeps Mage's own tables, `inline_tests` asks its tests. Mage is
imported inside functions only: most commands work without it.
"""

from mage_project.lib.runs.mage.execution import BlockOutcome, Outcome, prepare, run_pipeline
from mage_project.lib.runs.mage.inline_tests import require_upstream_tests
from mage_project.lib.runs.mage.installed import sample_file
from mage_project.lib.runs.mage.records import is_last_block, recent_runs

__all__ = [
    "BlockOutcome",
    "Outcome",
    "is_last_block",
    "prepare",
    "recent_runs",
    "require_upstream_tests",
    "run_pipeline",
    "sample_file",
]
