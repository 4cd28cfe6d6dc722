"""The pipelines to Cloud Storage and BigQuery, whole: from the publisher's file to what each sink holds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mage_project.lib.errors import ConfigurationError, DataError, SourceError
from mage_project.lib.runs import ledger
from mage_project.lib.runs.verify import differences
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.google_clients import bigquery_client
from mage_project.lib.sinks.manifests import broken_files
from tests.support.blocks import block, run_blocks
from tests.support.faulty_server import Server, serve
from tests.support.google import (
    Rows,
    alter_manifest,
    alter_object,
    content_of,
    counted,
    delete_objects,
    files_under,
    kept,
    manifest_of,
    put_object,
    rows_by_manifest,
    rows_in_bigquery,
    rows_in_postgres,
    run_here,
    table_at,
    tables_in,
    through,
)
from tests.support.google_proxy import Proxy, proxy
from tests.support.months import month_table, write_month
from tests.support.warehouse import Home, hidden_environment, paragraph, running_home, scalar, wait_until

SLICE, PREFIX, OBJECT = "green/2021-01", "nyc_taxi_data/green", "ny_taxi_data/green_2021-01.parquet"
TABLE = "ny_taxi.green_cab_data"
OF_JANUARY = ("--date", "2021-01-10", "--var", "color=green")
TO_GCS, TO_BIGQUERY = ("run", "api_to_gcs", *OF_JANUARY), ("run", "gcs_to_bigquery", *OF_JANUARY)
FILE, MANIFEST = r"^POST /upload/.*pickup_date=.*\.parquet$", r"^POST /upload/.*_manifests/"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("published")) as server:
        yield server


@pytest.fixture(scope="module")
def home(publisher: Server) -> Iterator[Home]:
    """A home whose settings this process has, too: most runs needn't be processes."""
    with running_home(with_google=True, TAXI_BASE_URL=publisher.url) as home, pytest.MonkeyPatch.context() as patch:
        for name, value in {**hidden_environment(), **home.environment}.items():
            patch.setenv(name, value)
        yield home


@pytest.fixture(scope="module")
def google(home: Home) -> GoogleSettings:
    return home.settings.require_google()


@pytest.fixture
def storage(google: GoogleSettings) -> Iterator[Proxy]:
    with proxy(google.storage_endpoint) as running:
        yield running


@pytest.fixture
def bigquery(google: GoogleSettings) -> Iterator[Proxy]:
    with proxy(google.bigquery_endpoint) as running:
        yield running


@pytest.fixture
def month(publisher: Server) -> Rows:
    """Publish January, and give the rows that are to arrive."""
    write_month(publisher.folder)
    return kept(month_table())


def in_bigquery(google: GoogleSettings) -> Rows:
    return rows_in_bigquery(google, TABLE, SLICE)


def entry_of(home: Home, pipeline: str) -> dict[str, Any]:
    [entry] = [row for row in home.cantrip_json("ledger", "--pipeline", pipeline) if row["slice"] == SLICE]
    return entry


# one month, three sinks


def test_the_command_line_brings_the_same_rows_to_all_sinks_and_the_ledger_shows_them_side_by_side(
    home: Home, google: GoogleSettings, month: Rows
) -> None:
    documents = [home.cantrip_json("run", "api_to_postgres", *OF_JANUARY)]
    documents += [home.cantrip_json(*command) for command in (TO_GCS, TO_BIGQUERY)]
    manifest = manifest_of(google, PREFIX, SLICE)
    assert rows_by_manifest(google, manifest) == counted(table_at(google, OBJECT)) == month
    assert rows_in_postgres(home.server, TABLE, SLICE) == in_bigquery(google) == month
    receipts = [receipt for document in documents for receipt in document["receipts"]]
    assert sorted(receipt["where"].rpartition("/")[2] for receipt in receipts) == sorted(
        [TABLE, "2021-01.json", "green_2021-01.parquet", f"{google.project}.{TABLE}"]
    )
    assert {receipt["rows"] for receipt in receipts} == {month.total()}
    assert documents[1]["dropped"] == {"zero_passengers": 600 - month.total()}
    assert documents[2]["dropped"] == {}
    shown = home.cantrip("ledger", "--verify")
    assert shown.returncode == 0
    [line] = [line for line in shown.stdout.splitlines() if SLICE in line]
    assert line.split()[-5:] == [*[str(month.total())] * 3, "127.0.0.1", "done"]


