"""What commands print with: tables for people, one JSON document for programs, Mage's chatter to a file."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(document, default=_plain, indent=2))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], console: Console | None = None
) -> None:
    """Print a table; numbers stand right with thousands separated."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # as text: in a string, rich takes `[fare]` for markup and leaves it out
        table.add_row(*(Text(_shown(value)) for value in row))
    (console or people()).print(table)


def place(receipt: dict[str, Any]) -> str:
    """Give where a receipt's rows are, as briefly as a person needs it."""
    where = str(receipt["where"])
    return where.rpartition("/")[2] if receipt["sink"] == "postgres" else where


def size(count: int) -> str:
    """Give a number of bytes as people read it."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def people(file: Any = None) -> Console:
    """Give a console for people; outside a terminal it is wide enough not to break lines."""
    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(file=file or sys.stdout, highlight=False, width=220)


@contextmanager
def chatter_to(log: Path, debug: bool) -> Iterator[tuple[Any, Any]]:
    """Send what Mage and blocks print to `log`; give files for the real standard output and error.

    Mage prints and logs through several layers, so the file descriptors themselves are turned.
    """
    if debug:
        yield sys.stdout, sys.stderr
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    with log.open("a") as file, os.fdopen(out, "w") as real_out, os.fdopen(err, "w") as real_err:
        handler = logging.StreamHandler(real_err)
        handler.setLevel(logging.WARNING)
        ours = logging.getLogger("mage_project")
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        ours.addHandler(handler)
        try:
            yield real_out, real_err
        finally:
            ours.removeHandler(handler)
            sys.stdout.flush()
            sys.stderr.flush()
            real_out.flush()
            real_err.flush()
            os.dup2(real_out.fileno(), 1)
            os.dup2(real_err.fileno(), 2)


def silence() -> None:
    """Let nobody print after us: Mage's database clients do when the process ends, its loggers on a full disk."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: a late Ctrl-C must not say otherwise
    with Path(os.devnull).open("w") as nowhere:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            if not stream.closed:
                stream.flush()
            os.dup2(nowhere.fileno(), descriptor)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value)
