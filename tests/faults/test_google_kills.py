"""Killed at every stage of the way to Cloud Storage and BigQuery, a run leaves the old rows or the new ones.

Never a mixture of both; and the next run leaves the new ones and nothing else. Each moment is a
request that a proxy keeps waiting, or a statement that waits for a lock: never a time.
"""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mage_project.lib.runs import ledger
from mage_project.lib.runs.verify import differences
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.manifests import broken_files
from tests.support.faulty_server import Server, serve
from tests.support.google import (
    Rows,
    counted,
    files_under,
    kept,
    manifest_of,
    objects_under,
    rows_by_manifest,
    rows_in_bigquery,
    run_here,
    table_at,
    tables_in,
    through,
)
from tests.support.google_proxy import Hold, Proxy, proxy
from tests.support.months import month_table, write_month
from tests.support.warehouse import Home, hidden_environment, query, running_home, scalar, session, wait_until

pytestmark = pytest.mark.slow

SLICE, PREFIX, OBJECT = "green/2021-01", "nyc_taxi_data/green", "ny_taxi_data/green_2021-01.parquet"
OF_JANUARY = ("--date", "2021-01-10", "--var", "color=green")
TO_GCS, TO_BIGQUERY = ("run", "api_to_gcs", *OF_JANUARY), ("run", "gcs_to_bigquery", *OF_JANUARY)
LOAD, COMMIT = r"^POST .*/jobs\?.* cantrip_load", r"^POST .*/jobs\?.* cantrip_commit"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("published")) as server:
        yield server


@pytest.fixture(scope="module")
def home(publisher: Server) -> Iterator[Home]:
    """A home whose settings this process has, too: runs that nobody kills needn't be processes."""
    settings = {"TAXI_BASE_URL": publisher.url, "SLICE_LOCK_SECONDS": "60"}
    with running_home(with_google=True, **settings) as home, pytest.MonkeyPatch.context() as patch:
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


class Versions:
    """The month as the publisher has it, and as it had it before: no row is in both."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.old, self.new = Rows(), Rows()

    def publish(self) -> None:
        """Publish the next version of the month."""
        self.number += 1
        rows = 600 - 20 * (self.number % 2) + self.number
        write_month(self.folder, rows=rows)
        self.old, self.new = self.new, kept(month_table(rows=rows))
        assert not self.old & self.new


@pytest.fixture(scope="module")
def all_versions(home: Home, publisher: Server) -> Versions:
    """Both sinks hold the first version."""
    versions = Versions(publisher.folder)
    versions.publish()
    for command in (TO_GCS, TO_BIGQUERY):
        home.cantrip_json(*command)
    return versions


@pytest.fixture
def versions(all_versions: Versions) -> Versions:
    """What the sinks hold is the old version: the publisher has a new one."""
    all_versions.publish()
    return all_versions


def kill(run: subprocess.Popen[str]) -> None:
    assert run.poll() is None, f"too late: {run.communicate()}"
    run.kill()
    run.communicate()


def kill_at(home: Home, command: tuple[str, ...], hold: Hold) -> None:
    """Kill a run while its request waits; the request is cut off."""
    run = home.begin(*command)
    hold.wait()
    kill(run)
    hold.drop()


def in_partitions(google: GoogleSettings) -> Rows:
    """Give the rows of the manifest's files, which are whole."""
    manifest = manifest_of(google, PREFIX, SLICE)
    assert broken_files(google, manifest) == []
    return rows_by_manifest(google, manifest)


def in_bigquery(google: GoogleSettings) -> Rows:
    return rows_in_bigquery(google, "ny_taxi.green_cab_data", SLICE)


def require_new(home: Home, versions: Versions) -> None:
    """Run both again: the rows are exact, and no file, staging table or lock is left."""
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    require_nothing_else(home, versions)


