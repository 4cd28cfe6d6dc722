"""`cantrip run`: one run of a pipeline for the window that holds a date."""

from __future__ import annotations

import logging
import resource
import sys
from datetime import date
from typing import Any

import click

from mage_project.lib.cli import screen
from mage_project.lib.errors import CantripError, ConfigurationError
from mage_project.lib.runs import ledger, mage
from mage_project.lib.runs.pipelines import PipelineSpec, read_pipeline
from mage_project.lib.runs.window import Window, parse_date, window_holding, windows_before
from mage_project.lib.settings import Settings, load_settings, remember

# Pipeline variables that say which window a run in the notebook, or of a trigger, loads.
RUNS_OWN = ("date", "cadence", "offset")

logger = logging.getLogger(__name__)


@click.command(
    epilog="""\b
Examples:
  ./cantrip run api_to_postgres --date 2021-02-10 --var color=green
  ./cantrip run taxi_zones_to_postgres
  ./cantrip run api_to_postgres --date 2021-02-10 --json | jq .receipts
"""
)
@click.argument("pipeline")
@click.option(
    "--date", "day", metavar="D", help="A day (YYYY-MM-DD) of the window; default: the last published window."
)
@click.option("--var", "assignments", metavar="K=V", multiple=True, help="Set a pipeline variable; may be repeated.")
@click.option("--profile", metavar="P", help="local, staging or production (default: CANTRIP_PROFILE, or local).")
@click.option("--refresh", is_flag=True, help="Fetch the source again, even if a verified copy is here.")
@click.option("--retry-failed", is_flag=True, help="Run only if the ledger has this window as failed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def run(
    context: click.Context,
    pipeline: str,
    day: str | None,
    assignments: tuple[str, ...],
    profile: str | None,
    refresh: bool,
    retry_failed: bool,
    as_json: bool,
) -> int:
    """Run PIPELINE for the window that holds a date, replacing what that window wrote before.

    The run is always executed, its inline tests with it, and recorded in Mage's database and in the
    ledger. Running it again gives the same rows, never more.
    """
    if profile:
        remember(CANTRIP_PROFILE=profile)
    settings = load_settings()
    spec = read_pipeline(pipeline)
    variables = variables_of(spec, assignments)
    window = window_of(spec, day)
    server = settings.require_postgres()
    if retry_failed and not _failed_slices(settings, spec, window, variables):
        message = f"{pipeline} {window}: nothing failed, so there is nothing to retry"
        nothing = {**describe(spec, window, mage.Outcome(run_id=""), []), "notices": [message]}
        screen.print_json(nothing) if as_json else click.echo(message)
        return 0
    if refresh:
        variables["refresh"] = "1"
    outcome = execute(settings, spec, window, variables, context.obj["debug"], quiet=as_json)
    try:
        rows = ledger.entries_of(server, outcome.run_id)
    except CantripError:
        if outcome.error is None:
            raise
        rows = []  # the server went away: the run's own error says more
    document = describe(spec, window, outcome, rows)
    if as_json:
        screen.print_json(document)
    else:
        _tell(document)
    if outcome.error is not None:
        raise _with_log(settings, outcome.error)
    return 0


def execute(
    settings: Settings, spec: PipelineSpec, window: Window, variables: dict[str, Any], debug: bool, quiet: bool
) -> Any:
    """Run the blocks in this process and clean up after them; give Mage's outcome."""
    log = settings.home / "logs" / "runs.log"
    with screen.chatter_to(log, debug) as (_, real_err):

        def follow(block: str, state: str) -> None:
            if not quiet and state == "running" and real_err.isatty():
                print(f"  {block} …", file=real_err, flush=True)

        mage.prepare(settings)
        outcome = mage.run_pipeline(spec.name, window, variables, settings, follow)
        if outcome.error is not None:
            try:
                _remember_failure(settings, spec, window, variables, outcome)
            except CantripError as second:
                logger.info("the ledger could not be written: %s", second)
    return outcome


def variables_of(spec: PipelineSpec, assignments: tuple[str, ...]) -> dict[str, Any]:
    """Read `k=v` pairs; raise ConfigurationError for a name that the pipeline doesn't declare."""
    variables: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigurationError(f"--var {assignment!r} is not NAME=VALUE, for example --var color=green.")
        if name in RUNS_OWN:
            raise ConfigurationError(f"--var {name}=… would not move the window. Use --date {value or 'YYYY-MM-DD'}.")
        if name not in spec.variables:
            declared = ", ".join(sorted(spec.variables)) or "none"
            raise ConfigurationError(f"{spec.name} has no variable {name!r}; it declares {declared}.")
        variables[name] = value
    return variables


