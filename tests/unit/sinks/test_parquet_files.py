"""Every row comes out once, under its own day, whatever order the days come in, and few rows wait in memory."""

import errno
import gc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mage_project.lib.dataset import Dataset, stage
from mage_project.lib.errors import DataError, SinkError
from mage_project.lib.sinks import parquet_files
from mage_project.lib.sinks.parquet_files import NO_DAY, encode, rows_by_day

PICKUP = "lpep_pickup_datetime"
SCHEMA = pa.schema([("row", pa.int64()), (PICKUP, pa.timestamp("us"))])
START = datetime(2021, 1, 1, tzinfo=UTC).replace(tzinfo=None)
FILE_ROWS, WAITING_ROWS, BATCH_ROWS = 6, 10, 4

# times as a dirty month holds them: mostly of a few days, some of long ago or far ahead, some unknown
times = st.one_of(
    st.none(),
    st.builds(lambda day, us: START + timedelta(days=day, microseconds=us), st.integers(0, 4), st.integers(0, 999)),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)),
)
months = st.lists(st.lists(times, min_size=1, max_size=BATCH_ROWS), max_size=25)


@pytest.fixture(autouse=True, scope="module")
def few_rows() -> Iterator[None]:
    """Make files and what may wait small, so that a few rows fill them."""
    with patch.multiple(parquet_files, FILE_ROWS=FILE_ROWS, WAITING_ROWS=WAITING_ROWS):
        yield


def staged(folder: Path, batches: list[list[datetime | None]]) -> Dataset:
    """Stage rows that are numbered through, in batches as they are given."""
    rows, parts = 0, []
    for part in batches:
        parts.append(pa.record_batch([pa.array(range(rows, rows + len(part))), pa.array(part, SCHEMA[1].type)], SCHEMA))
        rows += len(part)
    return stage(parts, SCHEMA, folder / "month.arrow", slice="green/2021-01", source="a test")


def day_of(time: datetime | None) -> str:
    return NO_DAY if time is None else time.date().isoformat()


def days_apart(days: int, each: int = 1) -> list[list[datetime | None]]:
    """Give `each` rows of each of `days` days, in turns: the worst order there is."""
    turns = [(day, turn) for turn in range(each) for day in range(days)]
    flat: list[datetime | None] = [START + timedelta(days=day, seconds=turn) for day, turn in turns]
    return [flat[at : at + BATCH_ROWS] for at in range(0, len(flat), BATCH_ROWS)]


@given(months)
@example([[START, None, START - timedelta(days=20_000), START]] * 9)
@example(days_apart(7, each=5))
@example([[START] * BATCH_ROWS] * 8)
def test_every_row_comes_out_once_under_its_own_day(batches: list[list[datetime | None]]) -> None:
    expected = [(row, time) for row, time in enumerate(time for batch in batches for time in batch)]
    with TemporaryDirectory() as folder:
        spill = Path(folder) / "rows.spill"
        found = list(rows_by_day(staged(Path(folder), batches), PICKUP, spill))
        assert not spill.exists()
    out = [(day.day, row, time) for day in found for row, time in zip(*day.rows.to_pydict().values(), strict=True)]
    assert sorted(out, key=lambda each: each[1]) == [(day_of(time), row, time) for row, time in expected]
    assert all(0 < len(day.rows) <= FILE_ROWS for day in found)
    assert all(day.rows.schema == SCHEMA for day in found)
    # in a file, rows keep their order until they are sorted by time
    assert all(rows == sorted(rows) for rows in (day.rows.column("row").to_pylist() for day in found))


@given(months)
@example(days_apart(9, each=9))
def test_few_rows_wait_in_memory_whatever_the_order(batches: list[list[datetime | None]]) -> None:
    waiting: list[int] = []
    add = parquet_files._WaitingDays.add

    def counting(self: Any, day: int, rows: pa.RecordBatch) -> None:
        add(self, day, rows)
        waiting.append(sum(each.num_rows for held in self._held.values() for each in held))

    with TemporaryDirectory() as folder, patch.object(parquet_files._WaitingDays, "add", counting):
        list(rows_by_day(staged(Path(folder), batches), PICKUP, Path(folder) / "rows.spill"))
    assert max(waiting, default=0) <= WAITING_ROWS
    assert len(waiting) >= len(batches)


