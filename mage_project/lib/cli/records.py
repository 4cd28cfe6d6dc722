"""`cantrip ledger` and `cantrip runs`: what is stored, and what ran."""

from __future__ import annotations

from typing import Any

import click

from mage_project.lib.cli import screen
from mage_project.lib.runs import ledger, mage
from mage_project.lib.runs.pipelines import read_pipeline
from mage_project.lib.settings import load_settings

Entry = dict[str, Any]


@click.command(
    name="ledger",
    epilog="""\b
Examples:
  ./cantrip ledger
  ./cantrip ledger --pipeline api_to_postgres --verify
  ./cantrip ledger --json | jq '.[] | select(.state == "failed")'
""",
)
@click.option("--pipeline", help="Only this pipeline's slices.")
@click.option("--verify", is_flag=True, help="Count each slice in its table and compare; exit 1 on a difference.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ledger_command(pipeline: str | None, verify: bool, as_json: bool) -> int:
    """Show each slice: its window, rows fetched, kept, dropped by rule and loaded, and its state."""
    server = load_settings().require_postgres()
    rows, held = ledger.slices(server, pipeline), ledger.held(server, pipeline)
    stored = {(row["pipeline"], row["slice"]): row for row in held}
    differences = ledger.differences(server, held) if verify else {}
    if as_json:
        screen.print_json([_document(row, stored, differences) for row in rows])
    elif not rows:
        _say_empty(pipeline)
    else:
        columns = ["pipeline", "slice", "window", "fetched", "kept", "dropped", "loaded", "table", "state"]
        screen.print_table("", columns, [_line(row, stored, differences) for row in rows])
        for row in rows:
            if row["state"] == "failed":
                click.echo(f"\n{row['pipeline']} {row['slice']}: {row['error']}")
        if verify and not differences:
            click.echo("every slice holds the rows that the ledger says")
    return 1 if differences else 0


def _document(row: Entry, stored: dict[tuple[str, str], Entry], differences: dict[tuple[str, str], str]) -> Entry:
    """Give the newest attempt at a slice, what the slice holds, and what a count of it found."""
    key = (row["pipeline"], row["slice"])
    return {**row, "held": stored.get(key), "difference": differences.get(key)}


def _line(row: Entry, stored: dict[tuple[str, str], Entry], differences: dict[tuple[str, str], str]) -> list[Any]:
    """Give one line of the table: what the slice holds, whatever became of the newest attempt."""
    key = (row["pipeline"], row["slice"])
    held = stored.get(key)
    counts: list[Any] = [None, None, None, None, ""]
    if held:
        receipt = held["receipts"].get("postgres") or {}
        table = (receipt.get("where") or "").rpartition("/")[2]
        counts = [held["fetched"], held["kept"], sum(held["dropped"].values()), receipt.get("rows"), table]
    state = "done" if row["state"] == "done" else "last attempt failed" if held else "failed"
    return [*key, f"{row['window_start']} to {row['window_end']}", *counts, differences.get(key, state)]


def _say_empty(pipeline: str | None) -> None:
    if pipeline:
        read_pipeline(pipeline)  # a name that isn't one is an error, not an empty ledger
        click.echo(f"the ledger holds nothing of {pipeline} yet. Try ./cantrip run {pipeline}")
        return
    click.echo(
        "the ledger is empty: nothing ran yet. Try ./cantrip run api_to_postgres --date 2021-02-10 --var color=green"
    )


@click.command(name="runs", epilog="\b\nExamples:\n  ./cantrip runs\n  ./cantrip runs --limit 100 --json")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def runs_command(limit: int, as_json: bool) -> None:
    """Show what ran, newest first, whoever started it: this command line, a trigger, or the UI."""
    rows = mage.recent_runs(load_settings(), limit)
    if as_json:
        screen.print_json(rows)
        return
    if not rows:
        click.echo("nothing ran yet. Try ./cantrip run api_to_postgres --date 2021-02-10 --var color=green")
        return
    table = [
        [
            row["id"],
            row["pipeline"],
            row["window"] or row["execution_date"],
            row["status"].lower(),
            row["trigger"],
            row["created_at"],
        ]
        for row in rows
    ]
    screen.print_table("", ["run", "pipeline", "window", "state", "trigger", "started"], table)