def test_columns_have_their_standard_names_in_bigquery_and_the_publishers_in_the_files(
    google: GoogleSettings, month: Rows
) -> None:
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    names = manifest_of(google, PREFIX, SLICE).schema.names
    assert "PULocationID" in names
    made = bigquery_client(google).get_table(f"{google.project}.{TABLE}")
    assert [field.name for field in made.schema] == [*(name.lower() for name in names), "pickup_date", "_slice"]
    assert (made.time_partitioning.field, made.clustering_fields) == ("pickup_date", ["pulocationid"])


def test_a_month_that_shrinks_leaves_no_date_of_what_it_was_in_any_sink(
    google: GoogleSettings, publisher: Server, month: Rows
) -> None:
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    before = {file.partition for file in manifest_of(google, PREFIX, SLICE).files}
    write_month(publisher.folder, change=lambda table: table.slice(0, 30))
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    manifest = manifest_of(google, PREFIX, SLICE)
    after = {file.partition for file in manifest.files}
    shrunk = kept(month_table().slice(0, 30))
    assert after < before
    assert files_under(google, PREFIX) == [file.path for file in manifest.files]
    assert rows_by_manifest(google, manifest) == in_bigquery(google) == shrunk


def test_two_runs_of_a_slice_at_once_do_not_mix_the_second_waits(
    home: Home, google: GoogleSettings, storage: Proxy, month: Rows
) -> None:
    hold = storage.hold(MANIFEST)
    first = through(home, storage=storage).begin(*TO_GCS)
    hold.wait()
    second = home.begin(*TO_GCS)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    wait_until(lambda: scalar(home.server, waiting), "the second run to wait")
    assert storage.asked(MANIFEST) == []
    hold.release()
    for run in (first, second):
        out, errors = run.communicate(timeout=90)
        assert run.returncode == 0, errors
        assert "done in" in out
    manifest = manifest_of(google, PREFIX, SLICE)
    assert broken_files(google, manifest) == []
    assert rows_by_manifest(google, manifest) == month
    assert files_under(google, PREFIX) == [file.path for file in manifest.files]
    assert differences(home.settings, ledger.stored(home.server, "api_to_gcs")) == {}


# what has landed is not what the manifest says


def spoil(google: GoogleSettings, way: str) -> str:
    """Remove or alter a file of the slice, and give its path."""
    path = manifest_of(google, PREFIX, SLICE).files[3].path
    if way == "missing":
        delete_objects(google, [path])
    else:
        alter_object(google, path)
    return path


@pytest.mark.parametrize("way", ["missing", "altered"])
def test_a_file_that_is_not_as_listed_stops_the_load_before_bigquery_is_asked(
    home: Home, google: GoogleSettings, bigquery: Proxy, month: Rows, way: str
) -> None:
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    path = spoil(google, way)
    stopped = through(home, bigquery=bigquery).cantrip(*TO_BIGQUERY)
    text = paragraph(stopped)
    assert stopped.returncode == 1
    assert "every_file_is_there_and_whole" in text
    assert f"{path} {'is missing' if way == 'missing' else 'was altered'}" in text
    assert "Run api_to_gcs for this window again" in text
    assert bigquery.requests == []
    verified = home.cantrip("ledger", "--verify")
    assert verified.returncode == 1
    assert path in verified.stdout.replace("\n", "")
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    assert rows_by_manifest(google, manifest_of(google, PREFIX, SLICE)) == in_bigquery(google) == month
    assert differences(home.settings, ledger.stored(home.server)) == {}


def test_a_manifest_whose_rows_do_not_add_up_stops_the_load(google: GoogleSettings, month: Rows) -> None:
    run_here("api_to_gcs")
    manifest = manifest_of(google, PREFIX, SLICE)
    alter_manifest(google, manifest, rows=manifest.rows + 1)
    with pytest.raises(AssertionError, match=f"{manifest.rows} rows in its files, {manifest.rows + 1} in all"):
        run_here("gcs_to_bigquery")
    run_here("api_to_gcs")
    assert run_here("gcs_to_bigquery")["rows"] == month.total()


