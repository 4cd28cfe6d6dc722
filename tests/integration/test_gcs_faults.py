"""The Cloud Storage sink against a server that fails, and against another writer of the same slice."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mage_project.lib.errors import ConfigurationError, SinkError
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.gcs import GcsObject, GcsPartitions
from mage_project.lib.sinks.manifests import broken_files, read_manifest
from tests.support.google import (
    files_under,
    manifest_of,
    objects_under,
    require_published,
    require_whole,
    rows_of_dataset,
    table_at,
    trips_of,
)
from tests.support.google_proxy import Proxy
from tests.support.warehouse import Background

JANUARY = "green/2021-01"
DAYS = {"2021-01-01": 40, "2021-01-02": 30, "2021-01-31": 20}
FILE, MANIFEST = r"^POST /upload/.*\.parquet$", r"^POST /upload/.*_manifests/"
REPLACED = "another run replaced gs://.* while this one was writing"


@pytest.fixture
def one(google: GoogleSettings, prefix: str, tmp_path: Path) -> GcsObject:
    return GcsObject(google, f"{prefix}/green_2021-01.parquet", tmp_path)


@pytest.fixture
def watched_one(one: GcsObject, storage: Proxy) -> GcsObject:
    return replace(one, google=replace(one.google, storage_endpoint=storage.url))


# two writers of one slice, and no lock between them


@pytest.mark.parametrize("there_before", [True, False], ids=["a re-run", "the first load"])
@pytest.mark.parametrize("moment", [FILE, MANIFEST], ids=["in its first upload", "before its manifest"])
def test_of_two_writers_of_a_slice_the_one_that_is_late_changes_nothing(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy, moment: str, there_before: bool
) -> None:
    if there_before:
        parts.replace(trips_of(parts.scratch, JANUARY, {"2021-01-02": 9, "2021-01-15": 9}, first=500))
    slow, quick = (trips_of(parts.scratch, JANUARY, DAYS, first=first) for first in (0, 1000))
    hold = storage.hold(moment)
    late = Background(watched.replace, slow)
    hold.wait()
    parts.replace(quick)
    hold.release()
    with pytest.raises(SinkError, match=REPLACED):
        late.result()
    require_published(parts, JANUARY, rows_of_dataset(quick))
    parts.replace(quick)  # what the late one left, which no manifest lists, goes with the slice's next run
    require_whole(parts, JANUARY, rows_of_dataset(quick))


def test_of_two_writers_of_the_same_rows_the_late_one_leaves_the_files_that_both_wrote(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    hold = storage.hold(MANIFEST)
    late = Background(watched.replace, trips)
    hold.wait()
    parts.replace(trips)
    hold.release()
    with pytest.raises(SinkError, match=REPLACED):
        late.result()
    require_whole(parts, JANUARY, rows_of_dataset(trips))


def test_a_writer_that_fails_takes_no_file_away_from_one_that_publishes_after_it(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy
) -> None:
    """Both write the same rows, and so files of the same names."""
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    hold = storage.hold(MANIFEST)
    first = Background(watched.replace, trips)
    hold.wait()
    storage.answer(MANIFEST, 403)
    with pytest.raises(ConfigurationError):
        watched.replace(trips)
    hold.release()
    first.result()
    require_whole(parts, JANUARY, rows_of_dataset(trips))


def test_of_two_writers_of_an_object_the_one_that_is_late_changes_nothing(
    one: GcsObject, watched_one: GcsObject, storage: Proxy
) -> None:
    slow, quick = (trips_of(one.scratch, JANUARY, DAYS, first=first) for first in (0, 1000))
    hold = storage.hold(FILE)
    late = Background(watched_one.replace, slow)
    hold.wait()
    one.replace(quick)
    hold.release()
    with pytest.raises(SinkError, match=REPLACED):
        late.result()
    assert sorted(table_at(one.google, one.path)["n"].to_pylist()) == list(range(1000, 1090))


def test_of_writers_at_once_one_publishes_and_the_slice_is_its(parts: GcsPartitions) -> None:
    datasets = [trips_of(parts.scratch, JANUARY, DAYS, first=1000 * number) for number in range(4)]
    ready = threading.Barrier(len(datasets))

    def write(number: int) -> str:
        ready.wait()
        try:
            parts.replace(datasets[number])
        except SinkError as error:
            return str(error)
        return "published"

    said = [writer.result() for writer in [Background(write, number) for number in range(len(datasets))]]
    assert "published" in said
    assert all(text == "published" or "another run replaced" in text for text in said), said
    manifest = manifest_of(parts.google, parts.prefix, JANUARY)
    assert broken_files(parts.google, manifest) == []
    [winner] = [each for each in datasets if said[datasets.index(each)] == "published"][-1:]
    assert manifest.rows == winner.rows


# answers that get lost, and errors that a second try mends


@pytest.mark.parametrize("status", [None, 503], ids=["cut off", "answered 503"])
@pytest.mark.parametrize("of", [FILE, MANIFEST], ids=["a file", "the manifest"])
def test_an_upload_whose_answer_is_lost_is_not_taken_for_another_run(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy, of: str, status: int | None
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    storage.lose_answer(of, status=status)
    assert watched.replace(trips).rows == 90
    statuses = [each.status for each in storage.asked(of)]
    assert status in statuses
    assert (412 in statuses) == (of == MANIFEST)
    require_whole(parts, JANUARY, rows_of_dataset(trips))


@pytest.mark.parametrize("status", [None, 503], ids=["cut off", "answered 503"])
def test_an_object_whose_answer_is_lost_is_not_taken_for_another_run(
    one: GcsObject, watched_one: GcsObject, storage: Proxy, status: int | None
) -> None:
    storage.lose_answer(FILE, status=status)
    assert watched_one.replace(trips_of(one.scratch, JANUARY, DAYS)).rows == 90
    assert [each.status for each in storage.asked(FILE)] == [status, 412]
    assert len(table_at(one.google, one.path)) == 90


@pytest.mark.parametrize("status", [429, 503])
def test_errors_that_pass_are_waited_out(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy, status: int
) -> None:
    trips = trips_of(parts.scratch, JANUARY, DAYS)
    storage.answer(FILE, status)
    storage.answer(FILE, status, nth=2)
    storage.answer(MANIFEST, status)
    storage.answer(r"^GET /storage/.*/o/.*_manifests", status)
    watched.replace(trips)
    assert [each.status for each in storage.requests].count(status) == 4
    require_whole(parts, JANUARY, rows_of_dataset(trips))


# errors that stay


@pytest.mark.parametrize("of", [FILE, MANIFEST], ids=["a file", "the manifest"])
def test_what_is_refused_says_how_to_mend_it_and_leaves_what_was_there(
    parts: GcsPartitions, watched: GcsPartitions, storage: Proxy, of: str
) -> None:
    before = trips_of(parts.scratch, JANUARY, {"2021-01-02": 9, "2021-01-15": 9}, first=500)
    parts.replace(before)
    objects = objects_under(parts.google, parts.prefix)
    storage.answer(of, 403, "no permission storage.objects.create", nth=1, times=3)
    with pytest.raises(ConfigurationError, match=r"refuses: .*no permission storage.objects.create") as refused:
        watched.replace(trips_of(parts.scratch, JANUARY, DAYS))
    text = str(refused.value)
    assert text.startswith(f"{JANUARY}: writing {parts.prefix}: gs://{parts.google.bucket} refuses")
    assert f"gcloud storage buckets add-iam-policy-binding gs://{parts.google.bucket}" in text
    assert "roles/storage.objectAdmin" in text
    assert objects_under(parts.google, parts.prefix).items() >= objects.items()
    parts.replace(before)  # what the refused one left goes with the slice's next run
    assert objects_under(parts.google, parts.prefix).keys() == objects.keys()
    require_whole(parts, JANUARY, rows_of_dataset(before))


def test_a_bucket_that_is_missing_and_can_not_be_made_is_named_with_the_command(
    watched: GcsPartitions, one: GcsObject, storage: Proxy
) -> None:
    trips = trips_of(watched.scratch, JANUARY, DAYS)
    for sink in (watched, replace(one, google=watched.google)):
        storage.clear()
        storage.answer(f"/b/{one.google.bucket}|/upload/", 404, "The specified bucket does not exist.", times=20)
        storage.answer("^POST /storage/v1/b", 403, "no permission storage.buckets.create")
        with pytest.raises(ConfigurationError) as refused:
            sink.replace(trips)
        text = str(refused.value)
        assert text.startswith(JANUARY)
        assert f"gs://{one.google.bucket}" in text
        assert "gcloud storage buckets" in text


def test_on_google_itself_a_missing_bucket_is_not_made_but_named(
    parts: GcsPartitions, storage: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an endpoint of a local server: the client's own environment leads it to the proxy."""
    from google.cloud import storage as library

    from mage_project.lib.sinks import gcs, manifests

    def client(_: GoogleSettings) -> library.Client:
        from google.auth.credentials import AnonymousCredentials

        return library.Client("p", AnonymousCredentials(), client_options={"api_endpoint": storage.url})

    for module in (gcs, manifests):
        monkeypatch.setattr(module, "storage_client", client)
    cloud = replace(parts, google=GoogleSettings("their-project", "their-bucket"))
    with pytest.raises(ConfigurationError, match="there is no bucket gs://their-bucket") as refused:
        cloud.replace(trips_of(parts.scratch, JANUARY, DAYS))
    assert "gcloud storage buckets create gs://their-bucket --project their-project" in str(refused.value)
    assert storage.asked("^POST /storage/v1/b") == []


def test_a_server_that_is_away_is_one_paragraph(parts: GcsPartitions, storage: Proxy) -> None:
    """A refused connection is retried for two minutes by the client; its answer here is one that it gives up on."""
    storage.answer("^GET", 400, "bad request", times=20)
    watched = replace(parts, google=replace(parts.google, storage_endpoint=storage.url))
    with pytest.raises(SinkError, match=r"gs://.* failed: .*bad request.*holds what it held before"):
        watched.replace(trips_of(parts.scratch, JANUARY, DAYS))
    assert read_manifest(parts.google, parts.prefix, JANUARY) is None
    assert files_under(parts.google, parts.prefix) == []
