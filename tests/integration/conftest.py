"""The local Cloud Storage and BigQuery for the tests of their sinks, with a proxy before each."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mage_project.lib.dataset import Dataset
from mage_project.lib.manifest import Manifest
from mage_project.lib.settings import GoogleSettings, read_services
from mage_project.lib.sinks.bigquery import BigQueryTable
from mage_project.lib.sinks.gcs import GcsPartitions
from tests.support.google import manifest_of
from tests.support.google_proxy import Proxy, proxy
from tests.support.warehouse import Home, google_home

Land = Callable[[Dataset], Manifest]


@pytest.fixture(scope="session")
def servers() -> Iterator[Home]:
    """A home of their own, in which both servers run."""
    with google_home() as home:
        yield home


@pytest.fixture(scope="session")
def google(servers: Home) -> GoogleSettings:
    """The addresses of both servers."""
    return servers.settings.require_google()


@pytest.fixture(scope="session")
def bucket_folder(servers: Home, google: GoogleSettings) -> Path:
    """Where the local server keeps the bucket's objects as files."""
    return Path(read_services(servers.folder)["gcs"]["root"]) / google.bucket


@pytest.fixture(scope="session")
def storage_proxy(google: GoogleSettings) -> Iterator[Proxy]:
    with proxy(google.storage_endpoint) as running:
        yield running


@pytest.fixture(scope="session")
def bigquery_proxy(google: GoogleSettings) -> Iterator[Proxy]:
    with proxy(google.bigquery_endpoint) as running:
        yield running


@pytest.fixture
def storage(storage_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy before Cloud Storage, without rules and requests of other tests."""
    storage_proxy.clear()
    yield storage_proxy
    storage_proxy.clear()


@pytest.fixture
def bigquery(bigquery_proxy: Proxy) -> Iterator[Proxy]:
    """The proxy before BigQuery, without rules and requests of other tests."""
    bigquery_proxy.clear()
    yield bigquery_proxy
    bigquery_proxy.clear()


@pytest.fixture
def prefix() -> str:
    return f"trips_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def parts(google: GoogleSettings, prefix: str, tmp_path: Path) -> GcsPartitions:
    """Partitions of the test's own, straight to the server."""
    return GcsPartitions(google, prefix, "pickup_date", "pickup", tmp_path)


@pytest.fixture
def watched(parts: GcsPartitions, storage: Proxy) -> GcsPartitions:
    """The same partitions, through the proxy."""
    return replace(parts, google=replace(parts.google, storage_endpoint=storage.url))


@pytest.fixture
def table(google: GoogleSettings) -> BigQueryTable:
    """A table in a dataset of the test's own, straight to the server."""
    return BigQueryTable(google, f"test_{uuid.uuid4().hex[:8]}", "trips", ("n",))


@pytest.fixture
def watched_table(table: BigQueryTable, bigquery: Proxy) -> BigQueryTable:
    """The same table, through the proxy."""
    return replace(table, google=replace(table.google, bigquery_endpoint=bigquery.url))


@pytest.fixture
def land(parts: GcsPartitions) -> Land:
    """Write a dataset's files and give their manifest."""

    def land(dataset: Dataset) -> Manifest:
        parts.replace(dataset)
        return manifest_of(parts.google, parts.prefix, dataset.slice)

    return land
