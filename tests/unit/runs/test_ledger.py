"""The books balance: a row that was fetched was kept or dropped by name, and what was kept was loaded."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from mage_project.lib.errors import ReconciliationError
from mage_project.lib.runs import ledger
from mage_project.lib.runs.ledger import Entry, code_version, plain_variables, require_balance, write_done
from mage_project.lib.runs.window import Window
from mage_project.lib.sinks.receipt import Receipt

ENTRY = Entry(
    run_id="1:a",
    pipeline="api_to_postgres",
    window=Window(date(2021, 2, 1), date(2021, 3, 1)),
    variables={"color": "green"},
    started_at=datetime(2021, 4, 1, tzinfo=UTC),
    slice="green/2021-02",
    fetched=64_572,
    kept=64_541,
    dropped={"zero_passengers": 31},
)
RECEIPT = Receipt("postgres", "db:5432/x/ny_taxi.green_cab_data", "green/2021-02", 64_541, 8_192, 1.5)
NO_CONNECTION = cast(Connection, None)

counts = st.integers(0, 10**9)


@given(counts, st.dictionaries(st.text(min_size=1, max_size=5), counts, max_size=3), st.integers(-3, 3))
def test_books_that_are_off_by_any_number_are_refused(kept: int, dropped: dict[str, int], off: int) -> None:
    entry = replace(ENTRY, fetched=kept + sum(dropped.values()) + off, kept=kept, dropped=dropped)
    if off:
        with pytest.raises(ReconciliationError, match=f"{entry.fetched} rows were fetched, but {kept} kept and"):
            require_balance(entry)
    else:
        require_balance(entry)


@pytest.mark.parametrize("unknown", [{"fetched": None}, {"kept": None}, {"fetched": None, "kept": None}])
def test_an_unknown_count_balances_nothing(unknown: dict[str, Any]) -> None:
    with pytest.raises(ReconciliationError, match="Nothing was published"):
        require_balance(replace(ENTRY, **unknown))


@pytest.mark.parametrize("rows", [0, 64_540, 64_542])
def test_a_receipt_over_other_rows_than_were_kept_is_refused_before_anything_is_written(rows: int) -> None:
    with pytest.raises(ReconciliationError, match=f"64541 rows were kept, but {rows} stored in db:5432/x"):
        write_done(NO_CONNECTION, ENTRY, replace(RECEIPT, rows=rows))


def test_books_that_do_not_balance_are_not_written_whatever_the_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_write", lambda *_: pytest.fail("written"))
    with pytest.raises(ReconciliationError):
        write_done(NO_CONNECTION, replace(ENTRY, dropped={}), RECEIPT)


def test_a_balanced_entry_is_written_with_its_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple] = []
    monkeypatch.setattr(ledger, "_write", lambda *given: written.append(given))
    write_done(NO_CONNECTION, ENTRY, RECEIPT)
    assert written == [(None, ENTRY, "done", RECEIPT.as_dict(), None)]


def test_variables_are_the_pipelines_own_as_text() -> None:
    given = {
        "color": "green",
        "offset": 2,
        "ratio": 0.5,
        "deep": True,
        "execution_date": datetime(2021, 4, 1, tzinfo=UTC),
        "execution_partition": "3/x",
        "interval_seconds": 1.0,
        "pipeline_uuid": "p",
        "block_uuid": "b",
        "env": "prod",
        "event": {"a": 1},
        "ds": "2021-04-01",
        "hr": "00",
        "window": "2021-02-01/2021-03-01",
        "date": "2021-02-10",
        "refresh": "1",
        "context": {},
        "nothing": None,
    }
    assert plain_variables(given) == {"color": "green", "deep": "True", "offset": "2", "ratio": "0.5"}


def test_variables_compare_equal_whichever_way_they_came() -> None:
    assert plain_variables({"offset": 2, "color": "green"}) == plain_variables(
        {"color": "green", "offset": "2", "hr": 1}
    )


@pytest.mark.parametrize("name", ["environment", "eventful", "dsn", "hrs", "windows", "dated", "refreshed"])
def test_a_variable_that_only_begins_like_one_of_mages_is_the_pipelines_own(name: str) -> None:
    assert plain_variables({name: "x"}) == {name: "x"}


def test_the_code_has_a_version() -> None:
    assert code_version()
    assert code_version() == code_version()


def test_without_git_the_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version.__wrapped__() == "unknown"


class TestStored:
    """What a slice holds is the newest receipt of each place, also of entries that failed elsewhere."""

    @staticmethod
    def entry(finished: int, state: str = "done", slice: str = "green/2021-02", **receipts: Any) -> dict[str, Any]:
        places = {
            block: receipt if "error" in receipt else {"where": block, "rows": receipt["rows"]}
            for block, receipt in receipts.items()
        }
        finished_at = datetime(2021, 4, 1, finished, tzinfo=UTC)
        return {"slice": slice, "state": state, "finished_at": finished_at, "kept": finished, "receipts": places}

    @staticmethod
    def stored(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, Any]) -> list[tuple[str, str, int, int]]:
        monkeypatch.setattr(ledger, "_read", lambda *_, **__: list(rows))
        found = ledger.stored(cast(Any, None))
        return [(row["slice"], row["receipt"]["where"], row["receipt"]["rows"], row["kept"]) for row in found]

    def test_the_newest_entry_counts_in_whatever_order_they_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [self.entry(1, a={"rows": 10}), self.entry(3, a={"rows": 30}), self.entry(2, a={"rows": 20})]
        assert self.stored(monkeypatch, *rows) == [("green/2021-02", "a", 30, 3)]

    def test_each_place_of_a_slice_keeps_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [
            self.entry(1, a={"rows": 10}, b={"rows": 11}),
            self.entry(2, b={"rows": 20}),
            self.entry(3, slice="zones", c={"rows": 265}),
        ]
        assert self.stored(monkeypatch, *rows) == [
            ("green/2021-02", "a", 10, 1),
            ("green/2021-02", "b", 20, 2),
            ("zones", "c", 265, 3),
        ]

    def test_an_attempt_that_failed_leaves_what_was_there_and_counts_with_what_it_published(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = [
            self.entry(1, a={"rows": 10}, b={"rows": 11}),
            self.entry(2, state="failed", a={"error": "refused"}, b={"rows": 21}),
        ]
        assert self.stored(monkeypatch, *rows) == [("green/2021-02", "a", 10, 1), ("green/2021-02", "b", 21, 2)]

    def test_nothing_but_failures_holds_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.stored(monkeypatch, self.entry(1, state="failed", a={"error": "refused"})) == []


def test_receipts_are_those_without_an_error() -> None:
    receipts = {"taxi_to_gcs_parquet": {"sink": "gcs", "rows": 1}, "taxi_data_to_postgres": {"error": "refused"}}
    assert ledger.receipts_of({"receipts": receipts}) == [{"sink": "gcs", "rows": 1}]


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        ({}, True),
        ({"state": "failed"}, False),
        ({"pipeline": "api_to_gcs"}, False),
        ({"variables": {"color": "yellow"}}, False),
        ({"window_start": date(2021, 1, 1)}, False),
        ({"finished_at": datetime(2021, 4, 1, 1, tzinfo=UTC)}, False),
    ],
    ids=["it is done later", "it failed, too", "another pipeline", "another colour", "another window", "it was before"],
)
def test_a_failure_without_a_slice_is_shown_until_its_window_is_done(
    changed: dict[str, Any], gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = {"window_start": date(2021, 2, 1), "window_end": date(2021, 3, 1)}
    common = {"pipeline": "api_to_postgres", "variables": {"color": "green"}, **window}
    two, three = (datetime(2021, 4, 1, hour, tzinfo=UTC) for hour in (2, 3))
    nameless = {**common, "slice": str(ENTRY.window), "state": "failed", "finished_at": two}
    later = {**common, "slice": "green/2021-02", "state": "done", "finished_at": three}
    monkeypatch.setattr(ledger, "_read", lambda *_, **__: [nameless, {**later, **changed}])
    assert (nameless not in ledger.slices(cast(Any, None))) is gone
