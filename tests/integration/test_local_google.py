"""The local Cloud Storage and BigQuery through starts, kills, taken ports and servers of the user's own."""

import io
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from mage_project.lib.errors import CantripError
from mage_project.lib.local import bigquery, gcs, google
from mage_project.lib.settings import read_services
from mage_project.lib.sinks.google_clients import bigquery_client, storage_client
from tests.support.warehouse import Home, google_home, open_folder, paragraph, start_google, stop_services

SERVERS = {"gcs": gcs, "bigquery": bigquery}
NAME = "trips/green/2021-01.parquet"


@pytest.fixture(scope="module")
def own() -> Iterator[Home]:
    """A home whose servers these tests stop, kill and start again."""
    with google_home() as home:
        yield home


@pytest.fixture
def running(own: Home) -> Home:
    """The same, running."""
    start_google(own)
    return own


def facts(home: Home, key: str) -> dict[str, Any]:
    return read_services(home.settings.home)[key]


def kill(home: Home, key: str) -> None:
    process = psutil.Process(facts(home, key)["pid"])
    process.kill()
    process.wait(30)


def restart(home: Home, way: str) -> None:
    """End both servers by a stop or by a kill, and start them again."""
    for key, server in SERVERS.items():
        if way == "killed":
            kill(home, key)
        else:
            assert server.stop(home.settings)
        assert not server.is_running(home.settings)
    start_google(home)


def put(home: Home, text: str) -> Any:
    """Store an object with metadata and give what the server says of it."""
    used = home.settings.require_google()
    blob = storage_client(used).bucket(used.bucket).blob(NAME)
    blob.metadata = {"cantrip-run": "7", "note": "é"}
    blob.upload_from_string(text, content_type="application/x-thing", timeout=10, retry=None)
    return described(home)


def described(home: Home) -> dict[str, Any]:
    used = home.settings.require_google()
    blob = storage_client(used).bucket(used.bucket).get_blob(NAME, timeout=10, retry=None)
    names = ("size", "md5_hash", "crc32c", "generation", "metageneration", "metadata", "content_type", "updated")
    return {name: getattr(blob, name) for name in names}


def query(home: Home, sql: str) -> list[tuple]:
    job = bigquery_client(home.settings.require_google()).query(sql, timeout=20, retry=None, job_retry=None)
    return [tuple(row.values()) for row in job.result(timeout=20, retry=None)]


def load(home: Home, rows: int, table: str) -> None:
    """Append rows by a load job."""
    from google.cloud.bigquery import LoadJobConfig, SourceFormat

    body = io.BytesIO()
    numbers = pa.array(range(rows), pa.int64())
    pq.write_table(pa.table({"n": numbers, "s": numbers.cast(pa.string())}), body)
    client = bigquery_client(home.settings.require_google())
    config = LoadJobConfig(source_format=SourceFormat.PARQUET, write_disposition="WRITE_APPEND")
    client.load_table_from_file(body, table, rewind=True, num_retries=0, job_config=config, timeout=60).result(
        timeout=60, retry=None
    )


def make_table(home: Home, name: str) -> str:
    query(home, "CREATE SCHEMA IF NOT EXISTS kept")
    query(home, f"CREATE OR REPLACE TABLE kept.{name} (n INT64, s STRING)")
    return f"kept.{name}"


# starting and stopping


def test_starting_twice_changes_nothing(running: Home) -> None:
    before = read_services(running.settings.home)
    start_google(running)
    assert read_services(running.settings.home) == before
    assert {key: server.is_running(running.settings) for key, server in SERVERS.items()} == {
        "gcs": True,
        "bigquery": True,
    }


def test_what_is_known_of_them_leads_to_them(running: Home) -> None:
    used = running.settings.require_google()
    assert facts(running, "gcs")["endpoint"] == used.storage_endpoint
    assert facts(running, "bigquery")["endpoint"] == used.bigquery_endpoint
    assert facts(running, "gcs")["bucket"] == used.bucket == "cantrip-local"
    assert facts(running, "bigquery")["project"] == used.project == "cantrip"
    assert Path(facts(running, "gcs")["root"], used.bucket).is_dir()
    assert facts(running, "bigquery")["grpc_port"] != facts(running, "bigquery")["port"]
    for key in SERVERS:
        log = Path(facts(running, key)["log"])
        assert log.parent == running.folder.resolve() / "logs"
        assert psutil.Process(facts(running, key)["pid"]).is_running()


def test_the_bucket_exists_and_making_it_again_is_no_error(running: Home) -> None:
    used = running.settings.require_google()
    gcs.ensure_bucket(used)
    assert [bucket.name for bucket in storage_client(used).list_buckets(timeout=10, retry=None)] == [used.bucket]


