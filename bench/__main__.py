"""`make bench`: what the project's work costs, beside the plainest other way of doing it.

Each side runs as a process of its own, in turn, on the same generated month, served on loopback. The
median of the pairs is what counts: a single time on a shared machine says little.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from bench import bigquery, gcs, partitions, postgres
from bench.runner import ROWS, Bench, require_own_servers, surroundings
from mage_project.lib.cli.services import start_services
from mage_project.lib.local import bigquery as bigquery_server
from mage_project.lib.local import gcs as gcs_server
from mage_project.lib.local import postgres as postgres_server
from mage_project.lib.local import sources
from mage_project.lib.settings import ROOT, load_settings, remember

PARTS: dict[str, ModuleType] = {"postgres": postgres, "partitions": partitions, "gcs": gcs, "bigquery": bigquery}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="what to measure (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs against the fast baselines")
    parser.add_argument("--stock-rounds", type=int, default=3, help="runs of Mage's own blocks (25 s and 2.7 GB each)")
    parser.add_argument("--rows", type=int, default=ROWS)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"{sorted(unknown)[0]!r} is no part; there are {', '.join(PARTS)}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    remember(CANTRIP_HOME=str(ROOT / ".cantrip" / "bench"), TAXI_FORMAT="csv.gz")
    wanted = [name for name in PARTS if name in arguments.parts or not arguments.parts]
    document: dict[str, Any] = {"rows": arguments.rows, "before": surroundings(), "parts": {}}
    months = {}
    try:
        start_services(load_settings(), with_source=False)
        settings = load_settings()
        require_own_servers(settings)
        for times in (1, 4):
            months[times] = sources.start(settings.home / "source", arguments.rows * times, 0, settings.home)
        bench = Bench(arguments, settings, {times: service["base_url"] for times, service in months.items()})
        for name in wanted:
            document["parts"][name] = PARTS[name].measure(bench)
            print(f"\n{name}: {arguments.rows:,} rows as csv.gz; median of {arguments.rounds} rounds")
            PARTS[name].tell(document["parts"][name])
    finally:
        for service in months.values():
            sources.stop(service)
        for server in (bigquery_server, gcs_server, postgres_server):
            server.stop(load_settings())
        if document["parts"]:  # of a run that was ended early too: a part takes minutes
            keep({**document, "after": surroundings()})


def keep(document: dict[str, Any]) -> None:
    """Write every round down."""
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    path = results / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(document, indent=2))
    print(f"\nall rounds: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
