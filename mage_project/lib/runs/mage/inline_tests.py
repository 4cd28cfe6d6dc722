"""Mage's inline tests: which one failed and what it said, and running them again in the notebook."""

from __future__ import annotations

import logging

from mage_project.lib.errors import DataError
from mage_project.lib.runs.pipelines import PROJECT


def require_upstream_tests(pipeline_name: str, block_uuid: str) -> None:
    """Run the inline tests of every block above `block_uuid` on what the notebook last stored for it.

    Raises DataError when one fails, so that an exporter which is run by hand writes nothing.
    """
    from mage_ai.data_preparation.models.pipeline import Pipeline

    block = Pipeline.get(pipeline_name, repo_path=str(PROJECT)).get_block(block_uuid)
    above, seen = list(block.upstream_blocks) if block else [], set()
    while above:
        upstream = above.pop()
        if upstream.uuid in seen:
            continue
        seen.add(upstream.uuid)
        above.extend(upstream.upstream_blocks)
        lines = LogLines()
        test_logger = logging.getLogger(f"{__name__}.{upstream.uuid}")
        test_logger.setLevel(logging.INFO)  # the level at which Mage prints a failed assertion
        test_logger.addHandler(lines)
        try:
            upstream.run_tests(logger=test_logger, update_tests=True)
        except Exception as error:
            raise DataError(f"{describe_failed_test(upstream.uuid, lines, error)} Nothing was written.") from error
        finally:
            test_logger.removeHandler(lines)


class LogLines(logging.Handler):
    """Keeps what a block logs: Mage prints a failed assertion there and raises without it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's lines."""
        self.lines.extend(record.getMessage().splitlines())


def describe_failed_test(block_uuid: str, lines: LogLines, error: Exception) -> str:
    """Give which inline test failed and what its assertion says."""
    # of several failed tests, the first
    text = "\n".join(lines.lines).partition("FAIL: ")[2].partition("FAIL: ")[0]
    name = text.partition(" (block")[0].strip()
    said = text.rpartition("AssertionError")[2].lstrip(": ").partition('"')[0].splitlines()
    reason = said[0].strip() if said and said[0].strip() else str(error)
    return f"inline test {name or 'of the block'} of block {block_uuid} failed: {reason}."