def test_another_bucket_of_the_environment_is_made_too(running: Home) -> None:
    other = running.with_environment(GCS_BUCKET="another-bucket")
    start_google(other)
    assert requests.get(
        f"{other.settings.require_google().storage_endpoint}/storage/v1/b/another-bucket", timeout=10
    ).ok


def test_a_name_that_is_no_bucket_is_an_error_that_names_the_variable(running: Home) -> None:
    with pytest.raises(CantripError, match="answered 400 when bucket 'NO' was to be made") as refused:
        gcs.ensure_bucket(running.with_environment(GCS_BUCKET="NO").settings.require_google())
    assert "GCS_BUCKET" in str(refused.value)


def test_bigquery_takes_any_project(running: Home) -> None:
    other = running.with_environment(GCP_PROJECT="their-project")
    query(other, "CREATE SCHEMA IF NOT EXISTS elsewhere")
    query(other, "CREATE OR REPLACE TABLE elsewhere.t AS SELECT 1 AS n")
    assert query(other, "SELECT n FROM `their-project.elsewhere.t`") == [(1,)]


# what outlives a stop and a kill


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_objects_keep_their_content_and_metadata(running: Home, way: str) -> None:
    before = put(running, f"{way} " * 1000)
    assert before["metadata"] == {"cantrip-run": "7", "note": "é"}
    ports = facts(running, "gcs")["port"]
    restart(running, way)
    assert described(running) == before
    assert facts(running, "gcs")["port"] == ports
    used = running.settings.require_google()
    blob = storage_client(used).bucket(used.bucket).blob(NAME)
    assert blob.download_as_text(timeout=10, retry=None) == f"{way} " * 1000


def test_what_a_killed_upload_leaves_is_removed_and_an_object_of_such_a_name_is_not(running: Home) -> None:
    used = running.settings.require_google()
    bucket = storage_client(used).bucket(used.bucket)
    bucket.blob("in/.hidden42").upload_from_string("an object", timeout=10, retry=None)
    listing = f"{used.storage_endpoint}/storage/v1/b/{used.bucket}/o"
    left = Path(facts(running, "gcs")["root"], used.bucket, "in", ".month.parquet4231184738")
    left.write_text("half a month")
    assert requests.get(listing, timeout=10).status_code == 404, "the server fails on it"
    restart(running, "killed")
    names = [item["name"] for item in requests.get(listing, timeout=10).json()["items"]]
    assert "in/.hidden42" in names
    assert not left.exists()


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_tables_keep_their_rows(running: Home, way: str) -> None:
    table = make_table(running, way)
    load(running, 5000, table)
    query(running, f"INSERT INTO {table} VALUES (-1, 'é')")
    port = facts(running, "bigquery")["port"]
    restart(running, way)
    assert query(running, f"SELECT count(*), min(n), max(n) FROM {table}") == [(5001, -1, 4999)]
    assert facts(running, "bigquery")["port"] == port


def test_a_kill_in_the_middle_of_a_load_appends_all_of_it_or_nothing(running: Home) -> None:
    table = make_table(running, "cut_off")
    load(running, 10, table)
    uploads = running.settings.home.resolve() / "bigquery" / "uploads"

    def kill_when_it_arrives() -> None:
        while not list(uploads.iterdir()):
            pass
        kill(running, "bigquery")

    killer = threading.Thread(target=kill_when_it_arrives)
    killer.start()
    with suppress(requests.ConnectionError):
        load(running, 1_000_000, table)
    killer.join(30)
    assert list(uploads.iterdir()), "the load was over before the kill"
    start_google(running)
    assert query(running, f"SELECT count(*) FROM {table}") in ([(10,)], [(1_000_010,)])
    assert list(uploads.iterdir()) == []


def test_bigquery_reads_what_lies_in_the_bucket(running: Home) -> None:
    from google.cloud.bigquery import LoadJobConfig, SourceFormat

    table, used = make_table(running, "from_bucket"), running.settings.require_google()
    body = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2, 3], "s": ["a", "b", "c"]}), body)
    blob = storage_client(used).bucket(used.bucket).blob("in/three.parquet")
    blob.upload_from_string(body.getvalue(), timeout=10, retry=None)
    config = LoadJobConfig(source_format=SourceFormat.PARQUET)
    job = bigquery_client(used).load_table_from_uri(
        f"gs://{used.bucket}/in/three.parquet", table, job_config=config, timeout=20, retry=None
    )
    job.result(timeout=20, retry=None)
    assert query(running, f"SELECT sum(n) FROM {table}") == [(6,)]


# ports and processes


def test_a_port_that_another_program_has_taken_is_replaced(running: Home, caplog: pytest.LogCaptureFixture) -> None:
    before = {key: facts(running, key)["port"] for key in SERVERS}
    for server in SERVERS.values():
        server.stop(running.settings)
    with socket.socket() as one, socket.socket() as two:
        for taken, port in zip((one, two), before.values(), strict=True):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        start_google(running)
    for key, server in SERVERS.items():
        assert facts(running, key)["port"] != before[key]
        assert f"port {before[key]} is in use by another program; {server.NAME} now listens on" in caplog.text
    assert query(running, "SELECT 1") == [(1,)]
    put(running, "on another port")


