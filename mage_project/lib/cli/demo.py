"""`cantrip demo`: the main job from nothing, offline, and where to look next."""

from __future__ import annotations

import time

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
    ("api_to_postgres", "yellow/2021-01", {"color": "yellow"}),
    ("api_to_postgres", "green/2021-01", {"color": "green"}),
)


@click.command(epilog="\b\nExample:\n  make demo")
@click.option(
    "--rows", type=click.IntRange(min=1), default=200_000, show_default=True, help="Trips in the generated month."
)
@click.pass_context
def demo(context: click.Context, rows: int) -> int:
    """Start the local services and load a generated month of trips, without internet or cloud.

    The months come from an offline source on 127.0.0.1 that generates them with the dirt of the
    real ones. Nothing else ever uses it: `cantrip run` asks the TLC's own server.
    """
    console = screen.people()
    console.print("[bold]1[/bold] starting PostgreSQL and the offline source …")
    start_services(load_settings(), with_source=True, source_rows=rows)
    source = read_services(load_settings().home)["source"]
    remember(TAXI_BASE_URL=source["base_url"], TAXI_ZONES_URL=source["zones_url"], TAXI_FORMAT="parquet")
    settings = load_settings()
    console.print(
        f"[bold]2[/bold] loading generated trips (not the TLC's) from the OFFLINE source {source['base_url']} …"
    )
    table = []
    published = _published_slices(settings)
    for name, slice, variables in STEPS:
        spec = read_pipeline(name)
        window = window_of(spec, MONTH)
        if slice in published:
            console.print(f"{slice}: left alone, it holds rows of {published[slice]}")
            continue
        started = time.monotonic()
        outcome = execute(settings, spec, window, dict(variables), context.obj["debug"], quiet=True)
        seconds = time.monotonic() - started
        if outcome.error is not None:
            raise outcome.error
        document = describe(spec, window, outcome, ledger.entries_of(settings.require_postgres(), outcome.run_id))
        for receipt in document["receipts"]:
            dropped = sum(document["dropped"].values())
            table.append([receipt["slice"], receipt["where"].rpartition("/")[2], receipt["rows"], dropped, seconds])
    screen.print_table("", ["slice", "table", "rows", "dropped", "seconds"], table, console)
    console.print(
        "\nWhere to look:\n"
        "  ./cantrip ledger                  what was fetched, kept, dropped and loaded\n"
        "  ./cantrip ui                      the pipelines in Mage's notebook\n"
        "  ./cantrip status --json           the database's URL, for psql or any other client\n"
        "And with the TLC's real month:\n"
        "  ./cantrip run api_to_postgres --date 2021-01-15 --var color=green",
        soft_wrap=True,
    )
    return 0


def _published_slices(settings: Settings) -> dict[str, str]:
    """Give the slices that hold published rows, and their source: generated ones never take their place."""
    held = {row["slice"]: str(row["source"]) for row in ledger.held(settings.require_postgres())}
    return {slice: source for slice, source in held.items() if f"{sources.PREFIX}/" not in source}
