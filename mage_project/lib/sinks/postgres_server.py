"""Reaching a PostgreSQL server: engines, the database itself, and errors in one sentence."""

from __future__ import annotations

import psycopg2
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from mage_project.lib.errors import CantripError, ConfigurationError, SinkError
from mage_project.lib.settings import PostgresSettings
from mage_project.lib.sinks.postgres_tables import quoted, run_plain

CONNECT_SECONDS = 10


def engine_for(server: PostgresSettings, dbname: str | None = None) -> Engine:
    """Give an engine without a pool (a block is short-lived), after making sure that the database is there.

    Raises ConfigurationError for a wrong password or address, naming the variable to check.
    """
    engine = _engine(server, dbname)
    try:
        engine.connect().close()
    except OperationalError as error:
        if "does not exist" not in str(error) or "database" not in str(error):
            raise connection_error(server, error) from error
        _create_database(server, dbname or server.dbname)
    return engine


def connection_error(server: PostgresSettings, error: DBAPIError) -> CantripError:
    """Say in one paragraph why the server can't be reached, and what to check."""
    reason = plain_reason(error)
    if "password authentication failed" in reason or "no password supplied" in reason:
        return ConfigurationError(
            f"PostgreSQL at {server.address} refuses the password of user {server.user!r}. "
            "Check POSTGRES_USER and POSTGRES_PASSWORD in .env. Nothing was changed."
        )
    if "role" in reason and "does not exist" in reason:
        return ConfigurationError(
            f"PostgreSQL at {server.address} knows no user {server.user!r}. "
            "Check POSTGRES_USER in .env. Nothing was changed."
        )
    return SinkError(
        f"PostgreSQL at {server.address} can't be reached: {reason}. "
        "Start it (`./cantrip up` starts the embedded one), or check POSTGRES_HOST and POSTGRES_PORT in .env."
    )


def plain_reason(error: Exception) -> str:
    """Give the server's own words in one line, without statement, parameters or hints."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    reason = (primary or str(original)).strip().splitlines()[0] if str(original).strip() else type(original).__name__
    if state == "53100" or "No space left" in str(original):
        return "the server's disk is full; free some space there and run it again"
    return reason.rstrip(".")


def _engine(server: PostgresSettings, dbname: str | None) -> Engine:
    return create_engine(
        server.url(dbname, driver="postgresql+psycopg2"),
        poolclass=NullPool,
        connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "cantrip"},
    )


def _create_database(server: PostgresSettings, dbname: str) -> None:
    """Make the database, by way of the server's own maintenance database."""
    engine = _engine(server, "postgres")
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            run_plain(connection, f"CREATE DATABASE {quoted(dbname)}")
    except DBAPIError as error:
        # another process made it meanwhile: before we looked, or while we waited for its catalog row
        if not isinstance(error.orig, psycopg2.errors.DuplicateDatabase | psycopg2.errors.UniqueViolation):
            raise SinkError(
                f"the database {dbname!r} is not on {server.host}:{server.port}, and user {server.user!r} may not "
                f"create it ({plain_reason(error)}). Create it, or check POSTGRES_DBNAME."
            ) from error
    finally:
        engine.dispose()


def engine_for_url(url: str) -> Engine:
    """Give an engine for a connection URL; of a PostgreSQL one, with `engine_for`'s promises."""
    parts = make_url(url)
    if not parts.drivername.startswith("postgresql"):
        return create_engine(url, poolclass=NullPool)
    server = PostgresSettings(
        host=parts.host or "127.0.0.1",
        port=parts.port or 5432,
        dbname=parts.database or "mage",
        user=parts.username or "",
        password=parts.password or "",
    )
    return engine_for(server)


def ensure_database(url: str) -> None:
    """Make the database that a connection URL names, when it is a PostgreSQL one and missing."""
    if make_url(url).drivername.startswith("postgresql"):
        engine_for_url(url).dispose()
