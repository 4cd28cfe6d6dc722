"""What the parts share: measured processes, medians, months to measure with, an empty place to write to.

A child's `ru_maxrss` begins at what its parent has: this process stays smaller than what it measures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mage_project.lib.local import gcs, google
from mage_project.lib.settings import ROOT, Settings, child_environment

ROWS = 1_369_765
WORKER_SECONDS = 900
FILE = "yellow_tripdata_2021-01.csv.gz"


@dataclass(frozen=True)
class Bench:
    """What a part is given: the command line's wishes, the servers, and where months of 1 × and 4 × the rows are."""

    arguments: argparse.Namespace
    settings: Settings
    base_urls: dict[int, str]

    def url(self, times: int) -> str:
        """The month's file."""
        return f"{self.base_urls[times]}/{FILE}"

    def worker(self, *arguments: str, times: int = 1, **environment: str) -> dict[str, Any]:
        """Run one measured process and give what it printed."""
        command = [sys.executable, "-m", "bench.workers", *arguments]
        surroundings = child_environment(TAXI_BASE_URL=self.base_urls[times], **environment)
        done = subprocess.run(
            command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False, timeout=WORKER_SECONDS
        )
        if done.returncode != 0:
            sys.exit(f"bench.workers {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout)

    def empty(self, *prefixes: str) -> None:
        """Make prefixes of the bucket empty: what is there already needn't be written, and so would cost nothing."""
        for prefix in prefixes:
            shutil.rmtree(self.folder(prefix), ignore_errors=True)

    def folder(self, prefix: str) -> Path:
        """Give where the local server keeps a prefix's objects."""
        return gcs.root_folder(self.settings) / self.settings.require_google().bucket / prefix

    def landed(self, prefix: str) -> dict[str, Any]:
        """Count what lies under a prefix: the files' own rows, not what a writer says."""
        files = [path for path in self.folder(prefix).rglob("*.parquet") if path.is_file()]
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        return {"rows": rows, "files": len(files), "megabytes": sum(path.stat().st_size for path in files) / 1e6}


def require_own_servers(settings: Settings) -> None:
    """Refuse to measure on a bucket that isn't the bench's own: prefixes of it are emptied between rounds."""
    for key, variable in ((google.GCS, "STORAGE_EMULATOR_HOST"), (google.BIGQUERY, "BIGQUERY_EMULATOR_HOST")):
        if settings.profile != "local" or not google.is_embedded(settings, key):
            sys.exit(
                f"the bench empties folders of its bucket, so it uses its own local servers only: unset {variable}"
            )


def require_rows(what: str, found: int, wanted: int) -> None:
    """Refuse a time that was taken for other work than the one meant."""
    if found != wanted:
        sys.exit(f"{what} wrote {found:,} rows, not {wanted:,}: its time means nothing")


def fetch_size(url: str) -> dict[str, float]:
    """Have the source make its file, outside any time, and give its megabytes."""
    unpack = f"curl -sf '{url}' | tee >(wc -c >&2) | zcat | wc -c"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", unpack], check=True, capture_output=True, text=True)
    return {"packed_mb": int(done.stderr) / 1e6, "plain_mb": int(done.stdout) / 1e6}


def median(rounds: Iterable[dict[str, Any]], name: str = "seconds") -> float:
    """Give the median of one figure over the rounds."""
    return statistics.median(each[name] for each in rounds)


def ratio(ours: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]) -> float:
    """Give the median over the pairs of ours against the other: what a busy machine leaves comparable."""
    return statistics.median(own["seconds"] / other["seconds"] for own, other in zip(ours, others, strict=True))


def say(text: str) -> None:
    """Tell the person who waits what is under way."""
    print(text, file=sys.stderr, flush=True)


def surroundings() -> dict[str, Any]:
    """Give what the seconds depend on."""
    return {"cores": os.cpu_count(), "load": os.getloadavg(), "python": sys.version.split()[0]}