def test_a_server_whose_starter_was_killed_before_noting_it_is_found(running: Home) -> None:
    left = {key: facts(running, key)["pid"] for key in SERVERS}
    running.settings.services_file.unlink()
    start_google(running)
    for key, server in SERVERS.items():
        assert facts(running, key)["pid"] != left[key]
        assert not psutil.pid_exists(left[key])
        assert server.is_running(running.settings)


def test_nothing_is_written_outside_the_home(running: Home) -> None:
    environment = psutil.Process(facts(running, "bigquery")["pid"]).environ()
    assert Path(environment["HOME"]) == google.ENVIRONMENT / "home"
    assert Path(environment["BQEMU_UPLOAD_STAGING_DIR"]).is_relative_to(running.folder.resolve())


# the command line


def test_up_status_and_down_know_them() -> None:
    with open_folder() as folder:
        home = Home(folder / "home")
        before = home.cantrip_json("status")
        assert (before["gcs"]["endpoint"], before["gcs"]["running"], before["gcs"]["embedded"]) == (None, False, True)
        assert (before["bigquery"]["project"], before["bigquery"]["running"]) == (None, False)
        assert home.cantrip("status").stdout.count("./cantrip up starts it") == 3
        try:
            up = home.cantrip("up")
            assert up.returncode == 0, up.stderr
            services = read_services(home.settings.home)
            assert home.cantrip("up").returncode == 0
            assert read_services(home.settings.home) == services
            document = home.cantrip_json("status")
            assert document["gcs"] == {
                "endpoint": services["gcs"]["endpoint"],
                "bucket": "cantrip-local",
                "root": str(home.folder.resolve() / "gcs"),
                "running": True,
                "embedded": True,
            }
            assert document["bigquery"] == {
                "endpoint": services["bigquery"]["endpoint"],
                "project": "cantrip",
                "running": True,
                "embedded": True,
            }
            assert stat.S_IMODE(home.settings.services_file.stat().st_mode) == 0o600
            for key in SERVERS:
                kill(home, key)
                assert services[key]["endpoint"] in up.stdout
            assert not home.cantrip_json("status")["gcs"]["running"]
            assert home.cantrip("up").returncode == 0
            assert home.cantrip_json("status")["bigquery"]["running"]
            assert home.cantrip("down").stdout == "stopped PostgreSQL, Cloud Storage and BigQuery\n"
            assert "stopped" in home.cantrip("status").stdout
            assert facts(home, "gcs")["port"] == services["gcs"]["port"]
        finally:
            stop_services(home)


def test_servers_of_the_users_own_are_used_and_none_is_started(running: Home) -> None:
    used = running.settings.require_google()
    with open_folder() as folder:
        theirs = Home(
            folder / "home",
            STORAGE_EMULATOR_HOST=str(used.storage_endpoint).removeprefix("http://"),
            BIGQUERY_EMULATOR_HOST=str(used.bigquery_endpoint),
            GCS_BUCKET="of-theirs",
        )
        try:
            up = theirs.cantrip("up")
            assert up.returncode == 0, up.stderr
            assert "yours (STORAGE_EMULATOR_HOST)" in up.stdout
            assert "yours (BIGQUERY_EMULATOR_HOST)" in up.stdout
            assert not (theirs.folder / "gcs").exists()
            assert not (theirs.folder / "bigquery").exists()
            document = theirs.cantrip_json("status")
            assert document["gcs"] == {
                "endpoint": used.storage_endpoint,
                "bucket": "of-theirs",
                "root": None,
                "running": True,
                "embedded": False,
            }
            assert Path(facts(running, "gcs")["root"], "of-theirs").is_dir()
        finally:
            stop_services(theirs)


def test_a_server_of_theirs_that_is_down_is_one_paragraph(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", STORAGE_EMULATOR_HOST="127.0.0.1:1", BIGQUERY_EMULATOR_HOST="127.0.0.1:1")
    try:
        done = home.cantrip("up")
        assert done.returncode == 1
        assert "http://127.0.0.1:1 can't be reached" in paragraph(done)
    finally:
        stop_services(home)


def test_data_that_bigquery_cannot_read_is_one_paragraph_with_the_reason() -> None:
    with open_folder() as folder:
        home = Home(folder / "home")
        data = home.folder / "bigquery" / "data"
        data.mkdir(parents=True)
        (data / "bqemulator.duckdb").write_text("no database at all, but long enough to be looked at" * 100)
        try:
            done = home.cantrip("up")
            assert done.returncode == 1
            assert "BigQuery didn't start" in paragraph(done)
            assert "not a valid DuckDB database file" in paragraph(done)
        finally:
            stop_services(home)
