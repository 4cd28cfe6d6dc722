"""Exit codes and errors are a contract: 2 for usage and configuration, 1 for failures, one paragraph each."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from mage_project.lib.cli import main
from mage_project.lib.cli.main import cantrip, invoke
from mage_project.lib.errors import (
    CantripError,
    ConfigurationError,
    DataError,
    ReconciliationError,
    SinkError,
    SourceError,
)
from mage_project.lib.runs.check import Problem, Report

COMMANDS = sorted(cantrip.commands)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `cantrip clean` raise what the test says."""

    def arrange(error: BaseException) -> None:
        @click.command()
        def clean() -> None:
            raise error

        monkeypatch.setitem(cantrip.commands, "clean", clean)

    return arrange


def only_error(capsys: Capture) -> str:
    """Give the one line of standard error; nothing may be on standard output."""
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("POSTGRES_HOST is not set."), 2),
        (SourceError("green 2021-02: refused."), 1),
        (DataError("green 2021-02: cut short."), 1),
        (SinkError("the disk is full."), 1),
        (ReconciliationError("rows went missing."), 1),
        (CantripError("something of ours."), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_ours_is_one_paragraph_and_its_kind_decides_the_code(
    error: CantripError, code: int, failing: Callable, capsys: Capture
) -> None:
    failing(error)
    assert invoke(["clean"]) == code
    assert only_error(capsys) == str(error)


def test_an_error_of_others_is_one_paragraph_that_says_how_to_see_more(failing: Callable, capsys: Capture) -> None:
    failing(ZeroDivisionError("division by zero"))
    assert invoke(["clean"]) == 1
    assert only_error(capsys) == "ZeroDivisionError: division by zero. Run it with --debug for more."


@pytest.mark.parametrize("arguments", [["--debug", "clean"], ["clean", "--debug"]])
def test_a_traceback_comes_only_with_debug_wherever_it_stands(
    arguments: list[str], failing: Callable, capsys: Capture
) -> None:
    failing(DataError("cut short."))
    assert invoke(arguments) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.splitlines()[-1] == "error: cut short."


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["Ctrl-C", "abort"])
def test_an_interrupted_command_ends_with_130(error: BaseException, failing: Callable, capsys: Capture) -> None:
    failing(error)
    assert invoke(["clean"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_main_exits_with_the_code(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main.main(["frobnicate"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["run"], "Missing argument 'PIPELINE'"),
        (["run", "api_to_postgres", "--wat"], "No such option: --wat"),
        (["run", "api_to_postgres", "--date"], "requires an argument"),
        (["runs", "--limit", "ten"], "'ten' is not a valid integer"),
        (["ui", "--port", "http"], "'http' is not a valid integer"),
        (["check", "everything"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_2_and_says_what_is_wrong(arguments: list[str], said: str, capsys: Capture) -> None:
    assert invoke(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "api_to_postgre"], r"there is no pipeline 'api_to_postgre'. Did you mean api_to_postgres?"),
        (["run", "api_to_postgres", "--date", "10.2.2021"], "'10.2.2021' is not a date. Write it as YYYY-MM-DD"),
        (["run", "api_to_postgres", "--date", "2021-02-30"], "'2021-02-30' is not a date"),
        (["run", "api_to_postgres", "--var", "color"], "--var 'color' is not NAME=VALUE"),
        (["run", "api_to_postgres", "--var", "colour=green"], "no variable 'colour'; it declares cadence, color"),
        (["run", "api_to_postgres", "--profile", "prod"], "CANTRIP_PROFILE is 'prod'; it must be one of local"),
        (["run", "api_to_postgres", "--profile", "staging"], "POSTGRES_HOST is not set, and the profile is staging"),
        (["run", "api_to_postgres", "--date", "2021-02-10"], "Start it with `./cantrip up`"),
        (["run", "api_to_postgres", "--date", "2021-02-10", "--json"], "Start it with `./cantrip up`"),
        (["ledger"], "Start it with `./cantrip up`"),
        (["ledger", "--json"], "Start it with `./cantrip up`"),
        (["runs"], "Start it with `./cantrip up`"),
        (["up", "--with", "snowflake"], "--with 'snowflake' is not a service; there are source"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_configuration_is_2_and_one_paragraph_with_the_remedy(
    arguments: list[str], said: str, capsys: Capture
) -> None:
    assert invoke(arguments) == 2
    assert said in only_error(capsys)


def test_a_wrong_variable_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("TAXI_FORMAT", "xlsx")
    assert invoke(["status"]) == 2
    assert only_error(capsys) == "TAXI_FORMAT is 'xlsx'; it must be one of parquet, csv.gz, csv."


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_teaches_with_an_example(command: str, capsys: Capture) -> None:
    for option in ("-h", "--help"):
        assert invoke([command, option]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert "./cantrip" in text or "make demo" in text


def test_without_a_command_the_help_lists_them_all(capsys: Capture) -> None:
    invoke([])
    printed = capsys.readouterr()
    assert all(command in printed.out + printed.err for command in COMMANDS)
    assert {"up", "down", "status", "run", "check", "ledger", "runs", "clean", "ui", "demo"} <= set(COMMANDS)


def test_status_of_an_empty_home_is_one_document_and_starts_nothing(capsys: Capture) -> None:
    assert invoke(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["postgres"]["url"], document["postgres"]["running"], document["mage"]) == (
        None,
        False,
        {"database": None},
    )
    assert invoke(["status"]) == 0
    assert "./cantrip up starts it" in capsys.readouterr().out
    assert not Path(os.environ["CANTRIP_HOME"]).exists()


def test_status_for_people_shows_no_password(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    given = {"HOST": "db.example", "USER": "loader", "PASSWORD": "hunter2", "DBNAME": "warehouse"}
    for name, value in given.items():
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    assert invoke(["status"]) == 0
    shown = capsys.readouterr().out
    assert "postgresql://loader@db.example:5432/warehouse" in shown
    assert "hunter2" not in shown


def test_clean_of_an_empty_home_says_that_nothing_was_freed(capsys: Capture) -> None:
    assert invoke(["clean"]) == 0
    assert capsys.readouterr().out.count("0.00") == 3


class TestCheck:
    @pytest.fixture
    def report(self, monkeypatch: pytest.MonkeyPatch) -> Report:
        report = Report(pipelines=3, blocks=6, modules=40)
        monkeypatch.setattr("mage_project.lib.cli.upkeep.check_project", lambda: report)
        return report

    def test_without_a_problem_it_ends_with_0(self, report: Report, capsys: Capture) -> None:
        assert invoke(["check"]) == 0
        assert "3 pipelines, 6 blocks, 40 modules: all is well" in capsys.readouterr().out

    def test_each_problem_is_a_line_with_file_and_line_and_it_ends_with_2(
        self, report: Report, capsys: Capture
    ) -> None:
        report.problems.append(Problem("mage_project/transformers/clean.py", 7, "has no inline @test"))
        assert invoke(["check"]) == 2
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "mage_project/transformers/clean.py:7: has no inline @test"
        assert "1 problems" in lines[1]

    def test_json_is_one_document(self, report: Report, capsys: Capture) -> None:
        report.problems.append(Problem("a.py", 7, "wrong"))
        assert invoke(["check", "--json"]) == 2
        document = json.loads(capsys.readouterr().out)
        assert document["problems"] == [{"file": "a.py", "line": 7, "text": "wrong"}]


@pytest.mark.parametrize("name", ["date", "cadence", "offset"])
def test_a_variable_that_would_not_move_the_window_is_refused(capsys: Capture, name: str) -> None:
    assert invoke(["run", "api_to_postgres", "--var", f"{name}=2021-02-10"]) == 2
    assert "Use --date 2021-02-10" in capsys.readouterr().err
