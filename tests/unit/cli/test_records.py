"""The ledger's table: what each sink holds of a slice side by side, whatever became of the newest attempts."""

from datetime import date
from typing import Any

import pytest

from mage_project.lib.cli.records import _document, _line, _rows_in, _state

SLICE = "green/2021-01"
IN_POSTGRES = "db:5432/x/ny_taxi.green_cab_data"
IN_OBJECT = "gs://trips/ny_taxi_data/green_2021-01.parquet"
IN_FILES = "gs://trips/nyc_taxi_data/green/_manifests/2021-01.json"
IN_BIGQUERY = "acme.ny_taxi.green_cab_data"
SINK_OF = {IN_POSTGRES: "postgres", IN_OBJECT: "gcs", IN_FILES: "gcs", IN_BIGQUERY: "bigquery"}
PIPELINE_OF = {"postgres": "api_to_postgres", "gcs": "api_to_gcs", "bigquery": "gcs_to_bigquery"}


def attempt(pipeline: str = "api_to_postgres", slice: str = SLICE, **facts: Any) -> dict[str, Any]:
    """Give the newest entry of a slice, as `ledger.slices` does."""
    window = {"window_start": date(2021, 1, 1), "window_end": date(2021, 2, 1)}
    counts = {"fetched": 720, "kept": 701, "dropped": {"zero_passengers": 15, "negative_fare": 4}}
    origin = {"source": "https://tlc.example/green_tripdata_2021-01.parquet", "finished_at": 1}
    return {"pipeline": pipeline, "slice": slice, "state": "done", "error": None, **origin, **window, **counts, **facts}


def failed(pipeline: str = "api_to_postgres", **facts: Any) -> dict[str, Any]:
    unknown: dict[str, Any] = {"fetched": None, "kept": None, "dropped": {}}
    return attempt(pipeline, **{**unknown, "state": "failed", "error": "the disk is full.", **facts})


def held(where: str, rows: int = 701, slice: str = SLICE, **facts: Any) -> dict[str, Any]:
    """Give what a place holds of a slice, as `ledger.stored` does."""
    sink = SINK_OF[where]
    copy = {"fetched": rows, "kept": rows, "dropped": {}} if sink == "bigquery" else {"kept": rows}
    receipt = {"sink": sink, "where": where, "slice": slice, "rows": rows}
    return {**attempt(PIPELINE_OF[sink], slice, **copy), "receipt": receipt, **facts}


EVERYWHERE = [held(IN_BIGQUERY), held(IN_POSTGRES), held(IN_FILES), held(IN_OBJECT)]
ATTEMPTS = [attempt("api_to_gcs"), attempt("api_to_postgres"), attempt("gcs_to_bigquery", fetched=701, dropped={})]


def line(
    rows: list[dict[str, Any]], stored: list[dict[str, Any]], differences: dict[tuple[str, str], str] | None = None
) -> dict[str, Any]:
    columns = ("slice", "window", "fetched", "kept", "dropped", "postgres", "gcs", "bigquery", "source", "state")
    return dict(zip(columns, _line(SLICE, rows, stored, differences or {}), strict=True))


def test_the_three_sinks_stand_side_by_side() -> None:
    assert line(ATTEMPTS, EVERYWHERE) == {
        "slice": SLICE,
        "window": "2021-01-01 to 2021-02-01",
        "fetched": 720,
        "kept": 701,
        "dropped": "15 zero_passengers, 4 negative_fare",
        "postgres": 701,
        "gcs": 701,
        "bigquery": 701,
        "source": "tlc.example",
        "state": "done",
    }


@pytest.mark.parametrize("stored", [EVERYWHERE, EVERYWHERE[::-1]], ids=["a copy first", "a copy last"])
def test_what_was_fetched_is_the_publishers_count_and_not_a_copys(stored: list[dict[str, Any]]) -> None:
    shown = line(ATTEMPTS, stored)
    assert (shown["fetched"], shown["dropped"]) == (720, "15 zero_passengers, 4 negative_fare")


def test_what_was_fetched_is_what_the_newest_load_fetched() -> None:
    older, newer = held(IN_POSTGRES), held(IN_FILES, fetched=900, finished_at=2, dropped={"zero_passengers": 0})
    for stored in ([older, newer], [newer, older]):
        shown = line(ATTEMPTS, stored)
        assert (shown["fetched"], shown["dropped"]) == (900, "")


def test_a_month_that_nobody_published_is_said_to_be_generated() -> None:
    generated = held(IN_FILES, source="http://127.0.0.1:5000/generated/trip-data/green_tripdata_2021-01.parquet")
    assert line(ATTEMPTS, [generated])["source"] == "generated"
    assert line(ATTEMPTS, [generated, held(IN_POSTGRES)])["source"] == "generated and tlc.example"


@pytest.mark.parametrize(
    ("landed", "loaded", "state"),
    [("a1", "a1", "done"), ("b2", "a1", "bigquery is behind gcs"), ("b2", None, "done"), (None, None, "done")],
)
def test_bigquery_that_loaded_other_files_than_landed_since_is_behind(
    landed: str | None, loaded: str | None, state: str
) -> None:
    files, copy, one = held(IN_FILES), held(IN_BIGQUERY), held(IN_OBJECT)
    files["receipt"]["content"], copy["receipt"]["content"], one["receipt"]["content"] = landed, loaded, "crc"
    assert line(ATTEMPTS, [files, copy, one])["state"] == state