@given(months)
@example(days_apart(7, each=8))
def test_a_day_makes_no_more_files_than_its_rows_fill(batches: list[list[datetime | None]]) -> None:
    with TemporaryDirectory() as folder:
        found = list(rows_by_day(staged(Path(folder), batches), PICKUP, Path(folder) / "rows.spill"))
    rows = Counter(day_of(time) for batch in batches for time in batch)
    assert Counter(day.day for day in found) == {day: -(-count // FILE_ROWS) for day, count in rows.items()}


@given(months)
def test_the_same_rows_give_the_same_files(batches: list[list[datetime | None]]) -> None:
    with TemporaryDirectory() as folder:
        dataset = staged(Path(folder), batches)
        once, again = (list(rows_by_day(dataset, PICKUP, Path(folder) / "s")) for _ in range(2))
    files, same = ([(day.day, encode(day.rows, PICKUP)) for day in days] for days in (once, again))
    assert files == same


def test_rows_that_fit_in_memory_need_no_disk(tmp_path: Path) -> None:
    with patch.object(parquet_files._WaitingDays, "_spill", side_effect=AssertionError("spilt")):
        found = list(rows_by_day(staged(tmp_path, [[START], [None], [START] * BATCH_ROWS]), PICKUP, tmp_path / "s"))
    assert [(day.day, len(day.rows)) for day in found] == [(NO_DAY, 1), (day_of(START), 5)]


def test_a_month_with_400_wrong_dates_gives_each_its_own_day(tmp_path: Path) -> None:
    wrong = [START - timedelta(days=97 * number) for number in range(1, 401)]
    batches: list[list[datetime | None]] = [[START, time, START, None] for time in wrong]
    found = list(rows_by_day(staged(tmp_path, batches), PICKUP, tmp_path / "s"))
    rows = Counter[str]()
    for day in found:
        rows[day.day] += len(day.rows)
    assert rows == {day_of(START): 800, NO_DAY: 400} | {day_of(time): 1 for time in wrong}
    assert min(rows) < "1970-01-01"


@pytest.mark.parametrize(
    ("time", "day"),
    [
        (None, "__HIVE_DEFAULT_PARTITION__"),
        ("1969-12-31T23:59:59.999999", "1969-12-31"),
        ("1970-01-01T00:00:00.000000", "1970-01-01"),
        ("2021-01-31T23:59:59.999999", "2021-01-31"),
        ("2021-02-01T00:00:00.000000", "2021-02-01"),
        ("0001-01-01T00:00:00.000000", "0001-01-01"),
        ("9999-12-31T23:59:59.999999", "9999-12-31"),
    ],
)
def test_a_time_is_of_the_day_that_it_is_written_with(time: str | None, day: str, tmp_path: Path) -> None:
    dataset = staged(tmp_path, [[datetime.fromisoformat(time) if time else None]])
    assert [each.day for each in rows_by_day(dataset, PICKUP, tmp_path / "s")] == [day]


@pytest.mark.parametrize("microseconds", [2**62, -(2**62)], ids=["far ahead", "long ago"])
def test_a_time_that_is_no_date_is_an_error_and_leaves_nothing(microseconds: int, tmp_path: Path) -> None:
    batch = pa.record_batch([pa.array([0]), pa.array([microseconds]).cast(pa.timestamp("us"))], SCHEMA)
    dataset = stage([batch], SCHEMA, tmp_path / "a.arrow", slice="green/2021-01", source="u")
    with pytest.raises(DataError, match="no date of the years 1 to 9999"):
        list(rows_by_day(dataset, PICKUP, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("over", [0, 1])
def test_more_days_than_a_table_may_have_are_an_error(over: int, tmp_path: Path) -> None:
    days = staged(tmp_path, [[START + timedelta(days=day)] for day in range(20 + over)])
    with patch.object(parquet_files, "MOST_DAYS", 20):
        if over:
            with pytest.raises(DataError, match=rf"green/2021-01: column '{PICKUP}' holds more than 20 different days"):
                list(rows_by_day(days, PICKUP, tmp_path / "s"))
            assert not (tmp_path / "s").exists()
        else:
            assert len(list(rows_by_day(days, PICKUP, tmp_path / "s"))) == 20


def test_the_most_days_are_what_bigquery_takes_of_one_job() -> None:
    assert parquet_files.MOST_DAYS == 4000


@pytest.mark.parametrize("column", ["pickup", "row"], ids=["no such column", "a number"])
def test_a_column_that_is_no_time_is_refused_with_the_columns_there_are(column: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"by day of '{column}'.* not a column of timestamps.*row, {PICKUP}"):
        list(rows_by_day(staged(tmp_path, [[START]]), column, tmp_path / "s"))


@pytest.mark.parametrize("type_", [pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.date32()], ids=str)
def test_a_time_of_another_kind_is_refused_before_a_row_is_read(type_: pa.DataType, tmp_path: Path) -> None:
    schema = pa.schema([(PICKUP, type_)])
    dataset = stage([], schema, tmp_path / "a.arrow", slice="green/2021-01", source="u")
    dataset.path.unlink()  # reading would fail otherwise
    with pytest.raises(DataError, match="not a column of timestamps"):
        list(rows_by_day(dataset, PICKUP, tmp_path / "s"))


class TestTheFileOnDisk:
    """It is there while rows wait in it, and gone however the reading ends."""

    @pytest.fixture
    def spill(self, tmp_path: Path) -> Path:
        return tmp_path / "made when missing" / "rows.spill"

    @pytest.fixture
    def days(self, tmp_path: Path, spill: Path) -> Any:
        days = rows_by_day(staged(tmp_path, days_apart(7, each=8)), PICKUP, spill)
        next(days)
        assert spill.stat().st_size > 0
        return days

    def test_is_gone_after_the_last_row(self, days: Any, spill: Path) -> None:
        list(days)
        assert not spill.exists()

    def test_is_gone_when_the_consumer_stops_early(self, days: Any, spill: Path) -> None:
        days.close()
        assert not spill.exists()

    def test_is_gone_when_the_consumer_forgets_about_it(self, tmp_path: Path, spill: Path) -> None:
        for _ in rows_by_day(staged(tmp_path, days_apart(7, each=8)), PICKUP, spill):
            assert spill.exists()
            break
        gc.collect()
        assert not spill.exists()

    def test_is_gone_when_an_error_passes(self, days: Any, spill: Path) -> None:
        with pytest.raises(KeyError, match="of the consumer's"):
            days.throw(KeyError("of the consumer's"))
        assert not spill.exists()

    def test_is_gone_when_the_staged_rows_are(self, tmp_path: Path, spill: Path) -> None:
        dataset = staged(tmp_path, days_apart(7, each=8))
        batches = dataset.batches

        def cut() -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(batches()):
                if number == 8:
                    assert spill.exists()
                    raise DataError("green/2021-01: the staged file is gone.")
                yield batch

        with (
            patch.object(Dataset, "batches", lambda _: cut()),
            pytest.raises(DataError, match="the staged file is gone"),
        ):
            list(rows_by_day(dataset, PICKUP, spill))
        assert not spill.exists()

    def test_is_gone_when_the_disk_is_full_and_the_error_says_so(self, tmp_path: Path, spill: Path) -> None:
        dataset = staged(tmp_path, days_apart(7, each=8))
        full = OSError(errno.ENOSPC, "No space left on device")

        def half(path: str, _schema: pa.Schema) -> None:
            Path(path).write_bytes(b"half")
            raise full

        with patch.object(pa.ipc, "new_file", half), pytest.raises(SinkError) as caught:
            list(rows_by_day(dataset, PICKUP, spill))
        assert str(caught.value) == (
            f"green/2021-01: can't write rows.spill in {spill.parent}: No space left on device. Free some space "
            "(`./cantrip clean`), or set CANTRIP_HOME to a larger disk. Nothing was published."
        )
        assert not spill.exists()
