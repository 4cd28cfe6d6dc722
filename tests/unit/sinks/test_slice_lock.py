"""Giving up on a lock is told from every other error of the server."""

import psycopg2.errors
import pytest
from sqlalchemy.exc import OperationalError

from mage_project.lib.sinks.slice_lock import is_lock_timeout


def from_server(error: BaseException) -> OperationalError:
    return OperationalError("SELECT pg_advisory_lock(1)", {}, error)


def test_waiting_too_long_is_known_by_the_servers_own_word() -> None:
    assert is_lock_timeout(from_server(psycopg2.errors.LockNotAvailable("canceling statement due to lock timeout")))


@pytest.mark.parametrize(
    "error",
    [
        from_server(psycopg2.errors.QueryCanceled("canceling statement due to statement timeout")),
        from_server(psycopg2.errors.AdminShutdown("terminating connection due to administrator command")),
        psycopg2.errors.LockNotAvailable("not wrapped: of a connection that isn't ours"),
        TimeoutError("lock timeout"),
    ],
    ids=lambda error: type(getattr(error, "orig", error)).__name__,
)
def test_nothing_else_is_taken_for_it(error: Exception) -> None:
    assert not is_lock_timeout(error)