@pytest.fixture
def no_manifest(google: GoogleSettings, month: Rows) -> Iterator[str]:
    """Something else lies in the manifest's place; give its address."""
    run_here("api_to_gcs")
    path = manifest_of(google, PREFIX, SLICE).path
    put_object(google, path, b"{}")
    yield f"gs://{google.bucket}/{path}"
    delete_objects(google, [path])


def test_a_manifest_that_is_no_manifest_is_refused_by_name(home: Home, no_manifest: str) -> None:
    with pytest.raises(DataError, match=f"{no_manifest} is no manifest that this version reads.*Run the pipeline"):
        run_here("gcs_to_bigquery")


def test_verify_names_a_manifest_that_is_no_manifest_as_a_difference_of_its_slice(home: Home, no_manifest: str) -> None:
    found = differences(home.settings, ledger.stored(home.server, "api_to_gcs"))
    assert list(found) == [(SLICE, no_manifest)]
    assert "is no manifest that this version reads" in found[SLICE, no_manifest]


def test_a_manifest_that_is_no_manifest_is_written_again_by_its_pipeline(
    google: GoogleSettings, no_manifest: str, month: Rows
) -> None:
    """That is what the error says to do."""
    run_here("api_to_gcs")
    assert rows_by_manifest(google, manifest_of(google, PREFIX, SLICE)) == month


def test_a_month_that_has_not_landed_names_the_pipeline_to_run(home: Home) -> None:
    with pytest.raises(SourceError, match=r"green/2020-12: nothing has landed.*\./cantrip run api_to_gcs"):
        run_blocks("gcs_to_bigquery", color="green", window="2020-12-01/2021-01-01")


# one exporter of two fails


def test_a_run_of_which_one_exporter_failed_is_failed_and_the_next_one_clears_it(
    home: Home, google: GoogleSettings, storage: Proxy, publisher: Server, month: Rows
) -> None:
    run_here("api_to_gcs")
    write_month(publisher.folder, rows=500)
    before = content_of(google, OBJECT)
    storage.answer(MANIFEST, 403, "no permission storage.objects.create", times=20)
    failed = through(home, storage=storage).cantrip(*TO_GCS, "--json")
    document = json.loads(failed.stdout)
    assert failed.returncode == 2
    assert "roles/storage.objectAdmin" in paragraph(failed)
    assert document["state"] == "failed"
    assert [receipt["where"].rpartition("/")[2] for receipt in document["receipts"]] == ["green_2021-01.parquet"]
    assert content_of(google, OBJECT) != before
    entry = entry_of(home, "api_to_gcs")
    assert entry["state"] == "failed"
    assert "no permission storage.objects.create" in entry["error"]
    newest = {receipt["where"].rpartition("/")[2]: receipt["rows"] for receipt in entry["stored"]}
    rows = kept(month_table(rows=500)).total()
    assert newest == {"green_2021-01.parquet": rows, "2021-01.json": month.total()}
    assert differences(home.settings, ledger.stored(home.server, "api_to_gcs")) == {}
    home.cantrip_json(*TO_GCS)
    entry = entry_of(home, "api_to_gcs")
    assert (entry["state"], entry["error"]) == ("done", None)
    assert [receipt["rows"] for receipt in entry["stored"]] == [rows, rows]


def test_a_failure_in_the_notebook_does_not_make_the_ledger_forget_what_is_stored(
    home: Home, storage: Proxy, publisher: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_month(publisher.folder, rows=450)  # as no run before
    run_here("api_to_gcs")
    before = rows_by_place(home)
    storage.answer(MANIFEST, 403, times=20)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.url)
    with pytest.raises(ConfigurationError):
        run_here("api_to_gcs")
    assert rows_by_place(home) == before


def rows_by_place(home: Home) -> dict[str, int]:
    """Give {where: rows} of what the ledger says is stored in the bucket."""
    receipts = [each["receipt"] for each in ledger.stored(home.server, "api_to_gcs")]
    return {receipt["where"]: receipt["rows"] for receipt in receipts}