def test_a_slice_that_only_the_copy_holds_shows_the_copys_counts() -> None:
    shown = line([ATTEMPTS[2]], [held(IN_BIGQUERY)])
    assert (shown["fetched"], shown["kept"], shown["dropped"]) == (701, 701, "")
    assert (shown["postgres"], shown["gcs"], shown["bigquery"]) == (None, None, 701)


def test_a_sink_that_holds_nothing_is_empty_and_no_difference() -> None:
    shown = line([attempt()], [held(IN_POSTGRES)])
    assert (shown["postgres"], shown["gcs"], shown["bigquery"], shown["state"]) == (701, None, None, "done")


def test_a_slice_of_no_rows_is_held_with_none() -> None:
    shown = line([attempt(kept=0)], [held(IN_POSTGRES, rows=0)])
    assert (shown["postgres"], shown["state"]) == (0, "done")


@pytest.mark.parametrize("where", [IN_POSTGRES, IN_OBJECT, IN_BIGQUERY])
def test_sinks_that_hold_other_rows_are_told(where: str) -> None:
    stored = [held(where, rows=1_700) if each["receipt"]["where"] == where else each for each in EVERYWHERE]
    assert line(ATTEMPTS, stored)["state"] == "sinks differ"


def test_places_of_one_sink_that_differ_show_each_of_their_counts() -> None:
    stored = [held(IN_OBJECT, rows=1_700), held(IN_FILES, rows=701)]
    assert _rows_in("gcs", stored) == "701 or 1,700"
    assert _rows_in("postgres", stored) is None
    assert line([attempt("api_to_gcs")], stored)["state"] == "sinks differ"


def test_places_of_one_sink_that_agree_are_one_number() -> None:
    assert _rows_in("gcs", [held(IN_OBJECT), held(IN_FILES)]) == 701


def test_the_last_attempt_that_failed_leaves_what_the_slice_holds() -> None:
    shown = line([failed()], [held(IN_POSTGRES)])
    assert (shown["fetched"], shown["kept"], shown["dropped"][:2], shown["postgres"]) == (720, 701, "15", 701)
    assert shown["state"] == "last attempt failed"


def test_an_attempt_that_failed_in_one_pipeline_is_told_beside_others_that_are_done() -> None:
    assert line([failed("gcs_to_bigquery"), *ATTEMPTS[:2]], EVERYWHERE)["state"] == "last attempt failed"


def test_a_failed_attempt_does_not_hide_that_sinks_differ() -> None:
    shown = line([failed()], [held(IN_POSTGRES), held(IN_OBJECT, rows=1)])
    assert shown["state"] == "sinks differ, last attempt failed"


def test_a_slice_that_never_succeeded_holds_nothing() -> None:
    shown = line([failed()], [])
    assert [shown[name] for name in ("fetched", "kept", "dropped", "postgres", "gcs", "bigquery")] == [None] * 6
    assert shown["state"] == "failed"


def test_a_count_that_differs_from_the_ledger_stands_first() -> None:
    found = {(SLICE, IN_POSTGRES): "700 rows in ny_taxi.green_cab_data, 701 in the ledger"}
    assert line([failed()], EVERYWHERE, found)["state"] == "not as the ledger says, last attempt failed"
    assert _state("green/2021-02", [attempt()], [held(IN_POSTGRES)], found) == "done"


def test_another_slices_rows_are_not_counted_in() -> None:
    other = held(IN_OBJECT, rows=5, slice="yellow/2021-01")
    shown = line([attempt(), attempt("api_to_gcs", "yellow/2021-01")], [held(IN_POSTGRES), other])
    assert (shown["gcs"], shown["state"]) == (None, "done")


class TestDocument:
    """`--json` gives the newest attempt, the receipts of what its pipeline stored, and what a count found."""

    def test_holds_the_receipts_of_its_pipeline_and_slice(self) -> None:
        stored = [*EVERYWHERE, held(IN_OBJECT, slice="yellow/2021-01")]
        document = _document(attempt("api_to_gcs"), stored, {})
        assert document == {
            **attempt("api_to_gcs"),
            "stored": [held(IN_FILES)["receipt"], held(IN_OBJECT)["receipt"]],
            "difference": None,
        }
        assert "held" not in document

    def test_of_an_attempt_that_failed_says_what_is_still_stored(self) -> None:
        document = _document(failed(), [held(IN_POSTGRES)], {})
        assert (document["state"], document["error"]) == ("failed", "the disk is full.")
        assert document["stored"] == [held(IN_POSTGRES)["receipt"]]

    def test_says_every_difference_of_its_own_places(self) -> None:
        found = {
            (SLICE, IN_OBJECT): "it is gone",
            (SLICE, IN_FILES): "a.parquet is missing",
            (SLICE, IN_POSTGRES): "700 rows, 701 in the ledger",
            ("yellow/2021-01", IN_FILES): "not of this slice",
        }
        assert _document(attempt("api_to_gcs"), EVERYWHERE, found)["difference"] == "a.parquet is missing; it is gone"
