"""`cantrip demo`: the main job from nothing, offline, and where to look next."""

from __future__ import annotations

import time
from typing import Any

import click

from mage_project.lib.cli import screen
from mage_project.lib.cli.run import describe, execute, window_of
from mage_project.lib.cli.services import start_services
from mage_project.lib.local import sources
from mage_project.lib.runs import ledger
from mage_project.lib.runs.pipelines import read_pipeline
from mage_project.lib.settings import Settings, load_settings, read_services, remember

MONTH = "2021-01-15"
STEPS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("taxi_zones_to_postgres", "taxi_zones", {}),
    *(
        (pipeline, f"{color}/2021-01", {"color": color})
        for color in ("yellow", "green")
        for pipeline in ("api_to_postgres", "api_to_gcs", "gcs_to_bigquery")
    ),
)


@click.command(epilog="\b\nExample:\n  make demo")
@click.option(
    "--rows", type=click.IntRange(min=1), default=200_000, show_default=True, help="Trips in the generated month."
)
@click.pass_context
def demo(context: click.Context, rows: int) -> int:
    """Start the local services and load a generated month of trips into all sinks, without internet or cloud.

    The months come from an offline source on 127.0.0.1 that generates them with the dirt of the
    real ones. Nothing else ever uses it: `cantrip run` asks the TLC's own server.
    """
    console = screen.people()
    console.print("[bold]1[/bold] starting PostgreSQL, Cloud Storage, BigQuery and the offline source …")
    start_services(load_settings(), with_source=True, source_rows=rows)
    source = read_services(load_settings().home)["source"]
    remember(TAXI_BASE_URL=source["base_url"], TAXI_ZONES_URL=source["zones_url"], TAXI_FORMAT="parquet")
    settings = load_settings()
    console.print(
        f"[bold]2[/bold] loading generated trips (not the TLC's) from the OFFLINE source {source['base_url']} …"
    )
    started = time.monotonic()
    table = []
    published = _published_slices(settings)
    for name, slice, variables in STEPS:
        if slice in published:
            console.print(f"{slice}: {name} is left out, the slice holds rows of {published[slice]}")
            continue
        table += _run_step(settings, name, variables, context.obj["debug"])
    screen.print_table("", ["slice", "pipeline", "sink", "where", "rows", "seconds in sink"], table, console)
    seconds = time.monotonic() - started
    console.print(f"{len(table)} places in {seconds:.1f} s: Mage's import, loading and the blocks' tests are in it")
    console.print(
        "\nWhere to look:\n"
        "  ./cantrip ledger                  what was fetched, kept and dropped, and what each sink holds\n"
        "  ./cantrip ui                      the pipelines in Mage's notebook\n"
        "  ./cantrip status --json           the servers' addresses, for psql or any other client\n"
        "The generated rows of 2021-01 stay until real ones are loaded in their place, sink by sink.\n"
        "And with a real month of the TLC's, from the internet:\n"
        "  ./cantrip run api_to_postgres --date 2021-02-15 --var color=green",
        soft_wrap=True,
    )
    return 0


def _run_step(settings: Settings, name: str, variables: dict[str, str], debug: bool) -> list[list[Any]]:
    """Run one pipeline for the demo's month and give a line for each place that it stored a slice in."""
    spec = read_pipeline(name)
    window = window_of(spec, MONTH)
    outcome = execute(settings, spec, window, dict(variables), debug, quiet=True)
    if outcome.error is not None:
        raise outcome.error
    document = describe(spec, window, outcome, ledger.entries_of(settings.require_postgres(), outcome.run_id))
    return [
        [receipt["slice"], name, receipt["sink"], screen.place(receipt), receipt["rows"], receipt["seconds"]]
        for receipt in document["receipts"]
    ]


def _published_slices(settings: Settings) -> dict[str, str]:
    """Give the slices that hold published rows, and their source: generated ones never take their place."""
    rows = ledger.stored(settings.require_postgres())
    sources_of = [(row["slice"], str(row["source"])) for row in rows]
    return {
        slice: source for slice, source in sources_of if source.startswith("http") and not sources.is_generated(source)
    }