def window_of(spec: PipelineSpec, day: str | None) -> Window:
    """Give the window that holds `day`, or the last published one."""
    if day is not None:
        return window_holding(parse_date(day), spec.cadence)
    today = window_holding(date.today(), spec.cadence)
    return windows_before(today, int(spec.variables.get("offset") or 0), spec.cadence)


def describe(spec: PipelineSpec, window: Window, outcome: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the document that `--json` prints."""
    dropped: dict[str, int] = {}
    for row in rows:
        for rule, count in row["dropped"].items():
            dropped[rule] = dropped.get(rule, 0) + count
    document = {
        "pipeline": spec.name,
        "window": [str(window.start), str(window.end)],
        "slices": [row["slice"] for row in rows],
        "state": "failed" if outcome.error is not None else "done",
        "seconds": round(outcome.seconds, 3),
        "peak_memory_mb": _peak_memory_mb(),
        "blocks": [vars(block) for block in outcome.blocks],
        "receipts": [receipt for row in rows for receipt in ledger.receipts_of(row)],
        "dropped": dropped,
        "notices": sorted({notice for facts in outcome.handed_over for notice in facts["notices"]}),
    }
    if outcome.error is not None:
        document["error"] = str(outcome.error)
        document["failed_block"] = outcome.failed_block
    return document


def _tell(document: dict[str, Any]) -> None:
    start, end = document["window"]
    console = screen.people()
    console.print(f"[bold]{document['pipeline']}[/bold]  {start} to {end}")
    rows = [[block["uuid"], block["rows_in"], block["rows_out"], block["seconds"]] for block in document["blocks"]]
    if rows:
        screen.print_table("", ["block", "rows in", "rows out", "seconds"], rows, console)
    for rule, count in document["dropped"].items():
        if count:
            console.print(f"dropped {count:,} by rule {rule}")
    for notice in document["notices"]:
        console.print(f"notice: {notice}")
    for receipt in document["receipts"]:
        place = screen.place(receipt)
        console.print(f"{receipt['slice']}: {receipt['rows']:,} rows in {place}, {screen.size(receipt['bytes'])}")
    state = f"failed in block {document['failed_block']}" if document.get("failed_block") else document["state"]
    console.print(f"{state} in {document['seconds']:.2f} s, peak memory {document['peak_memory_mb']:,} MB")


def _failed_slices(settings: Settings, spec: PipelineSpec, window: Window, variables: dict[str, Any]) -> list[str]:
    wanted = {**spec.variables, **variables}
    return [
        row["slice"]
        for row in ledger.slices(settings.require_postgres(), spec.name)
        if row["state"] == "failed"
        and (row["window_start"], row["window_end"]) == (window.start, window.end)
        and row["variables"] == ledger.plain_variables(wanted)
    ]


def _remember_failure(
    settings: Settings, spec: PipelineSpec, window: Window, variables: dict[str, Any], outcome: Any
) -> None:
    """Write a failure that no sink has written: one before anything reached a sink."""
    if isinstance(outcome.error, ConfigurationError):
        return  # wrong usage: nothing was attempted
    server = settings.require_postgres()
    if any(row["state"] == "failed" for row in ledger.entries_of(server, outcome.run_id)):
        return
    slices = {facts["slice"] for facts in outcome.handed_over} or {getattr(outcome.error, "slice", None) or str(window)}
    for slice in slices:
        ledger.write_failed_run(
            server, outcome.run_id, spec.name, window, slice, {**spec.variables, **variables}, str(outcome.error)
        )


def _with_log(settings: Settings, error: Exception) -> Exception:
    """Give our own errors as they are; of others (a bug, or a person's block) say where the log is."""
    if isinstance(error, CantripError):
        return error
    if isinstance(error, SyntaxError):
        return CantripError(f"a block does not parse: {error.msg}. `./cantrip check` names its file and line.")
    log, text = settings.home / "logs" / "runs.log", " ".join(str(error).split())
    return CantripError(
        f"{type(error).__name__}: {text}. The run failed before its slice was replaced; {log} has the traceback."
    )


def _peak_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))
