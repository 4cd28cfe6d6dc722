"""`cantrip ledger` and `cantrip runs`: what is stored, and what ran."""

from __future__ import annotations

import click

from mage_project.lib.cli import screen
from mage_project.lib.runs import ledger, mage
from mage_project.lib.settings import load_settings


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
    rows = ledger.slices(server, pipeline)
    differences = ledger.differences(server, ledger.held(server, pipeline)) if verify else {}
    if as_json:
        screen.print_json([{**row, "difference": differences.get((row["pipeline"], row["slice"]))} for row in rows])
        return 1 if differences else 0
    if not rows:
        click.echo(
            "the ledger is empty: nothing ran yet. "
            "Try ./cantrip run api_to_postgres --date 2021-02-10 --var color=green"
        )
        return 0
    table = []
    for row in rows:
        receipt = row["receipts"].get("postgres") or {}
        state = row["state"] if row["state"] == "done" else f"failed: {row['error']}"
        table.append(
            [
                row["pipeline"],
                row["slice"],
                f"{row['window_start']} to {row['window_end']}",
                row["fetched"],
                row["kept"],
                sum(row["dropped"].values()),
                receipt.get("rows"),
                (receipt.get("where") or "").rpartition("/")[2],
                differences.get((row["pipeline"], row["slice"]), state),
            ]
        )
    columns = ["pipeline", "slice", "window", "fetched", "kept", "dropped", "loaded", "table", "state"]
    screen.print_table("", columns, table)
    if verify and not differences:
        click.echo("every slice holds the rows that the ledger says")
    return 1 if differences else 0


@click.command(name="runs", epilog="\b\nExamples:\n  ./cantrip runs\n  ./cantrip runs --limit 100 --json")
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
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
