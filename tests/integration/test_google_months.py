"""Three real months of the TLC's in PostgreSQL, Cloud Storage and BigQuery: everywhere the rows of the files."""

from collections.abc import Iterator
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mage_project.lib.feeds.taxi.schema import GREEN
from mage_project.lib.settings import ROOT
from mage_project.lib.sinks.google_clients import bigquery_client
from mage_project.lib.sinks.manifests import broken_files
from tests.support.blocks import run_blocks
from tests.support.faulty_server import serve
from tests.support.google import (
    Rows,
    counted,
    files_under,
    manifest_of,
    rows_by_manifest,
    rows_in_bigquery,
    rows_in_postgres,
    table_at,
    tables_in,
)
from tests.support.warehouse import Home, hidden_environment, query, running_home

DATA = ROOT.parent / "shared" / "data" / "tlc"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the TLC's real months are not in {DATA}"),
]

MONTHS = {"2021-01": 76_371, "2021-02": 64_541, "2021-03": 83_800}
SHUFFLED = ("2021-02", "2021-03", "2021-01", "2021-03", "2021-01", "2021-02")
ROWS, MONEY = 224_712, 5_303_389.55
PREFIX, TABLE = "nyc_taxi_data/green", "ny_taxi.green_cab_data"


@pytest.fixture(scope="module")
def real() -> Iterator[Home]:
    """A home in which each month went the three ways twice, in shuffled order."""
    with (
        serve(DATA) as tlc,
        running_home(with_google=True, TAXI_BASE_URL=tlc.url) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**hidden_environment(), **home.environment}.items():
            patch.setenv(name, value)
        for month in SHUFFLED:
            year, number = month.split("-")
            window = f"{month}-01/{year}-{int(number) + 1:02}-01"
            for pipeline in ("api_to_postgres", "api_to_gcs", "gcs_to_bigquery"):
                run_blocks(pipeline, color="green", window=window)
        yield home


def file_rows(month: str) -> Rows:
    """Give the published rows of a month, without those known to have had no passenger."""
    table = pq.read_table(DATA / f"green_tripdata_{month}.parquet")
    kept = table.filter(pc.fill_null(pc.not_equal(table["passenger_count"], 0), True))
    return counted(kept.select(GREEN.names).cast(GREEN))


@pytest.mark.parametrize("month", MONTHS)
def test_all_sinks_hold_the_multiset_of_rows_of_the_file(real: Home, month: str) -> None:
    google, slice = real.settings.require_google(), f"green/{month}"
    manifest = manifest_of(google, PREFIX, slice)
    published = file_rows(month)
    assert published.total() == MONTHS[month] == manifest.rows
    assert broken_files(google, manifest) == []
    assert rows_by_manifest(google, manifest) == published
    assert counted(table_at(google, f"ny_taxi_data/green_{month}.parquet")) == published
    assert rows_in_postgres(real.server, TABLE, slice) == published
    assert rows_in_bigquery(google, TABLE, slice) == published


def test_all_sinks_hold_the_rows_and_the_money_of_all_months(real: Home) -> None:
    google = real.settings.require_google()
    sql = f"SELECT COUNT(*), ROUND(SUM(total_amount), 2) FROM {TABLE}"
    in_postgres = query(real.server, sql.replace("SUM(total_amount)", "SUM(total_amount)::numeric"))
    in_bigquery = [tuple(row.values()) for row in bigquery_client(google).query_and_wait(sql)]
    files = pa.concat_tables(table_at(google, path) for path in files_under(google, PREFIX))
    assert [(rows, float(money)) for rows, money in in_postgres] == [(ROWS, MONEY)]
    assert in_bigquery == [(ROWS, MONEY)]
    assert (len(files), round(pc.sum(files["total_amount"]).as_py(), 2)) == (ROWS, MONEY)
    assert tables_in(google, "ny_taxi") == ["green_cab_data"]


def test_the_row_of_the_first_of_march_in_februarys_file_is_there_once(real: Home) -> None:
    google = real.settings.require_google()
    first = {
        month: [file for file in manifest_of(google, PREFIX, f"green/{month}").files if file.partition == "2021-03-01"]
        for month in MONTHS
    }
    assert [file.rows for file in first["2021-02"]] == [1]
    assert first["2021-01"] == []
    by_slice = {f"green/{month}": sum(file.rows for file in files) for month, files in first.items() if files}
    sql = f"SELECT _slice, COUNT(*) FROM {TABLE} WHERE pickup_date = DATE '2021-03-01' GROUP BY 1"
    assert {row[0]: row[1] for row in bigquery_client(google).query_and_wait(sql)} == by_slice
    sql = f"SELECT _slice, count(*) FROM {TABLE} WHERE lpep_pickup_datetime::date = '2021-03-01' GROUP BY 1"
    assert dict(query(real.server, sql)) == by_slice


def test_each_row_lies_in_the_partition_of_its_pickup(real: Home) -> None:
    google = real.settings.require_google()
    sql = f"SELECT COUNT(*), COUNT(DISTINCT pickup_date) FROM {TABLE} WHERE pickup_date = DATE(lpep_pickup_datetime)"
    days = {file.partition for month in MONTHS for file in manifest_of(google, PREFIX, f"green/{month}").files}
    assert [tuple(row.values()) for row in bigquery_client(google).query_and_wait(sql)] == [(ROWS, len(days))]
    assert date(2021, 3, 1).isoformat() in days


def test_the_ledger_has_the_three_sinks_side_by_side_and_agrees_with_all(real: Home) -> None:
    entries = real.cantrip_json("ledger", "--verify")
    assert {(row["pipeline"], row["slice"]): row["kept"] for row in entries} == {
        (pipeline, f"green/{month}"): rows
        for pipeline in ("api_to_postgres", "api_to_gcs", "gcs_to_bigquery")
        for month, rows in MONTHS.items()
    }
    sinks = {"api_to_postgres": ["postgres"], "api_to_gcs": ["gcs", "gcs"], "gcs_to_bigquery": ["bigquery"]}
    for row in entries:
        assert [receipt["sink"] for receipt in row["stored"]] == sinks[row["pipeline"]]
        assert {receipt["rows"] for receipt in row["stored"]} == {row["kept"]}
        assert (row["state"], row["difference"]) == ("done", None)