def test_bigquery_that_refuses_is_wrong_configuration(home: Home, bigquery: Proxy, month: Rows) -> None:
    run_here("api_to_gcs")
    bigquery.answer(r"^POST .*/jobs\?", 403, "Access Denied: no bigquery.jobs.create")
    refused = through(home, bigquery=bigquery).cantrip(*TO_BIGQUERY)
    assert refused.returncode == 2
    assert "bigquery.jobUser on the project" in paragraph(refused)
    assert entry_of(home, "gcs_to_bigquery")["state"] == "failed"
    home.cantrip_json(*TO_BIGQUERY)
    assert entry_of(home, "gcs_to_bigquery")["state"] == "done"
    assert tables_in(home.settings.require_google(), "ny_taxi") == ["green_cab_data"]


# a day at a time


def test_days_of_a_month_come_from_one_download_and_hold_the_months_rows_of_that_day(
    home: Home, google: GoogleSettings, publisher: Server, month: Rows
) -> None:
    run_here("api_to_gcs")
    by_day = {file.partition: file for file in manifest_of(google, PREFIX, SLICE).files}
    publisher.requests.clear()
    all_rows = month_table()
    for day in (5, 6, 31):
        name = f"2021-01-{day:02}"
        window = f"{name}/{f'2021-01-{day + 1:02}' if day < 31 else '2021-02-01'}"
        receipt = run_blocks("daily_trips", color="green", window=window, execution_partition=f"day {day}")
        path = f"green/2021/01/{day:02}/daily_trips.parquet"
        assert receipt["where"] == f"gs://{google.bucket}/{path}"
        assert counted(table_at(google, path)) == counted(table_at(google, by_day[name].path))
        [entry] = [row for row in ledger.stored(home.server, "daily_trips") if row["slice"] == f"green/{name}"]
        of_day = sum(f"{time:%Y-%m-%d}" == name for time in all_rows["lpep_pickup_datetime"].to_pylist())
        assert entry["fetched"] == 600 == entry["kept"] + sum(entry["dropped"].values())
        assert entry["dropped"] == {"other_day": 600 - of_day, "zero_passengers": of_day - entry["kept"]}
        assert entry["kept"] == receipt["rows"] == by_day[name].rows
    assert [request.bytes_sent for request in publisher.requests if request.method == "GET"] == [0, 0, 0]
    assert differences(home.settings, ledger.stored(home.server, "daily_trips")) == {}


def test_a_first_day_downloads_the_month_and_the_second_only_asks(
    home: Home, publisher: Server, google: GoogleSettings
) -> None:
    size = write_month(publisher.folder, month="2021-02").stat().st_size
    publisher.requests.clear()
    for day in ("2021-02-03", "2021-02-04"):
        document = home.cantrip_json("run", "daily_trips", "--date", day, "--var", "color=green")
        [receipt] = document["receipts"]
        assert receipt["where"] == f"gs://{google.bucket}/green/{day.replace('-', '/')}/daily_trips.parquet"
        assert set(document["dropped"]) == {"other_day", "zero_passengers"}
    assert [request.bytes_sent for request in publisher.requests if request.method == "GET"] == [size, 0]


def test_trips_of_another_day_fail_the_inline_test(home: Home, month: Rows) -> None:
    loader, keep = block("data_loaders/load_daily_trips.py"), block("transformers/keep_execution_date.py")
    known = {"pipeline_uuid": "daily_trips", "block_uuid": "load_daily_trips", "execution_partition": "t"}
    loaded = loader.functions[0](color="green", window="2021-01-05/2021-01-06", **known)
    with pytest.raises(AssertionError, match=r"\d+ trips are not of 2021-01-05"):
        keep.tests[0](loaded)
    keep.tests[0](keep.functions[0](loaded))


# do the services answer


def test_the_services_answer_from_the_command_line(home: Home, google: GoogleSettings) -> None:
    asked = home.cantrip_json("run", "big_query_test")
    assert (asked["state"], [each["uuid"] for each in asked["blocks"]]) == ("done", ["big_query_test"])
    for _ in range(2):  # the file is uploaded once, and read twice
        read = home.cantrip_json("run", "gcs_test")
        assert (read["state"], [each["rows_out"] for each in read["blocks"]]) == ("done", [712])
    assert content_of(google, "titanic_clean.csv").count(b"\n") == 713
