"""One run of a slice at a time: a session lock in the warehouse, whatever the sink.

The server lets the lock go when its client dies, so a killed run holds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2.errors
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from mage_project.lib.errors import SinkError

logger = logging.getLogger(__name__)


@contextmanager
def slice_lock(engine: Engine, place: str, slice: str, seconds: float) -> Iterator[None]:
    """Hold the slice of `place` for this run; wait for another one, `seconds` at most. Raises SinkError then."""
    key = {"key": f"{place}/{slice}"}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))"), key).scalar():
            logger.warning("%s: another run is replacing %s; waiting for it", place, slice)
            connection.execute(text(f"SET lock_timeout = {int(seconds * 1000)}"))
            try:
                connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
            except DBAPIError as error:
                if not is_lock_timeout(error):
                    raise
                raise SinkError(
                    f"{slice}: another run has been replacing this slice of {place} for more than {seconds:.0f} s. "
                    "Nothing was loaded. Wait for it, or raise SLICE_LOCK_SECONDS."
                ) from error
        yield


def is_lock_timeout(error: Exception) -> bool:
    """Whether the server gave up waiting for a lock, as it was told to."""
    return isinstance(error, DBAPIError) and isinstance(error.orig, psycopg2.errors.LockNotAvailable)
