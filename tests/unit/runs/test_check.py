"""What would fail later is said now, with its file and line, for each way to break a project."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mage_project.lib.runs.check import Problem, check_project

LOADER = """\
if "data_loader" not in globals():
    from mage_ai.data_preparation.decorators import data_loader
if "test" not in globals():
    from mage_ai.data_preparation.decorators import test


@data_loader
def load(*args, **kwargs):
    return [1]


@test
def has_rows(output, *args):
    assert output
"""
EXPORTER = """\
if "data_exporter" not in globals():
    from mage_ai.data_preparation.decorators import data_exporter


@data_exporter
def export(data, *args, **kwargs):
    return data
"""
TRANSFORMER = LOADER.replace("data_loader", "transformer").replace("def load(*args", "def clean(data, *args")


class Project:
    """A small Mage project that is well: load → clean → export. Tests break it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("data_loaders/load.py", LOADER)
        self.write("transformers/clean.py", TRANSFORMER)
        self.write("data_exporters/export.py", EXPORTER)
        self.blocks = [
            {"uuid": "load", "type": "data_loader", "language": "python", "upstream_blocks": []},
            {"uuid": "clean", "type": "transformer", "language": "python", "upstream_blocks": ["load"]},
            {"uuid": "export", "type": "data_exporter", "language": "python", "upstream_blocks": ["clean"]},
        ]
        self.variables: dict[str, object] = {"cadence": "month", "offset": 2, "color": "green"}

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def check(self) -> list[Problem]:
        document = {"blocks": self.blocks, "variables": self.variables}
        self.write("pipelines/trips/metadata.yaml", yaml.safe_dump(document, sort_keys=False))
        return check_project(self.folder).problems

    def only_problem(self, file: str, line_holds: str) -> str:
        """Expect one problem, in this file and at the line that holds this text; give what it says."""
        problems = self.check()
        assert [problem.file for problem in problems] == [f"project/{file}"], problems
        lines = (self.folder / file).read_text().splitlines()
        assert line_holds in lines[problems[0].line - 1], problems
        return problems[0].text


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    path = list(sys.path)
    yield Project(tmp_path / "project")
    sys.path[:] = path


METADATA = "pipelines/trips/metadata.yaml"


def test_a_project_that_is_well_has_no_problem(project: Project) -> None:
    assert project.check() == []
    report = check_project(project.folder)
    assert (report.pipelines, report.blocks) == (1, 3)


def test_an_empty_project_has_no_problem(tmp_path: Path) -> None:
    assert check_project(tmp_path / "project").problems == []


