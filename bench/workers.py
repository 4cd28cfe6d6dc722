"""One measured process each: `python -m bench.workers ours|stock|idle|… …` prints one JSON line.

Mage is imported and its tables are ready before the clock starts, on every side that runs Mage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from mage_project.lib.settings import Settings, export_environment, load_settings, use_plain_allocator

STOCK = Path(__file__).parent / "stock_blocks"


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """A pipeline's blocks with their inline tests; a file is fetched anew."""
    from mage_project.lib.runs import mage
    from mage_project.lib.runs.window import window_holding

    settings = load_settings()
    mage.prepare(settings)
    window = window_holding(date.fromisoformat(arguments.date), "month")
    outcome = mage.run_pipeline(arguments.pipeline, window, {"color": "yellow", "refresh": "1"}, settings)
    if outcome.error:
        raise outcome.error
    blocks = {block.uuid: block.seconds for block in outcome.blocks}
    return {"seconds": outcome.seconds, "rows": outcome.blocks[-1].rows_out, "blocks": blocks}


def stock(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same pipeline with Mage's own I/O blocks, or with the notebook's pandas."""
    bucket = load_settings().require_google().bucket
    variables = {"url": arguments.url, "bucket": bucket, "prefix": arguments.prefix}
    return {"seconds": _execute_stock(arguments.pipeline, variables)}


def idle(_arguments: argparse.Namespace) -> dict[str, Any]:
    """A Mage process that runs a block which does nothing."""
    return {"seconds": _execute_stock("idle", {})}


def prepared(_arguments: argparse.Namespace) -> dict[str, Any]:
    """A Mage process as it is before a run's first block, and no block."""
    return {"seconds": _seconds(lambda: prepare(load_settings()))}


def staging(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the staged file between blocks costs: written once, read once."""
    from mage_project.lib.dataset import stage
    from mage_project.lib.feeds.taxi.schema import conform_to, csv_type
    from mage_project.lib.formats import open_file
    from mage_project.lib.http import download

    settings = load_settings()
    raw = download(arguments.url, settings.raw_folder, settings.http, what="bench", setting="TAXI_BASE_URL")
    path = settings.staging_folder / "bench.arrow"

    def batches() -> Any:
        with open_file(raw.path, "csv.gz", partial(csv_type, "yellow"), "bench") as opened:
            plan = conform_to("yellow", opened.schema, "bench", raw.url)
            for batch in opened.batches:
                yield plan.schema, plan.batch(batch, 0)

    parse = _seconds(lambda: sum(batch.num_rows for _, batch in batches()))
    schema = next(batches())[0]
    written: list[Any] = []
    both = _seconds(
        lambda: written.append(stage((batch for _, batch in batches()), schema, path, slice="bench", source="bench"))
    )
    read = _seconds(lambda: sum(batch.num_rows for batch in written[0].batches()))
    size = path.stat().st_size
    path.unlink()
    return {"parse_seconds": parse, "write_seconds": both - parse, "read_seconds": read, "megabytes": size / 1e6}


def prepare(settings: Settings) -> None:
    """Bring Mage to where it is before a run's first block: half of what it imports comes with its executor."""
    from mage_project.lib.runs import mage

    mage.prepare(settings)
    from mage_ai.data_preparation.executors.block_executor import BlockExecutor  # noqa: F401


def _execute_stock(name: str, variables: dict[str, Any]) -> float:
    export_environment(load_settings())
    sys.path.append(str(STOCK.parent))
    from mage_ai.settings.repo import set_repo_path

    set_repo_path(str(STOCK))
    from mage_ai.data_preparation.models.pipeline import Pipeline
    from mage_ai.orchestration.db import db_connection

    db_connection.start_session()
    pipeline = Pipeline.get(name, repo_path=str(STOCK))
    return _seconds(
        lambda: asyncio.run(
            pipeline.execute(analyze_outputs=False, global_vars=variables, run_tests=True, update_status=False)
        )
    )


def _seconds(work: Any) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


SIDES = {side.__name__: side for side in (ours, stock, idle, prepared, staging)}
# what the command line gives every run, it gives these; the other sides have pyarrow's own default
OWN = ("ours", "prepared", "staging", "stage_month", "write_ours")
WRITERS = ("stage_month", "write_ours", "write_dataset", "write_table")


def _side(name: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """Give the function of a side; what one imports must not stand in the memory of another."""
    if name in SIDES:
        return SIDES[name]
    from bench import writers

    return getattr(writers, name)


def _note_port(ports: set[int], event: str, facts: tuple[Any, ...]) -> None:
    """Note what Python code connects to: who counts bytes must know that none went another way."""
    if event == "socket.connect" and isinstance(facts[1], tuple):
        ports.add(facts[1][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*SIDES, *WRITERS])
    parser.add_argument("--pipeline", default="api_to_postgres", help="which one `ours` and `stock` run")
    parser.add_argument("--date", default="2021-01-01")
    parser.add_argument("--url", default="")
    parser.add_argument("--prefix", default="", help="where in the bucket to write")
    parser.add_argument("--file", default="", help="the staged file that a write reads")
    parser.add_argument("--shuffled", action="store_true", help="stage the rows in any order of days")
    parser.add_argument("--group-rows", type=int, default=0, help="write_dataset: rows to collect for a row group")
    arguments = parser.parse_args()
    if arguments.what in OWN:
        use_plain_allocator()
    ports: set[int] = set()
    sys.addaudithook(lambda event, facts: _note_port(ports, event, facts))
    real = os.dup(1)
    os.dup2(2, 1)  # Mage prints; the result must stand alone
    result = _side(arguments.what)(arguments)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result["ports"] = sorted(ports)
    os.write(real, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    main()
