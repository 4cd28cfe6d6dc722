"""Errors whose type says how to recover, and whose text says what, where, found and remedy.

Every error that a user can cause or meet is one of these, so that the command line can print
one paragraph and choose the exit code: configuration is 2, everything else is 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CantripError(Exception):
    """Base of all errors that carry a remedy. `exit_code` is what the command line ends with."""

    exit_code = 1

    # the slice that it is about, where one is known: the ledger names it
    slice: str | None = None


class ConfigurationError(CantripError):
    """Fix the configuration or the command, then run again: nothing was attempted."""

    exit_code = 2


class SourceError(CantripError):
    """The publisher's side: the file can't be had. Run again later, or name another source."""


class NotPublishedError(SourceError):
    """The publisher doesn't have this file (404, or 403 as the TLC's server answers)."""


class DataError(CantripError):
    """The file arrived but can't be loaded as it is. Fix the data or the declared schema."""


class SinkError(CantripError):
    """The place to store refused or failed; what it held before is unharmed."""


class ReconciliationError(CantripError):
    """Rows went missing or were invented between two steps: never published."""


class DatasetMisuseError(CantripError, AttributeError, TypeError):
    """A reference to staged rows was used as if it were the rows.

    It is an AttributeError too, so that `hasattr` (which Mage and IPython ask of every output)
    still answers False instead of failing.
    """


@contextmanager
def about_slice(slice: str) -> Iterator[None]:
    """Note on every error of ours that passes which slice it is about."""
    try:
        yield
    except CantripError as error:
        error.slice = slice
        raise
