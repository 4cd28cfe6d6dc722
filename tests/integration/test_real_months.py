"""Three real months of the TLC's: row by row what the files hold, whatever the order and however often."""

from collections.abc import Iterator

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mage_project.lib.feeds.taxi.schema import GREEN
from mage_project.lib.settings import ROOT, PostgresSettings
from tests.support.blocks import run_blocks
from tests.support.faulty_server import Server, serve
from tests.support.warehouse import Home, hidden_environment, query, relations, running_home, scalar

DATA = ROOT.parent / "shared" / "data" / "tlc"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the TLC's real months are not in {DATA}")

MONTHS = {
    # month: (rows, sum of total_amount)
    "2021-01": (76_371, 1_802_028.47),
    "2021-02": (64_541, 1_513_191.12),
    "2021-03": (83_800, 1_988_169.96),
}
SHUFFLED = ("2021-02", "2021-03", "2021-01", "2021-03", "2021-01", "2021-02")


@pytest.fixture(scope="module")
def tlc() -> Iterator[Server]:
    with serve(DATA) as server:
        yield server


@pytest.fixture(scope="module")
def real(tlc: Server) -> Iterator[Home]:
    """A home in which each of the months was loaded twice, in shuffled order."""
    zones = f"{tlc.url}/taxi_zone_lookup.csv"
    with running_home(TAXI_BASE_URL=tlc.url, TAXI_ZONES_URL=zones) as home, pytest.MonkeyPatch.context() as patch:
        for name, value in {**hidden_environment(), **home.environment}.items():
            patch.setenv(name, value)
        for month in SHUFFLED:
            year, number = month.split("-")
            run_blocks("api_to_postgres", color="green", window=f"{month}-01/{year}-{int(number) + 1:02}-01")
        run_blocks("taxi_zones_to_postgres", window="2021-01-01/2021-01-02")
        yield home


@pytest.fixture
def server(real: Home) -> PostgresSettings:
    return real.server


def test_each_month_holds_its_rows_and_its_money(server: PostgresSettings) -> None:
    found = query(
        server,
        "SELECT _slice, count(*), round(sum(total_amount)::numeric, 2)::float8 FROM ny_taxi.green_cab_data GROUP BY 1",
    )
    assert {slice: (rows, total) for slice, rows, total in found} == {
        f"green/{m}": facts for m, facts in MONTHS.items()
    }
    assert scalar(server, "SELECT count(*) FROM ny_taxi.green_cab_data") == 224_712


def test_the_multiset_of_rows_is_that_of_the_files(server: PostgresSettings) -> None:
    """Both ways EXCEPT ALL against the files' own rows, sent by another way than the sink's."""
    files = pa.concat_tables(pq.read_table(DATA / f"green_tripdata_{month}.parquet") for month in MONTHS)
    kept = files.filter(pc.fill_null(pc.not_equal(files["passenger_count"], 0), True))
    kept = kept.select(GREEN.names).cast(GREEN).rename_columns([name.lower() for name in GREEN.names])
    columns = ", ".join(kept.column_names)
    with adbc.connect(server.url()) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("from_files", kept, mode="create", temporary=True)
        loaded = f"SELECT {columns} FROM ny_taxi.green_cab_data"
        read = f"SELECT {columns} FROM pg_temp.from_files"
        for one, other in ((loaded, read), (read, loaded)):
            cursor.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other}) AS different")
            assert cursor.fetchone() == (0,)


def test_the_row_of_the_first_of_march_in_februarys_file_is_there_once(server: PostgresSettings) -> None:
    from_february = query(
        server,
        "SELECT count(*) FROM ny_taxi.green_cab_data "
        "WHERE _slice = 'green/2021-02' AND date_trunc('month', lpep_pickup_datetime) = '2021-03-01'",
    )
    assert from_february == [(1,)]
    days = dict(
        query(
            server, "SELECT _slice, count(DISTINCT lpep_pickup_datetime::date) FROM ny_taxi.green_cab_data GROUP BY 1"
        )
    )
    assert days == {"green/2021-01": 33, "green/2021-02": 30, "green/2021-03": 31}


def test_unknown_passengers_stay_and_known_zeros_go(server: PostgresSettings) -> None:
    assert query(
        server,
        "SELECT _slice, count(*) FILTER (WHERE passenger_count IS NULL), count(*) FILTER (WHERE passenger_count = 0) "
        "FROM ny_taxi.green_cab_data GROUP BY 1 ORDER BY 1",
    ) == [("green/2021-01", 36_047, 0), ("green/2021-02", 29_109, 0), ("green/2021-03", 40_534, 0)]


def test_the_ledger_agrees_and_nothing_else_is_left(real: Home) -> None:
    entries = {row["slice"]: row for row in real.cantrip_json("ledger", "--verify")}
    assert entries.pop("taxi_zones")["kept"] == 265
    assert {entry["slice"]: entry["kept"] for entry in entries.values()} == {
        f"green/{month}": rows for month, (rows, _) in MONTHS.items()
    }
    assert {entry["slice"]: entry["dropped"] for entry in entries.values()} == {
        "green/2021-01": {"zero_passengers": 147},
        "green/2021-02": {"zero_passengers": 31},
        "green/2021-03": {"zero_passengers": 27},
    }
    assert all(entry["difference"] is None for entry in entries.values())
    assert len(relations(real.server, "ny_taxi")) == 1 + len(MONTHS) + 1


def test_a_second_load_downloads_nothing(real: Home, tlc: Server) -> None:
    sent: dict[str, list[int]] = {}
    for request in tlc.requests:
        sent.setdefault(request.path, []).append(request.bytes_sent)
    for month in MONTHS:
        first, second = sent[f"/green_tripdata_{month}.parquet"][:2]
        assert (first, second) == ((DATA / f"green_tripdata_{month}.parquet").stat().st_size, 0)


def test_the_265_zones_are_the_files(server: PostgresSettings) -> None:
    assert scalar(server, "SELECT count(DISTINCT locationid) FROM ny_taxi.taxi_zones") == 265
    assert query(server, "SELECT * FROM ny_taxi.taxi_zones WHERE locationid IN (1, 132) ORDER BY 1") == [
        (1, "EWR", "Newark Airport", "EWR", "taxi_zones"),
        (132, "Queens", "JFK Airport", "Airports", "taxi_zones"),
    ]
    assert scalar(server, "SELECT count(*) FROM ny_taxi.taxi_zones WHERE zone IS NULL OR borough IS NULL") == 0


def test_the_command_line_loads_a_real_month_like_the_blocks(real: Home) -> None:
    document = real.cantrip_json("run", "api_to_postgres", "--date", "2021-02-10", "--var", "color=green")
    assert [receipt["rows"] for receipt in document["receipts"]] == [64_541]
    assert scalar(real.server, "SELECT count(*) FROM ny_taxi.green_cab_data") == 224_712
