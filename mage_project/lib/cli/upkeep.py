"""`cantrip check` and `cantrip clean`."""

from __future__ import annotations

import time

import click

from mage_project.lib.cli import screen
from mage_project.lib.runs.check import check_project
from mage_project.lib.runs.retention import free_disk
from mage_project.lib.settings import load_settings


@click.command(epilog="\b\nExamples:\n  ./cantrip check\n  ./cantrip check --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(as_json: bool) -> int:
    """Parse and import everything, and say all that is wrong, with file and line.

    Imports, the graph of each pipeline (missing blocks, cycles), parameters against upstreams,
    unset variables, schedules, and loaders or transformers without an inline test.
    """
    started = time.monotonic()
    report = check_project()
    seconds = time.monotonic() - started
    if as_json:
        screen.print_json({"problems": [vars(problem) for problem in report.problems], "pipelines": report.pipelines})
    else:
        for problem in report.problems:
            click.echo(f"{problem.file}:{problem.line}: {problem.text}")
        found = f"{len(report.problems)} problems" if report.problems else "all is well"
        click.echo(
            f"{report.pipelines} pipelines, {report.blocks} blocks, {report.modules} modules: {found} ({seconds:.1f} s)"
        )
    return 2 if report.problems else 0


@click.command(epilog="\b\nExamples:\n  ./cantrip clean\n  RAW_KEEP_DAYS=0 ./cantrip clean    # every downloaded file")
def clean() -> None:
    """Free disk: raw files, staged files and Mage's stored outputs past their retention (dev.env has the settings)."""
    freed = free_disk(load_settings())
    screen.print_table(
        "",
        ["what", "freed MB"],
        [
            ["raw files", freed.raw / 1e6],
            ["staged files", freed.staged / 1e6],
            ["Mage's stored outputs", freed.variables / 1e6],
        ],
    )
