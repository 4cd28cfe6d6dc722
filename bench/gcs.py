"""api_to_gcs, from the publisher's csv.gz, against the classic three blocks run by Mage itself."""

from __future__ import annotations

from typing import Any

from bench.runner import Bench, fetch_size, median, require_rows, say
from mage_project.lib.cli import screen

OURS = ("nyc_taxi_data", "ny_taxi_data")  # files by day, and the object of the month
STOCK = "bench/stock"
OURS_COMMAND = ["ours", "--pipeline", "api_to_gcs"]
STOCK_COMMAND = ["stock", "--pipeline", "stock_gcs", "--prefix", STOCK]


def measure(bench: Bench) -> dict[str, Any]:
    """Run all rounds and give what every one of them took."""
    sizes = {times: fetch_size(bench.url(times)) for times in bench.base_urls}
    rounds: dict[str, list[Any]] = {"ours": [], "stock": [], "ours_4": [], "idle": []}
    _run_ours(bench, 1)  # warm: Mage's tables, byte code, page cache
    for number in range(bench.arguments.rounds):
        say(f"api_to_gcs, round {number + 1} of {bench.arguments.rounds} …")
        rounds["ours"].append(_run_ours(bench, 1))
        if number < bench.arguments.stock_rounds:
            say("the classic blocks …")
            rounds["stock"].append(_run_stock(bench, rounds["ours"][-1]["rows"]))
        if number < 3:
            rounds["idle"].append(bench.worker("idle"))
            rounds["ours_4"].append(_run_ours(bench, 4))
    return {"sizes": sizes, "rounds": rounds}


def _run_ours(bench: Bench, times: int) -> dict[str, Any]:
    bench.empty(*OURS)
    taken = bench.worker(*OURS_COMMAND, times=times)
    landed = {prefix: bench.landed(prefix) for prefix in OURS}
    for each in landed.values():
        require_rows("api_to_gcs", each["rows"], taken["rows"])
    bench.empty(*OURS)
    return {**taken, "landed": landed}


def _run_stock(bench: Bench, rows: int) -> dict[str, Any]:
    bench.empty(STOCK)
    taken = bench.worker(*STOCK_COMMAND, "--url", bench.url(1))
    landed = bench.landed(STOCK)
    require_rows("the classic pipeline", landed["rows"], rows)
    bench.empty(STOCK)
    return {**taken, "landed": landed}


def tell(document: dict[str, Any]) -> None:
    """Print medians, ratios, megabytes a second and memory, with both commands."""
    rounds, sizes = document["rounds"], document["sizes"]
    idle_mb = median(rounds["idle"], "peak_mb")
    shown = {"api_to_gcs, blocks and tests": ("ours", 1), "the same, four times the rows": ("ours_4", 4)}
    if rounds["stock"]:
        shown["the classic blocks in Mage"] = ("stock", 1)
    table: list[list[Any]] = []
    for name, (key, times) in shown.items():
        seconds = median(rounds[key])
        speeds = [sizes[times][unit] / seconds for unit in ("plain_mb", "packed_mb")]
        table.append([name, seconds, *speeds, median(rounds[key], "peak_mb")])
    table.append(["a Mage process that does nothing", None, None, None, idle_mb])
    screen.print_table("", ["what", "seconds", "plain MB/s", "packed MB/s", "peak MB"], table)
    ours_mb, four_mb = median(rounds["ours"], "peak_mb"), median(rounds["ours_4"], "peak_mb")
    print(f"above an idle Mage: {ours_mb - idle_mb:.0f} MB; with four times the rows {four_mb / ours_mb - 1:+.1%}")
    if stock := rounds["stock"]:
        pairs = zip(rounds["ours"], stock, strict=False)  # there are fewer of the slow side
        faster = sorted(other["seconds"] / own["seconds"] for own, other in pairs)
        memory = median(stock, "peak_mb") / ours_mb
        middle = faster[len(faster) // 2]
        print(f"against the classic blocks: {middle:.1f} × faster, 1/{memory:.1f} of the memory; the bar: 4 ×, 1/5")
    for block in rounds["ours"][0]["blocks"]:
        print(f"  {block}: {median((each['blocks'] for each in rounds['ours']), block):.2f} s")
    print(f"\nbaseline: python -m bench.workers {' '.join(STOCK_COMMAND)} --url …")
    print(f"ours:     python -m bench.workers {' '.join(OURS_COMMAND)}")