class TestBlocks:
    def test_a_syntax_error(self, project: Project) -> None:
        project.write("data_loaders/load.py", LOADER.replace("return [1]", "return [1"))
        assert project.only_problem("data_loaders/load.py", "return [1") == "does not parse: '[' was never closed"

    def test_a_file_that_is_missing(self, project: Project) -> None:
        (project.folder / "transformers" / "clean.py").unlink()
        assert "block 'clean' has no file project/transformers/clean.py" in project.only_problem(METADATA, "clean")

    def test_an_import_that_fails(self, project: Project) -> None:
        project.write("transformers/clean.py", "x = 1\nimport no_such_module_at_all\n" + TRANSFORMER)
        text = project.only_problem("transformers/clean.py", "import no_such_module_at_all")
        assert text == "can't be imported: ModuleNotFoundError: No module named 'no_such_module_at_all'"

    def test_top_level_code_that_raises(self, project: Project) -> None:
        project.write("transformers/clean.py", TRANSFORMER + "\nLIMIT = 1 / 0\n")
        assert "ZeroDivisionError" in project.only_problem("transformers/clean.py", "LIMIT = 1 / 0")

    def test_a_missing_decorator(self, project: Project) -> None:
        project.write("data_loaders/load.py", LOADER.replace("@data_loader\n", ""))
        assert project.only_problem("data_loaders/load.py", "") == "no function is decorated with @data_loader"

    def test_the_decorator_of_another_type(self, project: Project) -> None:
        project.write("transformers/clean.py", LOADER.replace("*args", "data, *args"))
        assert project.only_problem("transformers/clean.py", "") == "no function is decorated with @transformer"

    @pytest.mark.parametrize("kept", ["", 'if "test" not in globals():\n    test = None\n'])
    def test_a_decorator_that_is_imported_without_the_guard(self, kept: str, project: Project) -> None:
        line = "from mage_ai.data_preparation.decorators import data_loader"
        project.write(
            "data_loaders/load.py", kept + LOADER.replace(f'if "data_loader" not in globals():\n    {line}', line)
        )
        text = project.only_problem("data_loaders/load.py", line)
        assert "import decorators only under `if 'name' not in globals():`" in text

    @pytest.mark.parametrize(
        ("signature", "text"),
        [
            ("()", "takes 0 inputs, but has 1 upstream blocks in trips"),
            ("(**kwargs)", "takes 0 inputs, but has 1 upstream blocks in trips"),
            ("(data, zones, *args, **kwargs)", "needs 2 inputs, but has 1 upstream blocks in trips"),
            ("(data, limit=10, **kwargs)", "needs 2 inputs, but has 1 upstream blocks in trips"),
            ("(data, *args, limit, **kwargs)", "needs 2 inputs, but has 1 upstream blocks in trips"),
        ],
    )
    def test_parameters_that_do_not_fit_the_upstream_blocks(self, signature: str, text: str, project: Project) -> None:
        project.write("transformers/clean.py", TRANSFORMER.replace("(data, *args, **kwargs)", signature))
        assert project.only_problem("transformers/clean.py", "@transformer") == text

    @pytest.mark.parametrize("signature", ["(data)", "(data, *args)", "(*args, **kwargs)", "(data, **kwargs)"])
    def test_parameters_that_fit(self, signature: str, project: Project) -> None:
        project.write("transformers/clean.py", TRANSFORMER.replace("(data, *args, **kwargs)", signature))
        assert project.check() == []

    @pytest.mark.parametrize(
        ("file", "source"), [("data_loaders/load.py", LOADER), ("transformers/clean.py", TRANSFORMER)]
    )
    def test_a_loader_or_transformer_without_a_test(self, file: str, source: str, project: Project) -> None:
        project.write(file, source.replace("@test\n", ""))
        assert project.only_problem(file, "@data_loader" if "load" in file else "@transformer") == "has no inline @test"

    def test_an_undeclared_variable_of_an_sql_block(self, project: Project) -> None:
        project.write("data_loaders/ask.sql", "SELECT 1\nWHERE '{{ color }}' = '{{ colour }}'\nAND '{{ ds }}' > ''\n")
        project.blocks.append({"uuid": "ask", "type": "data_loader", "language": "sql"})
        text = project.only_problem("data_loaders/ask.sql", "{{ colour }}")
        assert text == "the variable 'colour' is not declared in trips"


class TestGraph:
    def test_an_unknown_upstream_block(self, project: Project) -> None:
        project.blocks[1]["upstream_blocks"] = ["extract"]
        assert project.only_problem(METADATA, "- extract") == "block 'clean' needs 'extract', which is not in it"

    def test_a_cycle(self, project: Project) -> None:
        project.write("data_loaders/load.py", LOADER.replace("def load(*args", "def load(data, *args"))
        project.blocks[0]["upstream_blocks"] = ["clean"]
        assert project.only_problem(METADATA, "load") == "a cycle: load → clean → load"

    def test_a_block_that_needs_itself(self, project: Project) -> None:
        project.blocks[2]["upstream_blocks"] = ["export"]
        assert project.only_problem(METADATA, "export") == "a cycle: export → export"

    def test_a_diamond_is_no_cycle(self, project: Project) -> None:
        project.write("data_exporters/both.py", EXPORTER.replace("(data,", "(data, other,"))
        project.blocks.append({"uuid": "both", "type": "data_exporter", "upstream_blocks": ["clean", "load"]})
        assert project.check() == []

    def test_a_block_that_is_listed_twice(self, project: Project) -> None:
        project.blocks.append(dict(project.blocks[0]))
        assert project.only_problem(METADATA, "uuid: load") == "block 'load' is listed twice"

    def test_a_name_within_another_does_not_lead_to_the_wrong_line(self, project: Project) -> None:
        project.write("data_loaders/load_more.py", LOADER)
        project.blocks.insert(0, {"uuid": "load_more", "type": "data_loader", "upstream_blocks": []})
        (project.folder / "data_loaders" / "load.py").unlink()
        assert "'load'" in project.only_problem(METADATA, "uuid: load")

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("cadence", "hour", "cadence 'hour' is none of day, week, month"),
            ("offset", "two", "offset 'two' is not a number of windows"),
            ("offset", -1, "offset -1 is not a number of windows"),
        ],
    )
    def test_a_window_that_can_not_be_computed(self, name: str, value: object, text: str, project: Project) -> None:
        project.variables[name] = value
        assert project.only_problem(METADATA, f"{name}:") == text

    @pytest.mark.parametrize(
        "text", ["blocks: [load]", "- a list", "blocks:\n- {type: data_loader}", "blocks: {", "variables: 3"]
    )
    def test_metadata_that_is_no_pipeline(self, text: str, project: Project) -> None:
        project.write("pipelines/broken/metadata.yaml", text)
        problems = project.check()
        assert [problem.file for problem in problems] == ["project/pipelines/broken/metadata.yaml"]
        assert problems[0].text.startswith("can't be read as a pipeline: ")


