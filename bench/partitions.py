"""The partitioned write alone, against pyarrow's own writers, into the same local Cloud Storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.runner import Bench, fetch_size, median, ratio, require_rows, say
from mage_project.lib.cli import screen

PREFIX = "bench/partitions"
# what a layout is, how many times the rows, whether the days come mixed
LAYOUTS = {
    "1": ("as published", 1, False),
    "4": ("as published, 4 × the rows", 4, False),
    "1_shuffled": ("shuffled", 1, True),
    "4_shuffled": ("shuffled, 4 × the rows", 4, True),
}
# write_dataset makes a row group of each day's rows in each batch; where days come mixed those are tiny, and
# collecting them first is faster. Where they don't, it is slower and takes more memory.
GROUP_ROWS = 131_072
CALL = (
    "pyarrow.dataset.write_dataset(batches, partitioning=hive by pickup_date, format=parquet zstd, "
    f"filesystem=GcsFileSystem); shuffled: with min_rows_per_group={GROUP_ROWS}"
)


def measure(bench: Bench) -> dict[str, Any]:
    """Run all rounds and give what every one of them took."""
    staged, rounds = {}, {"prepared": [bench.worker("prepared") for _ in range(3)]}
    for key, (name, times, shuffled) in LAYOUTS.items():
        say(f"staging the month: {name} …")
        fetch_size(bench.url(times))
        path = bench.settings.home / "partitions" / f"{key}.arrow"
        mixed = ["--shuffled"] if shuffled else []
        staged[key] = {**bench.worker("stage_month", "--file", str(path), *mixed, times=times), "file": str(path)}
    commands = {}
    for key in LAYOUTS:
        file, rows, shuffled = staged[key]["file"], staged[key]["rows"], LAYOUTS[key][2]
        sides = {"ours": ["write_ours"], "dataset": ["write_dataset"]}
        sides["dataset"] += ["--group-rows", str(GROUP_ROWS)] if shuffled else []
        if key == "1":
            sides["table"] = ["write_table"]
            commands = {side: f"python -m bench.workers {' '.join(each)} --file …" for side, each in sides.items()}
        for number in range(bench.arguments.rounds if key == "1" else min(3, bench.arguments.rounds)):
            say(f"{LAYOUTS[key][0]}, round {number + 1} …")
            for side, command in sides.items():
                taken = _write(bench, f"{PREFIX}/{side}", rows, [*command, "--file", file])
                rounds.setdefault(f"{side}_{key}", []).append(taken)
    for facts in staged.values():
        Path(facts.pop("file")).unlink()  # 2 GB together
    return {"staged": staged, "commands": commands, "rounds": rounds}


def _write(bench: Bench, prefix: str, rows: int, command: list[str]) -> dict[str, Any]:
    """Write into an empty prefix, and count what landed there."""
    bench.empty(prefix)
    taken = bench.worker(*command, "--prefix", prefix)
    landed = bench.landed(prefix)
    require_rows(command[0], landed["rows"], rows)
    bench.empty(prefix)
    return {**taken, "landed": landed}


def tell(document: dict[str, Any]) -> None:
    """Print medians, ratios and memory, with the commands."""
    rounds = document["rounds"]
    idle_mb = median(rounds["prepared"], "peak_mb")
    table = []
    for key, (name, _times, _shuffled) in LAYOUTS.items():
        ours, dataset = rounds[f"ours_{key}"], rounds[f"dataset_{key}"]
        table.append(["write_dataset", name, *_figures(dataset), 1.0, None])
        if key == "1":
            table.append(["pq.write_to_dataset(from_pandas)", name, *_figures(rounds["table_1"]), None, None])
        above = median(ours, "peak_mb") - idle_mb
        table.append(["GcsPartitions.replace", name, *_figures(ours), ratio(ours, dataset), above])
    columns = ["write", "rows", "seconds", "peak MB", "files", "MB stored", "× write_dataset", "above an idle Mage"]
    screen.print_table("", columns, table)
    print(f"a Mage process that is prepared and does nothing: {idle_mb:.0f} MB; the bar: 1.5 ×, 250 MB above it, flat")
    base = median(rounds["ours_1"], "peak_mb")
    for key in ("4", "1_shuffled", "4_shuffled"):
        print(f"  {LAYOUTS[key][0]}: {median(rounds[f'ours_{key}'], 'peak_mb') / base - 1:+.1%} memory")
    print(f"against pq.write_to_dataset: {ratio(rounds['ours_1'], rounds['table_1']):.2f} ×")
    print(f"\nbaseline: {CALL}\n          {document['commands']['dataset']}")
    print(f"          {document['commands']['table']}\nours:     {document['commands']['ours']}")


def _figures(rounds: list[dict[str, Any]]) -> list[float]:
    landed = rounds[0]["landed"]
    return [median(rounds), median(rounds, "peak_mb"), landed["files"], landed["megabytes"]]