def require_nothing_else(home: Home, versions: Versions) -> None:
    google = home.settings.require_google()
    assert in_partitions(google) == counted(table_at(google, OBJECT)) == in_bigquery(google) == versions.new
    manifest = manifest_of(google, PREFIX, SLICE)
    assert sorted(objects_under(google, PREFIX)) == sorted([manifest.path, *(file.path for file in manifest.files)])
    assert tables_in(google, "ny_taxi") == ["green_cab_data"]
    assert scalar(home.server, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert differences(home.settings, ledger.stored(home.server)) == {}


# on the way to Cloud Storage

FILE, MANIFEST, ONE = (rf"^POST /upload/.*{name}" for name in (r"pickup_date=.*\.parquet$", "_manifests/", OBJECT))

BEFORE_THE_MANIFEST: dict[str, Callable[[Proxy], Hold]] = {
    "before its object": lambda storage: storage.hold(ONE),
    "after its object": lambda storage: storage.hold(ONE, after=True),
    "before its first file": lambda storage: storage.hold(FILE),
    "in the middle of its files": lambda storage: storage.hold(FILE, nth=12, after=True),
    "between its files and its manifest": lambda storage: storage.hold(MANIFEST),
}
AFTER_THE_MANIFEST: dict[str, Callable[[Proxy], Hold]] = {
    "after its manifest": lambda storage: storage.hold(MANIFEST, after=True),
    "before it removes old files": lambda storage: storage.hold("^DELETE"),
    "while it removes old files": lambda storage: storage.hold("^DELETE", nth=12, after=True),
}


@pytest.mark.parametrize("moment", BEFORE_THE_MANIFEST)
def test_killed_before_its_manifest_it_leaves_the_old_files_and_the_next_run_is_right(
    home: Home, google: GoogleSettings, storage: Proxy, versions: Versions, moment: str
) -> None:
    kill_at(through(home, storage=storage), TO_GCS, BEFORE_THE_MANIFEST[moment](storage))
    assert in_partitions(google) == versions.old
    assert counted(table_at(google, OBJECT)) == (versions.old if moment == "before its object" else versions.new)
    require_new(home, versions)


@pytest.mark.parametrize("moment", AFTER_THE_MANIFEST)
def test_killed_after_its_manifest_it_leaves_the_new_files_and_the_next_run_is_right(
    home: Home, google: GoogleSettings, storage: Proxy, versions: Versions, moment: str
) -> None:
    kill_at(through(home, storage=storage), TO_GCS, AFTER_THE_MANIFEST[moment](storage))
    assert in_partitions(google) == versions.new
    require_new(home, versions)


def test_a_manifest_that_is_on_its_way_while_its_run_dies_is_whole_when_it_arrives(
    home: Home, google: GoogleSettings, storage: Proxy, versions: Versions
) -> None:
    hold = storage.hold(MANIFEST)
    run = through(home, storage=storage).begin(*TO_GCS)
    hold.wait()
    kill(run)
    hold.release()
    wait_until(lambda: in_partitions(google) != versions.old, "the manifest to arrive")
    assert in_partitions(google) == versions.new
    require_new(home, versions)


def test_a_manifest_that_arrives_after_the_next_run_replaces_nothing(
    home: Home, google: GoogleSettings, storage: Proxy, versions: Versions
) -> None:
    hold = storage.hold(MANIFEST)
    run = through(home, storage=storage).begin(*TO_GCS)
    hold.wait()
    kill(run)
    versions.publish()
    run_here("api_to_gcs")
    files = files_under(google, PREFIX)
    hold.release()
    [late] = wait_until(lambda: storage.asked(MANIFEST), "the manifest to arrive")
    assert late.status == 412
    assert in_partitions(google) == versions.new
    assert files_under(google, PREFIX) == files
    require_new(home, versions)


# on the way to BigQuery

BEFORE_THE_COMMIT: dict[str, Callable[[Proxy], Hold]] = {
    "before its staging table": lambda bigquery: bigquery.hold(r"^POST .*/tables\?.* _staging"),
    "before its load job": lambda bigquery: bigquery.hold(LOAD),
    "after its load job": lambda bigquery: bigquery.hold(LOAD, after=True),
    "between its load job and its transaction": lambda bigquery: bigquery.hold(COMMIT),
}
AFTER_THE_COMMIT: dict[str, Callable[[Proxy], Hold]] = {
    "after its transaction": lambda bigquery: bigquery.hold(COMMIT, after=True),
    "before it removes its staging table": lambda bigquery: bigquery.hold("^DELETE .*_staging"),
}


@pytest.fixture
def landed(home: Home, versions: Versions) -> Versions:
    """The new version has landed in Cloud Storage."""
    run_here("api_to_gcs")
    return versions


@pytest.mark.parametrize("moment", BEFORE_THE_COMMIT)
def test_killed_before_its_transaction_it_leaves_the_old_rows_and_the_next_run_is_right(
    home: Home, google: GoogleSettings, bigquery: Proxy, landed: Versions, moment: str
) -> None:
    kill_at(through(home, bigquery=bigquery), TO_BIGQUERY, BEFORE_THE_COMMIT[moment](bigquery))
    assert in_bigquery(google) == landed.old
    require_new(home, landed)


@pytest.mark.parametrize("moment", AFTER_THE_COMMIT)
def test_killed_after_its_transaction_it_leaves_the_new_rows_and_the_next_run_is_right(
    home: Home, google: GoogleSettings, bigquery: Proxy, landed: Versions, moment: str
) -> None:
    kill_at(through(home, bigquery=bigquery), TO_BIGQUERY, AFTER_THE_COMMIT[moment](bigquery))
    assert in_bigquery(google) == landed.new
    require_new(home, landed)


def test_a_transaction_that_runs_while_its_run_dies_is_whole(
    home: Home, google: GoogleSettings, bigquery: Proxy, landed: Versions
) -> None:
    hold = bigquery.hold(COMMIT)
    run = through(home, bigquery=bigquery).begin(*TO_BIGQUERY)
    hold.wait()
    kill(run)
    hold.release()
    wait_until(lambda: in_bigquery(google) != landed.old, "the transaction to end")
    assert in_bigquery(google) == landed.new
    require_new(home, landed)


def test_a_transaction_that_is_queued_until_after_the_next_run_changes_nothing(
    home: Home, google: GoogleSettings, bigquery: Proxy, landed: Versions
) -> None:
    hold = bigquery.hold(COMMIT)
    run = through(home, bigquery=bigquery).begin(*TO_BIGQUERY)
    hold.wait()
    kill(run)
    landed.publish()
    run_here("api_to_gcs")
    run_here("gcs_to_bigquery")
    hold.release()
    wait_until(lambda: bigquery.asked(COMMIT), "the transaction to end")
    assert in_bigquery(google) == landed.new
    require_new(home, landed)


# before the ledger


@pytest.mark.parametrize("command", [TO_GCS, TO_BIGQUERY], ids=["to Cloud Storage", "to BigQuery"])
def test_killed_before_the_ledger_it_leaves_the_new_rows_and_verify_says_so_until_the_next_run(
    home: Home, google: GoogleSettings, landed: Versions, command: tuple[str, ...]
) -> None:
    if command == TO_GCS:
        landed.publish()  # what has landed is the old version now
    with session(home.server) as cursor:
        cursor.execute("LOCK TABLE cantrip.ledger IN EXCLUSIVE MODE")
        run = home.begin(*command)
        wait_until(lambda: waits_for_the_ledger(home), "the run to wait for the ledger")
        kill(run)
    where = counted(table_at(google, OBJECT)) if command == TO_GCS else in_bigquery(google)
    assert where == landed.new
    verified = home.cantrip("ledger", "--verify")
    assert verified.returncode == 1
    # an object is known by its checksum, a table by its rows
    said = "was altered: it is not the " if command == TO_GCS else f"{landed.new.total()} rows in "
    assert said in " ".join(verified.stdout.split())
    for again in (TO_GCS, TO_BIGQUERY):
        receipts = home.cantrip_json(*again)["receipts"]
        assert {receipt["rows"] for receipt in receipts} == {landed.new.total()}
    require_nothing_else(home, landed)
    verified = home.cantrip("ledger", "--verify")
    assert verified.returncode == 0, verified.stdout
    # each run closes those of its pipeline that were killed
    runs = query(home.server, "SELECT DISTINCT status::text FROM pipeline_run", dbname="mage")
    assert {status for (status,) in runs} <= {"COMPLETED", "FAILED"}


def waits_for_the_ledger(home: Home) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO cantrip%'"
    return scalar(home.server, sql) > 0
