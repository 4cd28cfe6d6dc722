"""gcs_to_bigquery moves no row through its process: memory and network for 1 × and 4 × the rows.

A counting proxy stands between the process and each server. What the local BigQuery reads of the
bucket it reads by itself, as Google's does, and not through the proxy.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit

from bench.proxy import CountingProxy
from bench.runner import Bench, fetch_size, median, say
from mage_project.lib.cli import screen
from mage_project.lib.sinks.manifests import require_manifest

MONTHS = {1: "2021-01", 4: "2021-03"}  # 31 days each, so that one server holds both sizes
PREFIX = "nyc_taxi_data/yellow"
COMMAND = ["ours", "--pipeline", "gcs_to_bigquery"]


def measure(bench: Bench) -> dict[str, Any]:
    """Land both months, then run all rounds and give what every one of them took."""
    google = bench.settings.require_google()
    bench.empty("nyc_taxi_data", "ny_taxi_data")
    files = {}
    for times, month in MONTHS.items():
        say(f"landing {times} × the rows …")
        fetch_size(bench.url(times).replace(MONTHS[1], month))
        bench.worker("ours", "--pipeline", "api_to_gcs", "--date", f"{month}-01", times=times)
        manifest = require_manifest(google, PREFIX, f"yellow/{month}")
        files[times] = {"rows": manifest.rows, "files": len(manifest.files), "bytes": manifest.size}
    rounds: dict[str, list[Any]] = {"1": [], "4": [], "idle": []}
    for times in MONTHS:  # the table is made, and each month is then there to be replaced
        _run(bench, times)
    for number in range(bench.arguments.rounds):
        say(f"gcs_to_bigquery, round {number + 1} of {bench.arguments.rounds} …")
        for times in MONTHS:
            rounds[str(times)].append(_run(bench, times))
        rounds["idle"].append(bench.worker("idle"))
    return {"files": files, "rounds": rounds}


def _run(bench: Bench, times: int) -> dict[str, Any]:
    google = bench.settings.require_google()
    with CountingProxy(google.storage_endpoint) as storage, CountingProxy(google.bigquery_endpoint) as bigquery:
        taken = bench.worker(
            *COMMAND,
            "--date",
            f"{MONTHS[times]}-01",
            STORAGE_EMULATOR_HOST=storage.endpoint,
            BIGQUERY_EMULATOR_HOST=bigquery.endpoint,
        )
        counts = {"gcs": storage.counts(), "bigquery": bigquery.counts()}
    past = {urlsplit(endpoint).port for endpoint in (google.storage_endpoint, google.bigquery_endpoint)}
    if past & set(taken["ports"]):
        sys.exit("the process reached a server past the proxy: the counts are not all that it moved")
    network = sum(count[way] for count in counts.values() for way in ("sent", "received"))
    return {**taken, "network": counts, "network_bytes": network}


def tell(document: dict[str, Any]) -> None:
    """Print what went through the process beside what BigQuery read."""
    rounds, files = document["rounds"], document["files"]
    table: list[list[Any]] = []
    for times, of_month in ((int(times), facts) for times, facts in files.items()):
        runs = rounds[str(times)]
        bytes_by_way = [
            median((run["network"][server] for run in runs), way)
            for server in ("gcs", "bigquery")
            for way in ("sent", "received")
        ]
        row = [f"{times} ×", of_month["rows"], of_month["files"], of_month["bytes"], *bytes_by_way]
        table.append([*row, median(runs), median(runs, "peak_mb")])
    ways = ["GCS sent", "received", "BigQuery sent", "received"]
    screen.print_table("", ["month", "rows", "files", "bytes read by BigQuery", *ways, "seconds", "peak MB"], table)
    idle_mb = median(rounds["idle"], "peak_mb")
    one, four = (median(rounds[key], "network_bytes") for key in ("1", "4"))
    memory = median(rounds["4"], "peak_mb") / median(rounds["1"], "peak_mb") - 1
    further = files[4]["files"] - files[1]["files"]
    each = f", {(four - one) / further:,.0f} for each further file" if further > 0 else ""
    print(f"through the process: {one:,.0f} and {four:,.0f} bytes{each}")
    print(f"memory with four times the rows: {memory:+.1%}")
    print(f"share of the bytes that BigQuery read: {one / files[1]['bytes']:.2%} and {four / files[4]['bytes']:.2%}")
    print(f"a Mage process that does nothing: {idle_mb:.0f} MB")
    print(f"\nours:     python -m bench.workers {' '.join(COMMAND)} --date …")
