"""A manifest's text: what lies where, and the first files, short enough for a notebook."""

from typing import Any

from mage_project.lib.preview import PREVIEW_ROWS, describe_files


def facts_of_files(count: int, *, bytes: int = 1_500_000, notices: tuple[str, ...] = ()) -> dict[str, Any]:
    path = "nyc/green/pickup_date=2021-01-{:02}/a.parquet"
    files = [{"path": path.format(day), "rows": 1000 + day, "bytes": bytes} for day in range(1, count + 1)]
    return {
        "rows": sum(file["rows"] for file in files),
        "slice": "green/2021-01",
        "bucket": "trips",
        "path": "nyc/green/_manifests/2021-01.json",
        "source": "http://tlc/x",
        "notices": notices,
        "files": files,
    }


def test_it_says_how_many_rows_and_megabytes_lie_where_and_where_they_come_from() -> None:
    lines = describe_files(facts_of_files(31, notices=("renamed: 'VendorID' to vendorid",))).splitlines()
    assert lines[:5] == [
        "31,496 rows of green/2021-01 in 31 Parquet files, 46.5 MB",
        "gs://trips/nyc/green/_manifests/2021-01.json",
        "from http://tlc/x",
        "renamed: 'VendorID' to vendorid",
        "",
    ]


def test_it_lists_the_first_files_only() -> None:
    lines = describe_files(facts_of_files(31)).splitlines()
    listed = lines[lines.index(f"The first {PREVIEW_ROWS} files:") + 1 :]
    assert len(listed) == PREVIEW_ROWS
    assert listed[0] == "    1,001 rows  nyc/green/pickup_date=2021-01-01/a.parquet"


def test_of_few_files_it_says_how_few() -> None:
    assert describe_files(facts_of_files(2)).splitlines()[4] == "The first 2 files:"


def test_no_file_at_all_is_described_too() -> None:
    text = describe_files(facts_of_files(0))
    assert text.startswith("0 rows of green/2021-01 in 0 Parquet files, 0.0 MB\n")
    assert text.endswith("The first 0 files:")
