"""What commands print: tables for people, one JSON document for programs, and Mage's chatter in a file."""

import io
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from textwrap import dedent

import pytest
from rich.console import Console

from mage_project.lib.cli import screen
from mage_project.lib.settings import ROOT


def table_of(columns: list[str], rows: list[list], title: str = "") -> list[str]:
    out = io.StringIO()
    screen.print_table(title, columns, rows, Console(file=out, width=120))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_numbers_stand_right_with_thousands_separated() -> None:
    assert table_of(["slice", "rows", "seconds"], [["green/2021-02", 64_541, 1.5], ["zones", 265, None]]) == [
        "slice            rows  seconds",
        "green/2021-02  64,541     1.50",
        "zones             265",
    ]


def test_dates_truth_and_nothing_are_written_for_people() -> None:
    lines = table_of(["a", "b", "c", "d"], [[datetime(2021, 2, 1, 9, 5, tzinfo=UTC), date(2021, 2, 1), True, None]])
    assert lines[1].split("  ") == ["2021-02-01 09:05:00", "2021-02-01", "yes"]


def test_a_column_of_words_and_numbers_stands_left() -> None:
    assert table_of(["where"], [["here"], [12]])[2] == "12"


def test_brackets_in_a_value_are_no_markup() -> None:
    for text in ("KeyError: ['fare']", "[fare_amount] is missing", "[bold]", "[/]"):
        assert table_of(["error"], [[text]])[1] == text


def test_a_table_without_rows_is_its_head() -> None:
    assert table_of(["a", "b"], [], title="None") == ["None", "a  b"]


def test_outside_a_terminal_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_table("", ["slice", "where"], [["green/2021-02", "x" * 100]])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_json_is_one_document_with_dates_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_json({"day": date(2021, 2, 1), "at": datetime(2021, 2, 1, tzinfo=UTC), "path": Path("a/b"), "n": 1})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"day": "2021-02-01", "at": "2021-02-01T00:00:00+00:00", "path": "a/b", "n": 1}
    assert printed.err == ""


CHATTY = """
    import logging, os, subprocess, sys
    from pathlib import Path
    from mage_project.lib.cli.screen import chatter_to
    logging.getLogger("mage_project").setLevel(logging.WARNING)
    print("before")
    try:
        with chatter_to(Path(sys.argv[1]), debug=sys.argv[2] == "debug") as (out, err):
            print("printed by Mage")
            os.write(2, b"written by a driver\\n")
            subprocess.run(["echo", "said by a child"])
            print("for the user", file=out, flush=True)
            logging.getLogger("mage_project.lib").warning("a warning of ours")
            logging.getLogger("mage_project.lib").info("a detail of ours")
            if sys.argv[2] == "raise":
                raise KeyError("block")
    except KeyError:
        pass
    print("after")
"""


def chatter(tmp_path: Path, how: str) -> tuple[str, str, str]:
    log = tmp_path / "logs" / "runs.log"
    done = subprocess.run(
        [sys.executable, "-c", dedent(CHATTY), str(log), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("how", ["quiet", "raise"])
def test_what_mage_prints_goes_to_the_log_and_ours_to_the_user(how: str, tmp_path: Path) -> None:
    out, err, log = chatter(tmp_path, how)
    assert out == "before\nfor the user\nafter\n"
    assert err == "a warning of ours\n"
    assert {"printed by Mage", "written by a driver", "said by a child"} <= set(log.splitlines())


def test_with_debug_everything_stays_on_the_screen(tmp_path: Path) -> None:
    out, err, log = chatter(tmp_path, "debug")
    assert "printed by Mage" in out
    assert "written by a driver" in err
    assert log == ""


def test_the_log_is_appended_to(tmp_path: Path) -> None:
    chatter(tmp_path, "quiet")
    assert chatter(tmp_path, "quiet")[2].count("printed by Mage") == 2


def test_our_logger_keeps_no_handler_of_a_run_that_ended(tmp_path: Path) -> None:
    before = list(logging.getLogger("mage_project").handlers)
    with screen.chatter_to(tmp_path / "log", debug=True) as (out, err):
        assert (out, err) == (sys.stdout, sys.stderr)
    assert logging.getLogger("mage_project").handlers == before
