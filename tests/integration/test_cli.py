"""The command line as a user runs it: real processes, a real server, and what is in the tables afterwards."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from mage_project.lib.settings import ROOT, PostgresSettings
from tests.conftest import GREEN_ROWS
from tests.support.faulty_server import Server, serve
from tests.support.months import kept_rows, month_table, without_passengers, write_month
from tests.support.warehouse import Home, execute, paragraph, query, relations, running_home, scalar

GREEN = "SELECT count(*) FROM ny_taxi.green_cab_data"
JANUARY = ("run", "api_to_postgres", "--date", "2021-01-10", "--var", "color=green")
KEPT = kept_rows(month_table("green", "2021-01", GREEN_ROWS))

RUN_KEYS = {"pipeline", "window", "slices", "state", "seconds", "peak_memory_mb", "blocks", "receipts", "dropped"}


@pytest.fixture(scope="module")
def clean(publisher: Server) -> Iterator[Home]:
    """A home in which nothing ran yet."""
    zones = f"{publisher.url}/taxi_zone_lookup.csv"
    with running_home(TAXI_BASE_URL=publisher.url, TAXI_ZONES_URL=zones) as home:
        yield home


@pytest.fixture(scope="module")
def first_run(clean: Home) -> dict[str, Any]:
    """January, loaded once from Parquet; what `--json` printed."""
    return clean.cantrip_json(*JANUARY)


def green_rows(server: PostgresSettings) -> list[tuple]:
    """Give every row of January, in one order."""
    return sorted(query(server, "SELECT * FROM ny_taxi.green_cab_data WHERE _slice = 'green/2021-01'"), key=repr)


def ledger_of(home: Home) -> dict[str, dict[str, Any]]:
    return {row["slice"]: row for row in home.cantrip_json("ledger")}


# before anything ran


def test_before_the_first_run_ledger_and_runs_say_how_to_begin(publisher: Server) -> None:
    with running_home() as home:
        for command in ("ledger", "runs"):
            done = home.cantrip(command)
            assert done.returncode == 0, done.stderr
            assert "nothing ran yet. Try ./cantrip run api_to_postgres" in done.stdout
            assert home.cantrip_json(command) == []


def test_without_a_server_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    done = Home(tmp_path).cantrip(*JANUARY)
    assert done.returncode == 2
    assert "Start it with `./cantrip up`" in paragraph(done)
    assert json.loads(Home(tmp_path).cantrip("status", "--json").stdout)["postgres"]["url"] is None


# services


def test_up_and_status_tell_where_everything_is(clean: Home) -> None:
    up = clean.cantrip("up")
    assert up.returncode == 0, up.stderr
    document = clean.cantrip_json("status")
    assert document["postgres"]["url"] == clean.server.url()
    assert document["postgres"]["running"] is True
    assert document["mage"]["database"] == clean.server.url("mage", "postgresql+psycopg2")
    for shown in (up, clean.cantrip("status")):
        assert f"{clean.server.host}:{clean.server.port}" in shown.stdout
        assert clean.server.password not in shown.stdout


def test_down_then_up_keeps_port_and_data(clean: Home, first_run: dict) -> None:
    before = clean.server.url()
    assert "stopped PostgreSQL" in clean.cantrip("down").stdout
    assert clean.cantrip_json("status")["postgres"]["running"] is False
    stopped = clean.cantrip(*JANUARY)
    assert stopped.returncode == 1
    assert "can't be reached" in paragraph(stopped)
    assert "`./cantrip up`" in stopped.stderr
    assert clean.cantrip("down").stdout == "nothing was running\n"
    assert clean.cantrip("up").returncode == 0
    assert clean.server.url() == before
    assert scalar(clean.server, GREEN) == KEPT


# a run


def test_a_run_prints_one_document_with_the_designs_keys(first_run: dict) -> None:
    assert first_run.keys() >= RUN_KEYS
    assert first_run["pipeline"] == "api_to_postgres"
    assert first_run["window"] == ["2021-01-01", "2021-02-01"]
    assert (first_run["slices"], first_run["state"]) == (["green/2021-01"], "done")
    assert first_run["dropped"] == {"zero_passengers": GREEN_ROWS - KEPT}
    assert first_run["peak_memory_mb"] > 0
    blocks = {block["uuid"]: (block["rows_in"], block["rows_out"]) for block in first_run["blocks"]}
    assert blocks == {
        "load_api_data": (None, GREEN_ROWS),
        "transform_taxi_data": (GREEN_ROWS, KEPT),
        "taxi_data_to_postgres": (KEPT, KEPT),
    }
    assert all(block["seconds"] >= 0 for block in first_run["blocks"])
    [receipt] = first_run["receipts"]
    assert (receipt["sink"], receipt["slice"], receipt["rows"]) == ("postgres", "green/2021-01", KEPT)
    assert receipt["where"].endswith("ny_taxi.green_cab_data")


def test_the_tables_columns_are_the_publishers_in_lower_case(clean: Home, first_run: dict) -> None:
    columns = query(
        clean.server,
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'ny_taxi' AND table_name = 'green_cab_data' ORDER BY ordinal_position",
    )
    names = [name for name, _ in columns]
    assert names == [*(name.lower() for name in month_table().schema.names), "_slice"]
    types = dict(columns)
    assert types["lpep_pickup_datetime"] == "timestamp without time zone"
    assert (types["vendorid"], types["passenger_count"]) == ("bigint", "double precision")
    assert (types["ehail_fee"], types["_slice"]) == ("double precision", "text")


def test_parquet_and_both_csvs_leave_the_same_rows_and_a_rerun_downloads_nothing(
    clean: Home, first_run: dict, publisher: Server
) -> None:
    from_parquet = green_rows(clean.server)
    assert len(from_parquet) == KEPT
    for format in ("csv.gz", "csv"):
        document = clean.with_environment(TAXI_FORMAT=format).cantrip_json(*JANUARY)
        assert document["dropped"] == first_run["dropped"]
        assert green_rows(clean.server) == from_parquet, format
    asked_before = len(publisher.requests)
    again = clean.cantrip(*JANUARY)
    assert again.returncode == 0, again.stderr
    assert f"green/2021-01: {KEPT:,} rows in ny_taxi.green_cab_data" in again.stdout
    assert [request.bytes_sent for request in publisher.requests[asked_before:]] == [0]
    assert green_rows(clean.server) == from_parquet
    clean.cantrip_json(*JANUARY, "--refresh")
    assert publisher.requests[-1].bytes_sent > 0
    assert green_rows(clean.server) == from_parquet
    assert len(relations(clean.server, "ny_taxi")) == 2


def test_staged_files_go_when_their_run_ends(clean: Home, first_run: dict) -> None:
    assert [path for path in clean.settings.staging_folder.rglob("*") if path.is_file()] == []


def test_the_zones_land_in_their_table(clean: Home) -> None:
    document = clean.cantrip_json("run", "taxi_zones_to_postgres")
    assert [receipt["rows"] for receipt in document["receipts"]] == [265]
    assert scalar(clean.server, "SELECT count(*) FROM ny_taxi.taxi_zones") == 265
    assert query(clean.server, "SELECT borough, zone FROM ny_taxi.taxi_zones WHERE locationid = 265") == [
        ("Unknown", "NA")
    ]


def test_the_connection_test_answers(clean: Home) -> None:
    document = clean.cantrip_json("run", "postgres_connection_test")
    assert (document["state"], document["slices"]) == ("done", [])
    assert [block["uuid"] for block in document["blocks"]] == ["postgres_connection_test"]


# what can be asked afterwards


def test_the_ledger_accounts_for_every_row_and_verifies_them(clean: Home, first_run: dict) -> None:
    row = ledger_of(clean)["green/2021-01"]
    assert (row["fetched"], row["kept"], row["state"]) == (GREEN_ROWS, KEPT, "done")
    assert row["fetched"] == row["kept"] + sum(row["dropped"].values())
    assert [receipt["rows"] for receipt in row["stored"]] == [row["kept"]]
    assert (row["window_start"], row["window_end"]) == ("2021-01-01", "2021-02-01")
    assert row["variables"]["color"] == "green"
    verified = clean.cantrip("ledger", "--verify")
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "every sink holds what it was given" in verified.stdout
    assert "green/2021-01" in verified.stdout


def test_verifying_finds_rows_that_someone_else_removed(clean: Home, first_run: dict) -> None:
    execute(
        clean.server, "DELETE FROM ny_taxi.green_cab_data WHERE ctid = (SELECT min(ctid) FROM ny_taxi.green_cab_data)"
    )
    found = clean.cantrip("ledger", "--verify")
    assert found.returncode == 1
    assert f"{KEPT - 1:,} rows in ny_taxi.green_cab_data, {KEPT:,} in the ledger" in " ".join(found.stdout.split())
    clean.cantrip_json(*JANUARY)
    assert clean.cantrip("ledger", "--verify").returncode == 0


def test_runs_shows_them_newest_first(clean: Home, first_run: dict) -> None:
    clean.cantrip_json("run", "postgres_connection_test")
    rows = clean.cantrip_json("runs")
    assert rows[0]["pipeline"] == "postgres_connection_test"
    assert {row["status"] for row in rows} <= {"COMPLETED", "FAILED"}
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
    assert "2021-01-01/2021-02-01" in {row["window"] for row in rows}
    shown = clean.cantrip("runs", "--limit", "1")
    assert "postgres_connection_test" in shown.stdout
    assert "api_to_postgres" not in shown.stdout


def test_check_finds_the_project_well(clean: Home) -> None:
    done = clean.cantrip("check")
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    assert clean.cantrip_json("check")["problems"] == []


# wrong usage: exit 2, one paragraph or click's own usage, nothing attempted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "api_to_postgre"], "Did you mean api_to_postgres?"),
        (["run", "nothing_like_it"], "There are api_to_gcs, api_to_postgres"),
        (["run", "api_to_postgres", "--date", "10.01.2021"], "'10.01.2021' is not a date. Write it as YYYY-MM-DD"),
        (["run", "api_to_postgres", "--date", "2021-02-30"], "'2021-02-30' is not a date"),
        (["run", "api_to_postgres", "--var", "colour=green"], "no variable 'colour'; it declares cadence, color"),
        (["run", "api_to_postgres", "--var", "color"], "is not NAME=VALUE"),
        (["run", "api_to_postgres", "--profile", "moon"], "CANTRIP_PROFILE is 'moon'"),
        (["run", "api_to_postgres", "--profile", "production"], "POSTGRES_HOST is not set"),
        (["up", "--with", "snow"], "'snow' is not a service"),
    ],
)
def test_wrong_usage_is_one_paragraph_and_exit_2(home: Home, arguments: list[str], said: str) -> None:
    done = home.cantrip(*arguments)
    assert done.returncode == 2
    assert said in paragraph(done)
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["dance"], ["run"], ["run", "api_to_postgres", "--fast"]])
def test_an_unknown_command_or_option_is_exit_2_with_the_usage(home: Home, arguments: list[str]) -> None:
    done = home.cantrip(*arguments)
    assert done.returncode == 2
    assert "Usage: cantrip" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_colour_is_refused_inside_the_block_without_a_traceback(clean: Home, first_run: dict) -> None:
    before = relations(clean.server, "ny_taxi")
    done = clean.cantrip("run", "api_to_postgres", "--date", "2021-01-10", "--var", "color=purple")
    assert done.returncode in (1, 2)
    assert paragraph(done) == "color is 'purple'; the known colours are green, yellow."
    assert relations(clean.server, "ny_taxi") == before


def test_a_month_in_the_future_says_so(clean: Home, publisher: Server) -> None:
    asked_before = len(publisher.requests)
    done = clean.cantrip("run", "api_to_postgres", "--date", "2999-01-10", "--json")
    assert done.returncode == 1
    assert "yellow 2999-01: the month lies in the future" in paragraph(done)
    document = json.loads(done.stdout)
    assert (document["state"], document["receipts"]) == ("failed", [])
    assert len(publisher.requests) == asked_before
    assert "2999-01" in clean.cantrip("ledger").stdout


# a failing inline test, and what it takes to get over it


def test_a_failed_inline_test_stops_the_run_before_the_table_and_can_be_retried(clean: Home, tmp_path: Path) -> None:
    kept = kept_rows(month_table("green", "2021-04"))
    april = ("run", "api_to_postgres", "--date", "2021-04-10", "--var", "color=green")
    of_april = "SELECT * FROM ny_taxi.green_cab_data WHERE _slice = 'green/2021-04' ORDER BY 2, 3"
    with serve(tmp_path) as server:
        home = clean.with_environment(TAXI_BASE_URL=server.url)
        write_month(tmp_path, month="2021-04")
        home.cantrip_json(*april)
        before = query(home.server, of_april)
        assert len(before) == kept

        write_month(tmp_path, month="2021-04", change=without_passengers)
        failed = home.cantrip(*april)
        assert failed.returncode == 1
        text = paragraph(failed)
        assert "inline test trips_are_left of block transform_taxi_data failed" in text
        assert "green/2021-04: every trip was dropped" in text
        assert query(home.server, of_april) == before
        row = ledger_of(home)["green/2021-04"]
        assert row["state"] == "failed"
        assert "every trip was dropped" in row["error"]
        assert "failed" in home.cantrip("ledger").stdout
        assert home.cantrip_json("runs")[0]["status"] == "FAILED"

        # no trips at all: the loader's own test fails, and still the slice is known
        write_month(tmp_path, month="2021-04", change=lambda table: table.slice(0, 0))
        empty = home.cantrip(*april)
        assert empty.returncode == 1
        assert "inline test the_month_has_trips of block load_api_data failed" in paragraph(empty)
        assert "holds no trips" in ledger_of(home)["green/2021-04"]["error"]
        assert query(home.server, of_april) == before

        write_month(tmp_path, month="2021-04")
        other = home.cantrip_json("run", "api_to_postgres", "--date", "2021-01-10", "--retry-failed")
        assert other["blocks"] == [], "January of yellow did not fail"
        retried = home.cantrip_json(*april, "--retry-failed")
        assert (retried["state"], retried["slices"]) == ("done", ["green/2021-04"])
        assert ledger_of(home)["green/2021-04"]["state"] == "done"
        nothing = home.cantrip(*april, "--retry-failed")
        assert nothing.returncode == 0
        assert "nothing failed, so there is nothing to retry" in nothing.stdout
        assert query(home.server, of_april) == before


def test_a_slice_that_the_sink_refused_can_be_retried_alone(clean: Home, tmp_path: Path) -> None:
    may = ("run", "api_to_postgres", "--date", "2021-05-10", "--var", "color=yellow")
    with serve(tmp_path) as server:
        home = clean.with_environment(TAXI_BASE_URL=server.url)
        write_month(tmp_path, color="yellow", month="2021-05")
        execute(home.server, "CREATE SCHEMA IF NOT EXISTS ny_taxi")
        execute(home.server, "CREATE TABLE ny_taxi.yellow_cab_data (mine text)")
        failed = home.cantrip(*may)
        assert failed.returncode == 1
        assert "ny_taxi.yellow_cab_data exists and is not partitioned by list" in paragraph(failed)
        assert ledger_of(home)["yellow/2021-05"]["state"] == "failed"
        execute(home.server, "DROP TABLE ny_taxi.yellow_cab_data")
        assert home.cantrip_json(*may, "--retry-failed")["state"] == "done"
        assert home.cantrip_json(*may, "--retry-failed")["blocks"] == []


def test_a_failure_that_named_no_slice_is_made_up_for_by_the_windows_next_success(clean: Home) -> None:
    """The publisher's server is not even up: no slice of the zones is known then."""
    home = clean.with_environment(TAXI_ZONES_URL="http://127.0.0.1:9/zones.csv", HTTP_ATTEMPTS="1")
    failed = home.cantrip("run", "taxi_zones_to_postgres")
    assert failed.returncode == 1
    paragraph(failed)
    zones = [row for row in clean.cantrip_json("ledger") if row["pipeline"] == "taxi_zones_to_postgres"]
    assert "failed" in {row["state"] for row in zones}
    assert clean.cantrip_json("run", "taxi_zones_to_postgres", "--retry-failed")["state"] == "done"
    zones = [row for row in clean.cantrip_json("ledger") if row["pipeline"] == "taxi_zones_to_postgres"]
    assert [(row["slice"], row["state"]) for row in zones] == [("taxi_zones", "done")]
    assert clean.cantrip_json("run", "taxi_zones_to_postgres", "--retry-failed")["blocks"] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_the_notebook_ui_ends_with_every_process_of_its_own(clean: Home, number: signal.Signals) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mage_project.lib.cli", "ui", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean.child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status")
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 1
        process.send_signal(number)
        process.wait(timeout=30)
        assert [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        process.kill()


def _wait_for(url: str) -> None:
    for _ in range(120):
        try:
            requests.get(url, timeout=5)
            return
        except requests.ConnectionError:
            time.sleep(0.5)
    pytest.fail(f"{url} did not answer in a minute")


def test_a_failed_attempt_does_not_hide_what_the_slice_holds(clean: Home, first_run: dict) -> None:
    unreachable = clean.with_environment(TAXI_BASE_URL="http://127.0.0.1:1", HTTP_ATTEMPTS="1")
    assert unreachable.cantrip(*JANUARY).returncode == 1
    row = ledger_of(clean)["green/2021-01"]
    assert (row["state"], [receipt["rows"] for receipt in row["stored"]]) == ("failed", [KEPT])
    shown = clean.cantrip("ledger").stdout
    line = next(line for line in shown.splitlines() if "green/2021-01 " in line)
    assert f"{KEPT:,}" in line and "last attempt failed" in line
    assert "could not be fetched in 1 attempts" in shown


def test_wrong_usage_leaves_no_row_in_the_ledger(clean: Home, first_run: dict) -> None:
    before = len(clean.cantrip_json("ledger"))
    assert clean.cantrip(*JANUARY[:-1], "color=pink").returncode == 2
    assert len(clean.cantrip_json("ledger")) == before