class TestTriggers:
    TRIGGERS = "pipelines/trips/triggers.yaml"

    @pytest.mark.parametrize("interval", ["61 * * * *", "every day", "@sometimes", "* * *"])
    def test_a_schedule_that_is_no_cron(self, interval: str, project: Project) -> None:
        project.write(self.TRIGGERS, f"triggers:\n- name: monthly\n  schedule_interval: '{interval}'\n")
        text = project.only_problem(self.TRIGGERS, interval)
        assert text == f"schedule {interval!r} is neither cron nor one of Mage's words"

    @pytest.mark.parametrize("interval", ["0 3 2 * *", "@daily", "@monthly", "@once", "@always_on"])
    def test_a_schedule_that_mage_knows(self, interval: str, project: Project) -> None:
        project.write(self.TRIGGERS, f"triggers:\n- name: monthly\n  schedule_interval: '{interval}'\n")
        assert project.check() == []

    @pytest.mark.parametrize("text", ["triggers: [", "- a\n- b", "triggers: [a]", "triggers: 3"])
    def test_a_file_that_can_not_be_read(self, text: str, project: Project) -> None:
        project.write(self.TRIGGERS, text)
        assert project.only_problem(self.TRIGGERS, "").startswith("can't be read: ")


class TestEnvironment:
    CONFIG = "version: 0.1.1\ndefault:\n  A: \"{{ env_var('SOME_KEY') }}\"\n  B: \"{{ env_var('PORT', '5432') }}\"\n"

    def test_an_unset_variable_of_the_configuration(self, project: Project) -> None:
        project.write("io_config.yaml", self.CONFIG)
        text = project.only_problem("io_config.yaml", "SOME_KEY")
        assert text == "the variable SOME_KEY is not set. Set it in .env (dev.env describes it)"

    @pytest.mark.parametrize(("value", "problems"), [("x", 0), ("", 1)])
    def test_a_variable_counts_when_it_has_a_value(
        self, value: str, problems: int, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOME_KEY", value)
        project.write("io_config.yaml", self.CONFIG)
        assert len(project.check()) == problems

    def test_the_servers_variables_come_with_the_embedded_one(self, project: Project) -> None:
        project.write("io_config.yaml", self.CONFIG.replace("SOME_KEY", "POSTGRES_HOST"))
        assert project.check() == []

    def test_settings_that_can_not_be_read(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CANTRIP_PROFILE", "prod")
        project.write("io_config.yaml", self.CONFIG)
        assert "CANTRIP_PROFILE is 'prod'" in project.only_problem("io_config.yaml", "version")


def test_all_problems_are_said_at_once_in_order(project: Project) -> None:
    project.write("data_loaders/load.py", "def load(:\n")
    (project.folder / "transformers" / "clean.py").unlink()
    project.write("data_exporters/export.py", EXPORTER.replace("@data_exporter\n", ""))
    assert [problem.file for problem in project.check()] == [
        "project/data_exporters/export.py",
        "project/data_loaders/load.py",
        f"project/{METADATA}",
    ]


def test_a_block_of_two_pipelines_is_counted_once_and_checked_against_both(project: Project) -> None:
    project.check()
    shutil.copytree(project.folder / "pipelines" / "trips", project.folder / "pipelines" / "other")
    other = project.folder / "pipelines" / "other" / "metadata.yaml"
    document = yaml.safe_load(other.read_text())
    document["blocks"][1]["upstream_blocks"] = []
    other.write_text(yaml.safe_dump(document))
    report = check_project(project.folder)
    assert (report.pipelines, report.blocks) == (2, 3)
    assert [problem.text for problem in report.problems] == ["needs 1 inputs, but has 0 upstream blocks in other"]
