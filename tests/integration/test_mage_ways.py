"""Blocks under Mage's scheduler and in its notebook give what the command line gives, and misuse fails loudly."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.runs.window import window_holding, windows_before
from mage_project.lib.settings import ROOT
from tests.support.faulty_server import Server, serve
from tests.support.months import kept_rows, month_table, without_passengers, write_month
from tests.support.warehouse import Home, query, relations, running_home, wait_until

ROWS = 600
PUBLISHED = f"{windows_before(window_holding(date.today(), 'month'), 2, 'month').month}"
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three good months, two in which every trip is without passengers, and the one that was published last."""
    folder = tmp_path_factory.mktemp("published")
    for month in ("2021-01", "2021-02", "2021-03", PUBLISHED):
        write_month(folder, month=month)
    for month in ("2021-04", "2021-05"):
        write_month(folder, month=month, change=without_passengers)
    with serve(folder) as server:
        yield server


@pytest.fixture(scope="module")
def home(source: Server) -> Iterator[Home]:
    with running_home(
        with_google=True, TAXI_BASE_URL=source.url, HTTP_ATTEMPTS="1", SCHEDULER_TRIGGER_INTERVAL="1"
    ) as home:
        yield home


def slices(home: Home) -> dict[str, int]:
    if not relations(home.server, "ny_taxi"):
        return {}
    return dict(query(home.server, "SELECT _slice, count(*) FROM ny_taxi.green_cab_data GROUP BY 1"))


def kept(month: str) -> int:
    return kept_rows(month_table("green", month, ROWS))


# the scheduler's way


