"""`cantrip ledger` and `cantrip runs`: what is stored, and what ran."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import click

from mage_project.lib.cli import screen
from mage_project.lib.local.sources import is_generated
from mage_project.lib.runs import ledger, mage
from mage_project.lib.runs.pipelines import read_pipeline
from mage_project.lib.settings import load_settings

Entry = dict[str, Any]
SINKS = ("postgres", "gcs", "bigquery")


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
@click.option("--verify", is_flag=True, help="Count each slice again where it is stored; exit 1 on a difference.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ledger_command(pipeline: str | None, verify: bool, as_json: bool) -> int:
    """Show each slice: rows fetched, kept and dropped by rule, what each sink holds of it, and its state."""
    settings = load_settings()
    server = settings.require_postgres()
    rows, stored = ledger.slices(server, pipeline), ledger.stored(server, pipeline)
    differences: dict[tuple[str, str], str] = {}
    if verify:
        from mage_project.lib.runs.verify import differences as count_again  # Google's clients take 0.4 s to import

        differences = count_again(settings, stored)
    if as_json:
        screen.print_json([_document(row, stored, differences) for row in rows])
    elif not rows:
        _say_empty(pipeline)
    else:
        columns = ["slice", "window", "fetched", "kept", "dropped", *SINKS, "source", "state"]
        slices = sorted({row["slice"] for row in rows}, key=lambda slice: (_of(slice, rows)[0]["window_start"], slice))
        screen.print_table("", columns, [_line(slice, rows, stored, differences) for slice in slices])
        for row in rows:
            if row["state"] == "failed":
                click.echo(f"\n{row['pipeline']} {row['slice']}: {row['error']}")
        for (slice, _), difference in differences.items():
            click.echo(f"\n{slice}: {difference}")
        if verify and not differences:
            click.echo("every sink holds what it was given" if stored else "nothing is stored yet: nothing was counted")
    return 1 if differences else 0


def _of(slice: str, rows: list[Entry]) -> list[Entry]:
    return [row for row in rows if row["slice"] == slice]


def _document(row: Entry, stored: list[Entry], differences: dict[tuple[str, str], str]) -> Entry:
    """Give the newest attempt at a slice, what the slice holds in each place, and what a count of it found."""
    mine = [each for each in stored if (each["pipeline"], each["slice"]) == (row["pipeline"], row["slice"])]
    found = [differences[key] for each in mine if (key := (each["slice"], each["receipt"]["where"])) in differences]
    return {**row, "stored": [each["receipt"] for each in mine], "difference": "; ".join(found) or None}


def _line(slice: str, rows: list[Entry], stored: list[Entry], differences: dict[tuple[str, str], str]) -> list[Any]:
    """Give one line of the table: what the slice holds in each sink, whatever became of the newest attempts."""
    attempts, held = _of(slice, rows), _of(slice, stored)
    counts: list[Any] = [None, None, None]
    # what came from the publisher: BigQuery's entries are of a copy
    fetched = [each for each in held if each["receipt"]["sink"] != "bigquery"] or held
    if fetched:
        newest = max(fetched, key=lambda each: each["finished_at"])
        dropped = ", ".join(f"{count:,} {rule}" for rule, count in newest["dropped"].items() if count)
        counts = [newest["fetched"], newest["kept"], dropped]
    in_sinks = [_rows_in(sink, held) for sink in SINKS]
    window = f"{attempts[0]['window_start']} to {attempts[0]['window_end']}"
    return [slice, window, *counts, *in_sinks, _origin(fetched), _state(slice, attempts, held, differences)]


def _rows_in(sink: str, held: list[Entry]) -> int | str | None:
    """Give the rows that a sink holds of a slice; where its places differ, each."""
    counts = sorted({each["receipt"]["rows"] for each in held if each["receipt"]["sink"] == sink})
    if len(counts) > 1:
        return " or ".join(f"{count:,}" for count in counts)
    return counts[0] if counts else None


def _origin(fetched: list[Entry]) -> str:
    """Name who published the rows; nobody published the demo's."""
    origins = {
        "generated" if is_generated(source) else urlsplit(source).hostname or source
        for source in (str(each["source"]) for each in fetched)
    }
    return " and ".join(sorted(origins))


def _state(slice: str, attempts: list[Entry], held: list[Entry], differences: dict[tuple[str, str], str]) -> str:
    said = []
    if any(key[0] == slice for key in differences):
        said.append("not as the ledger says")
    if len({each["receipt"]["rows"] for each in held}) > 1:
        said.append("sinks differ")
    elif _is_behind(held):
        said.append("bigquery is behind gcs")
    if any(row["state"] == "failed" for row in attempts):
        said.append("last attempt failed" if held else "failed")
    return ", ".join(said) or "done"


def _is_behind(held: list[Entry]) -> bool:
    """Whether BigQuery loaded other files than the manifest lists by now."""
    contents = {each["receipt"]["where"]: each["receipt"].get("content") for each in held}
    landed = {content for where, content in contents.items() if where.endswith(".json")}
    loaded = {content for where, content in contents.items() if not where.startswith("gs://")} - {None}
    return bool(landed and loaded - landed)


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
