"""The BigQuery sink against a server that fails, loses answers or is busy, and against another writer."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import ConfigurationError, ReconciliationError, SinkError
from mage_project.lib.manifest import Manifest
from mage_project.lib.sinks import bigquery as sink
from mage_project.lib.sinks.bigquery import BigQueryTable
from mage_project.lib.sinks.gcs import GcsPartitions
from mage_project.lib.sinks.google_clients import bigquery_client
from tests.support.google import (
    Rows,
    delete_objects,
    rows_in_bigquery,
    rows_of_dataset,
    tables_in,
    trips_of,
)
from tests.support.google_proxy import Proxy
from tests.support.warehouse import Background

JANUARY, FEBRUARY = "green/2021-01", "green/2021-02"
OLD, NEW = {"2021-01-02": 9, "2021-01-15": 9}, {"2021-01-01": 40, "2021-01-02": 30}
LOAD, COMMIT, RESULT = r"^POST .*/jobs\?.* cantrip_load", r"^POST .*/jobs\?.* cantrip_commit", r"^GET .*/queries/"
CONFLICT = "Transaction is aborted due to concurrent update against table p:ny_taxi.trips. Transaction ID: 7"

Land = Callable[[Dataset], Manifest]


def held(table: BigQueryTable) -> Rows:
    return rows_in_bigquery(table.google, f"{table.dataset}.{table.table}", JANUARY)


def jobs(bigquery: Proxy, pattern: str) -> list[tuple[str, int | None]]:
    """Give [(what comes after the attempt in the job's id, answer)]."""
    return [(each.what.rpartition("_")[2], each.status) for each in bigquery.asked(pattern)]


@pytest.fixture
def old(table: BigQueryTable, parts: GcsPartitions, land: Land) -> Rows:
    """What the slice holds before."""
    trips = trips_of(parts.scratch, JANUARY, OLD, first=500)
    table.replace(land(trips))
    return rows_of_dataset(trips)


@pytest.fixture
def new(old: Rows, parts: GcsPartitions, land: Land) -> Manifest:
    """What has landed since."""
    return land(trips_of(parts.scratch, JANUARY, NEW))


def require_new(table: BigQueryTable, manifest: Manifest) -> None:
    assert sorted(row[0] for row in held(table).elements()) == list(range(70))
    assert manifest.rows == 70
    assert tables_in(table.google, table.dataset) == ["trips"]


def require_old(table: BigQueryTable, old: Rows) -> None:
    assert held(table) == old
    assert tables_in(table.google, table.dataset) == ["trips"]


# what passes


@pytest.mark.parametrize("status", [429, 503])
def test_errors_that_pass_are_waited_out(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, new: Manifest, status: int
) -> None:
    for pattern in (LOAD, COMMIT, RESULT):
        bigquery.answer(pattern, status)
    watched_table.replace(new)
    assert [each.status for each in bigquery.requests].count(status) == 3
    require_new(table, new)


@pytest.mark.parametrize("status", [None, 503], ids=["cut off", "answered 503"])
@pytest.mark.parametrize("of", [LOAD, COMMIT], ids=["the load", "the commit"])
def test_a_job_whose_answer_is_lost_is_taken_up_and_not_started_twice(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, new: Manifest, of: str, status: int | None
) -> None:
    """The local server takes an id twice; Google's own answers that there is such a job."""
    bigquery.lose_answer(of, status=status)
    bigquery.answer(of, 409, "Already Exists: Job p:US.cantrip_…")
    watched_table.replace(new)
    first, second = bigquery.asked(of)
    assert (first.status, second.status) == (status, 409)
    assert first.what == second.what
    assert len(bigquery.asked(rf"^GET .*/jobs/{first.what.rpartition(' ')[2]}\?")) >= 1
    require_new(table, new)


@pytest.mark.parametrize("of", [COMMIT, RESULT], ids=["when it is sent", "when it runs"])
def test_a_transaction_that_lost_to_another_is_tried_again_under_a_new_id(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, new: Manifest, of: str
) -> None:
    bigquery.answer(of, 400, CONFLICT)
    watched_table.replace(new)
    assert jobs(bigquery, COMMIT) == [("1", 400 if of == COMMIT else 200), ("2", 200)]
    assert len(jobs(bigquery, LOAD)) == 1
    require_new(table, new)


def test_a_transaction_that_always_loses_is_given_up_and_the_old_rows_stay(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest
) -> None:
    bigquery.answer(COMMIT, 400, CONFLICT, times=20)
    with pytest.raises(SinkError, match=r"concurrent update against table.*The slice holds what it held before"):
        replace(watched_table, conflict_seconds=1.5).replace(new)
    assert len(jobs(bigquery, COMMIT)) > 1
    require_old(table, old)


def test_slices_that_are_written_at_once_are_all_there(table: BigQueryTable, parts: GcsPartitions, land: Land) -> None:
    months = [trips_of(parts.scratch, f"green/2021-{m:02}", {f"2021-{m:02}-03": 20}, first=100 * m) for m in (1, 2, 3)]
    manifests = [land(trips) for trips in months]
    table.replace(manifests[0])
    ready = threading.Barrier(3)

    def write(manifest: Manifest) -> int:
        ready.wait()
        return table.replace(manifest).rows

    assert [writer.result() for writer in [Background(write, manifest) for manifest in manifests]] == [20, 20, 20]
    for trips in months:
        assert rows_in_bigquery(table.google, f"{table.dataset}.trips", trips.slice) == rows_of_dataset(trips)
    assert tables_in(table.google, table.dataset) == ["trips"]


# what stays


def test_a_script_that_fails_after_the_delete_leaves_the_old_rows(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest
) -> None:
    """Its staging table is gone by then, as after another run of the slice."""
    hold = bigquery.hold(COMMIT)
    late = Background(watched_table.replace, new)
    hold.wait()
    [staging] = [name for name in tables_in(table.google, table.dataset) if name.startswith("_staging")]
    bigquery_client(table.google).delete_table(f"{table.dataset_id}.{staging}")
    hold.release()
    with pytest.raises(SinkError, match="The slice holds what it held before"):
        late.result()
    require_old(table, old)


def test_a_staging_table_with_other_rows_is_noticed_before_the_commit(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest
) -> None:
    hold = bigquery.hold(COMMIT)
    late = Background(watched_table.replace, new)
    hold.wait()
    [staging] = [name for name in tables_in(table.google, table.dataset) if name.startswith("_staging")]
    bigquery_client(table.google).query_and_wait(f"INSERT INTO {table.dataset}.{staging} (n) VALUES (1)")
    hold.release()
    with pytest.raises(ReconciliationError, match=r"the slice does not hold the rows of its manifest. It was rolled"):
        late.result()
    require_old(table, old)


def test_of_two_writers_of_a_slice_the_one_that_is_late_changes_nothing(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest, land: Land
) -> None:
    hold = bigquery.hold(COMMIT)
    late = Background(watched_table.replace, replace(new, files=new.files[:1], rows=new.files[0].rows))
    hold.wait()
    table.replace(new)
    hold.release()
    with pytest.raises(SinkError):
        late.result()
    require_new(table, new)


def test_a_file_that_is_missing_when_it_is_read_names_the_pipeline_that_mends_it(
    table: BigQueryTable, old: Rows, new: Manifest
) -> None:
    delete_objects(table.google, [new.files[0].path])
    with pytest.raises(SinkError, match="If a file is missing or altered, run api_to_gcs") as refused:
        table.replace(new)
    assert "The slice holds what it held before" in str(refused.value)
    require_old(table, old)


@pytest.mark.parametrize("of", [LOAD, COMMIT, r"^POST .*/tables\?"], ids=["load", "commit", "staging table"])
def test_what_is_refused_names_the_roles_and_leaves_what_was_there(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest, of: str
) -> None:
    bigquery.answer(of, 403, "Access Denied: Table p:ny_taxi.trips: no bigquery.jobs.create")
    with pytest.raises(ConfigurationError, match=r"BigQuery refuses the work on .*Access Denied") as refused:
        watched_table.replace(new)
    text = str(refused.value)
    assert text.startswith(f"{JANUARY}: ")
    for role in ("bigquery.dataEditor", "bigquery.jobUser", "storage.objectViewer"):
        assert role in text
    require_old(table, old)


def test_a_dataset_that_is_missing_is_named_with_the_command(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest
) -> None:
    project = table.google.project
    said = f"Not found: Dataset {project}:{table.dataset}"
    bigquery.answer(rf"^GET .*/datasets/{table.dataset}\?", 404, said)
    with pytest.raises(ConfigurationError, match=f"there is no dataset {project}.{table.dataset}") as refused:
        watched_table.replace(new)
    assert f"bq mk --dataset {project}:{table.dataset}" in str(refused.value)
    require_old(table, old)


def test_on_google_itself_a_missing_dataset_is_not_made(
    table: BigQueryTable, bigquery: Proxy, new: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = replace(table.google, bigquery_endpoint=bigquery.url)
    client = bigquery_client(local)
    monkeypatch.setattr(sink, "bigquery_client", lambda _: client)
    cloud = BigQueryTable(replace(local, bigquery_endpoint=None), "nobody_made_it", "trips")
    with pytest.raises(ConfigurationError, match=r"there is no dataset .*nobody_made_it"):
        cloud.replace(new)
    assert bigquery.asked(r"^POST .*/datasets\?") == []


def test_a_staging_table_that_can_not_be_removed_does_not_hide_why_the_load_failed(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, old: Rows, new: Manifest
) -> None:
    bigquery.answer(LOAD, 403, "Access Denied: no bigquery.jobs.create")
    bigquery.answer("^DELETE .*_staging", 403, "Access Denied: no bigquery.tables.delete")
    with pytest.raises(ConfigurationError, match=r"no bigquery.jobs.create"):
        watched_table.replace(new)
    assert held(table) == old


def test_a_staging_table_that_can_not_be_removed_does_not_undo_a_load_that_is_done(
    table: BigQueryTable, watched_table: BigQueryTable, bigquery: Proxy, new: Manifest
) -> None:
    """It is committed: an error now would say that the slice holds what it held before."""
    bigquery.answer("^DELETE .*_staging", 400, "told to fail")
    assert watched_table.replace(new).rows == 70
    assert sorted(row[0] for row in held(table).elements()) == list(range(70))


def test_the_rows_that_the_script_asks_for_are_those_of_the_manifest(
    watched_table: BigQueryTable, bigquery: Proxy, new: Manifest
) -> None:
    watched_table.replace(new)
    [commit] = bigquery.asked(COMMIT)
    script = json.loads(commit.body)["configuration"]["query"]["query"].splitlines()
    assert (script[0], script[-1]) == ("BEGIN TRANSACTION;", "COMMIT TRANSACTION;")
    assert script[1] == f'DELETE FROM `{watched_table.where}` WHERE `_slice` = "green/2021-01";'
    assert " = 70, 70, ERROR(" in script[-2]