@contextmanager
def scheduler(home: Home, runs: dict[str, Any], log: Path) -> Iterator[None]:
    """Run Mage's scheduler with these runs waiting; it and its workers end with the block."""
    command = [sys.executable, "-m", "tests.support.mage_ways", "scheduler", json.dumps(runs)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=home.child_environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def scheduled(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give {trigger: status} after the scheduler ended all runs."""
    runs = {
        "by its date": {"execution_date": "2021-03-15T07:00:00+00:00", "variables": {"color": "green"}},
        "by its window": {
            "execution_date": "2021-06-01T00:00:00+00:00",
            "variables": {"color": "green", "window": "2021-02-01/2021-03-01"},
        },
        "to the bucket": {
            "pipeline": "api_to_gcs",
            "execution_date": "2021-06-01T00:00:00+00:00",
            "variables": {"color": "green", "window": "2021-02-01/2021-03-01"},
        },
        "without passengers": {"execution_date": "2021-06-15T00:00:00+00:00", "variables": {"color": "green"}},
    }
    statuses = (
        "SELECT s.name, r.status::text FROM pipeline_run r JOIN pipeline_schedule s ON s.id = r.pipeline_schedule_id "
        "WHERE s.name = ANY(%s)"
    )

    def ended() -> dict[str, str] | None:
        found = query(home.server, "SELECT to_regclass('pipeline_schedule')", dbname="mage")
        rows = dict(query(home.server, statuses, list(runs), dbname="mage")) if found != [(None,)] else {}
        return rows if len(rows) == len(runs) and all(status in ENDED for status in rows.values()) else None

    home.cantrip_json("run", "postgres_connection_test")  # makes Mage's database
    with scheduler(home, runs, tmp_path_factory.mktemp("scheduler") / "log"):
        return wait_until(ended, "the scheduler to end its runs")


def test_a_scheduled_run_loads_the_window_that_lies_its_offset_before(home: Home, scheduled: dict[str, str]) -> None:
    assert scheduled["by its date"] == "COMPLETED"
    assert slices(home)["green/2021-01"] == kept("2021-01")


def test_a_scheduled_run_with_a_window_loads_that_one(home: Home, scheduled: dict[str, str]) -> None:
    assert scheduled["by its window"] == "COMPLETED"
    assert slices(home)["green/2021-02"] == kept("2021-02")


def test_a_failed_inline_test_stops_a_scheduled_run_before_it_writes(home: Home, scheduled: dict[str, str]) -> None:
    assert scheduled["without passengers"] == "FAILED"
    assert "green/2021-04" not in slices(home)
    ran = query(
        home.server,
        "SELECT b.block_uuid, b.status::text FROM block_run b JOIN pipeline_run r ON r.id = b.pipeline_run_id "
        "JOIN pipeline_schedule s ON s.id = r.pipeline_schedule_id WHERE s.name = 'without passengers'",
        dbname="mage",
    )
    states = dict(ran)
    assert states["transform_taxi_data"] == "FAILED"
    assert states["taxi_data_to_postgres"] not in ("COMPLETED", "RUNNING")


def test_scheduled_runs_stand_in_the_ledger_and_among_the_runs(home: Home, scheduled: dict[str, str]) -> None:
    ledger = {row["slice"]: row for row in home.cantrip_json("ledger", "--pipeline", "api_to_postgres")}
    for month in ("2021-01", "2021-02"):
        row = ledger[f"green/{month}"]
        assert (row["state"], row["kept"], row["window_start"]) == ("done", kept(month), f"{month}-01")
        assert row["variables"]["color"] == "green"
    assert set(scheduled) <= {row["trigger"] for row in home.cantrip_json("runs")}
    assert home.cantrip("ledger", "--verify").returncode == 0


def test_two_exporters_side_by_side_stand_in_one_row_of_the_ledger(home: Home, scheduled: dict[str, str]) -> None:
    assert scheduled["to the bucket"] == "COMPLETED"
    (row,) = home.cantrip_json("ledger", "--pipeline", "api_to_gcs")
    assert (row["slice"], row["state"], row["kept"]) == ("green/2021-02", "done", kept("2021-02"))
    assert sorted(row["receipts"]) == ["taxi_to_gcs_parquet", "taxi_to_gcs_partitioned_parquet"]
    assert {receipt["rows"] for receipt in row["stored"]} == {kept("2021-02")}


def test_the_command_line_replaces_what_the_scheduler_loaded(home: Home, scheduled: dict[str, str]) -> None:
    home.cantrip_json("run", "api_to_postgres", "--date", "2021-01-10", "--var", "color=green")
    assert slices(home)["green/2021-01"] == kept("2021-01")


# the notebook's way


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, for the notebook writes the state of every block it runs into the pipeline's file."""
    copy = tmp_path_factory.mktemp("copy") / "mage_project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("lib", "__pycache__"), symlinks=False)
    return copy


def run_cells(home: Home, project: Path, *cells: dict[str, Any]) -> list[dict[str, Any]]:
    given = [{"project": str(project), "pipeline": "api_to_postgres", **cell} for cell in cells]
    done = home.python("tests.support.mage_ways", "notebook", json.dumps(given))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"block"')]
    assert len(lines) == len(cells), done.stdout[-3000:]
    return [json.loads(line) for line in lines]


def cells_of(**variables: str) -> list[dict[str, Any]]:
    return [
        {"block": block, "variables": {"color": "green", **variables}}
        for block in ("load_api_data", "transform_taxi_data", "taxi_data_to_postgres")
    ]


def test_the_notebook_shows_rows_and_counts_and_loads_the_month_of_its_date(home: Home, project: Path) -> None:
    loaded, transformed, exported = run_cells(home, project, *cells_of(date="2021-03-10"))
    for cell in (loaded, transformed, exported):
        assert cell["error"] is None, cell
    assert f"{ROWS} rows of green/2021-03" in loaded["shown"]
    assert "lpep_pickup_datetime" in loaded["shown"]
    assert f"{kept('2021-03')} rows of green/2021-03" in transformed["shown"]
    assert f"{ROWS - kept('2021-03')} by zero_passengers" in transformed["shown"]
    assert '"message": "2/2 tests passed."' in loaded["printed"]
    assert "green/2021-03" in exported["shown"]
    assert slices(home)["green/2021-03"] == kept("2021-03")


def test_the_notebook_without_a_date_loads_the_month_that_was_published_last(home: Home, project: Path) -> None:
    cells = run_cells(home, project, *cells_of())
    assert [cell["error"] for cell in cells] == [None, None, None]
    assert slices(home)[f"green/{PUBLISHED}"] == kept(PUBLISHED)


def test_an_exporter_run_by_hand_after_a_failed_test_writes_nothing(home: Home, project: Path) -> None:
    before = slices(home)
    loaded, transformed, exported = run_cells(home, project, *cells_of(date="2021-05-10"))
    assert loaded["error"] is None
    assert "Failed to pass tests for block transform_taxi_data" in transformed["error"]
    assert "every trip was dropped" in transformed["printed"]
    assert exported["error"].startswith("DataError: inline test trips_are_left of block transform_taxi_data failed")
    assert "green/2021-05: every trip was dropped" in exported["error"]
    assert "Nothing was written" in exported["error"]
    assert slices(home) == before


# the misuse that would quietly work on ten rows if a block handed over a table of them

LINE = "received(trips).map_pandas(my_function).hand_over()"

MISUSES = {
    "a filtered preview": "return trips[trips.fare_amount > 0]",
    "a filter by a column in brackets": "return trips[trips['fare_amount'] > 0]",
    "a query": "return trips.query('fare_amount > 0')",
    "a changed column": "trips['fare_amount'] = 0\n    return trips",
    "a copy": "return trips.copy()",
    "a DataFrame made of it": "import pandas\n    return pandas.DataFrame(trips)",
    "an array made of it": "import numpy\n    return numpy.asarray(trips)",
    "a loop": "return [row for row in trips]",
    "a length": "return len(trips)",
    "a sum": "return trips.fare_amount.sum()",
    "a plot by pandas": "return trips.fare_amount.hist()",
}


def as_block(kind: str, lines: str) -> str:
    return f"@{kind}\ndef misused(trips, *args, **kwargs):\n    {lines}\n"


STOCK_EXPORT = """
from os import path
from mage_ai.io.config import ConfigFileLoader
from mage_ai.io.postgres import Postgres
from mage_ai.settings.repo import get_repo_path

@data_exporter
def export_data_to_postgres(df, **kwargs):
    config_path = path.join(get_repo_path(), 'io_config.yaml')
    with Postgres.with_config(ConfigFileLoader(config_path, 'default')) as loader:
        loader.export(df, 'stock', 'trips', index=False, if_exists='replace')
"""

RETURNED_BY_A_BLOCK = """
import pandas
@transformer
def misused(trips, *args, **kwargs):
    from mage_project.lib.handover import received
    frame = received(trips).head()
    return frame[frame.fare_amount > 0]
"""


@pytest.fixture(scope="module")
def misused(home: Home, project: Path) -> dict[str, dict[str, Any]]:
    """Run every misuse, and give what the notebook says to each."""
    path = project / "pipelines" / "api_to_postgres" / "metadata.yaml"
    pipeline = yaml.safe_load(path.read_text())
    loader = next(block for block in pipeline["blocks"] if block["uuid"] == "load_api_data")
    loader["downstream_blocks"].append("over_it")
    sql = {"data_provider": "postgres", "data_provider_profile": "default", "data_provider_schema": "stock"}
    pipeline["blocks"].append(
        {
            "uuid": "over_it",
            "name": "over_it",
            "type": "data_exporter",
            "language": "sql",
            "upstream_blocks": ["load_api_data"],
            "downstream_blocks": [],
            "configuration": {**sql, "data_provider_table": "trips", "export_write_policy": "replace"},
        }
    )
    pipeline["widgets"] = [
        {
            "uuid": "chart_of_it",
            "name": "chart_of_it",
            "type": "chart",
            "language": "python",
            "upstream_blocks": ["load_api_data"],
            "downstream_blocks": [],
            "configuration": {"chart_type": "histogram", "buckets": 10, "x": "x"},
        }
    ]
    path.write_text(yaml.safe_dump(pipeline))
    (project / "charts").mkdir()
    (project / "charts" / "chart_of_it.py").write_text("x = df_1['fare_amount']\n")
    (project / "data_exporters" / "over_it.sql").write_text("SELECT * FROM {{ df_1 }}")
    first, transformed, exported = cells_of(date="2021-03-10")
    cells = {"loader": first}
    for name, lines in MISUSES.items():
        cells[name] = {**transformed, "code": as_block("transformer", lines)}
    cells["Mage's stock Postgres exporter"] = {**transformed, "block": "taxi_data_to_postgres", "code": STOCK_EXPORT}
    cells["an SQL block over it"] = {**transformed, "block": "over_it"}
    cells["a chart of it"] = {**transformed, "block": "chart_of_it", "widget": True}
    cells["the preview returned as data"] = {**transformed, "code": RETURNED_BY_A_BLOCK}
    cells["the export of that"] = exported
    cells["the transformer as it is"] = transformed
    return dict(zip(cells, run_cells(home, project, *cells.values()), strict=True))


@pytest.mark.parametrize("name", [*MISUSES, "an SQL block over it", "a chart of it"])
def test_a_reference_used_as_a_table_fails_with_the_line_to_write(misused: dict[str, dict], name: str) -> None:
    assert misused["loader"]["error"] is None
    assert misused[name]["error"] is not None, misused[name]
    assert misused[name]["error"].startswith(
        "DatasetMisuseError: green/2021-03: this is a reference to 600 rows that lie elsewhere"
    )
    assert LINE in misused[name]["error"]


def test_mages_stock_exporter_fails_with_the_line_to_write(misused: dict[str, dict]) -> None:
    error = misused["Mage's stock Postgres exporter"]["error"]
    assert "this is a reference to" in error
    assert LINE in error


def test_a_preview_returned_as_if_it_were_the_data_is_refused_by_the_next_block(misused: dict[str, dict]) -> None:
    assert misused["the preview returned as data"]["error"] is None, "a block may return what it likes"
    error = misused["the export of that"]["error"]
    assert "DatasetMisuseError: this block got a DataFrame of" in error
    assert "a filtered preview is not the data" in error


def test_nothing_was_exported_by_any_misuse(home: Home, misused: dict[str, dict]) -> None:
    assert relations(home.server, "stock") == []
    # Mage keeps the result of an SQL block there
    assert [name for name in relations(home.server, "public") if "postgres_connection_test" not in name] == []
    assert slices(home).get("green/2021-03") in (None, kept("2021-03"))
    assert misused["the transformer as it is"]["error"] is None
