"""Every block and pipeline of the project loads, in Mage as well, and is what the design promises."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from unittest.mock import patch

import pytest
import yaml
from jinja2 import Template

from mage_project.lib.runs.check import check_project
from mage_project.lib.runs.pipelines import FOLDERS, PROJECT, BlockSpec, PipelineSpec, pipeline_names, read_pipeline
from mage_project.lib.runs.window import CADENCES
from mage_project.lib.settings import ROOT
from mage_project.lib.settings.model import PROFILES

# A contract: names stay. Each block with the blocks that it takes its inputs from.
CONTRACT: dict[str, dict[str, list[str]]] = {
    "postgres_connection_test": {"postgres_connection_test": []},
    "api_to_postgres": {
        "load_api_data": [],
        "transform_taxi_data": ["load_api_data"],
        "taxi_data_to_postgres": ["transform_taxi_data"],
    },
    "taxi_zones_to_postgres": {"load_taxi_zones": [], "taxi_zones_to_postgres": ["load_taxi_zones"]},
    "api_to_gcs": {
        "load_api_data": [],
        "transform_taxi_data": ["load_api_data"],
        "taxi_to_gcs_parquet": ["transform_taxi_data"],
        "taxi_to_gcs_partitioned_parquet": ["transform_taxi_data"],
    },
    "daily_trips": {
        "load_daily_trips": [],
        "keep_execution_date": ["load_daily_trips"],
        "daily_trips_to_gcs": ["keep_execution_date"],
    },
    "gcs_to_bigquery": {
        "load_taxi_gcs": [],
        "standardize_column_names": ["load_taxi_gcs"],
        "write_taxi_to_bigquery": ["standardize_column_names"],
    },
    "big_query_test": {"big_query_test": []},
    "gcs_test": {"load_titanic": []},
}
CODE_LINES = 30

PIPELINES = [read_pipeline(name) for name in pipeline_names()]
BLOCKS = {block.path: block for pipeline in PIPELINES for block in pipeline.blocks}
PYTHON_BLOCKS = [block for block in BLOCKS.values() if block.language == "python"]
TESTED_BLOCKS = [block for block in PYTHON_BLOCKS if block.type in ("data_loader", "transformer")]


def name_of(spec: BlockSpec | PipelineSpec) -> str:
    return spec.uuid if isinstance(spec, BlockSpec) else spec.name


def decorated(path: Path) -> dict[str, list[str]]:
    """Give {decorator: names of the functions that carry it}."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        for decorator in getattr(node, "decorator_list", []):
            found.setdefault(ast.unparse(decorator), []).append(node.name)  # type: ignore[attr-defined]
    return found


def test_the_project_has_no_problem(tmp_path: Path) -> None:
    with patch.dict(os.environ, {"CANTRIP_HOME": str(tmp_path), "POSTGRES_HOST": "", "CANTRIP_PROFILE": ""}):
        report = check_project()
    assert report.problems == []
    assert (report.pipelines, report.blocks) == (len(PIPELINES), len(BLOCKS))


def test_every_pipeline_of_the_contract_is_there_and_no_other() -> None:
    assert sorted(CONTRACT) == pipeline_names()


@pytest.mark.parametrize("pipeline", PIPELINES, ids=name_of)
def test_a_pipeline_has_the_blocks_of_the_contract_in_their_order(pipeline: PipelineSpec) -> None:
    found = {block.uuid: list(block.upstream) for block in pipeline.blocks}
    assert found == CONTRACT[pipeline.name]
    assert list(found) == list(CONTRACT[pipeline.name])


@pytest.mark.parametrize("pipeline", PIPELINES, ids=name_of)
def test_a_pipeline_declares_its_windows(pipeline: PipelineSpec) -> None:
    assert pipeline.variables["cadence"] in CADENCES
    assert pipeline.variables["offset"] >= 0


@pytest.mark.parametrize("name", ["api_to_postgres", "api_to_gcs", "gcs_to_bigquery"])
def test_taxi_trips_are_loaded_by_month_two_months_late_and_yellow_by_default(name: str) -> None:
    variables = read_pipeline(name).variables
    assert (variables["cadence"], variables["offset"], variables["color"]) == ("month", 2, "yellow")


def test_a_day_of_trips_waits_until_its_month_is_published() -> None:
    variables = read_pipeline("daily_trips").variables
    assert (variables["cadence"], variables["color"]) == ("day", "yellow")
    # a month is published two months after it ended: its first day waits longest, for three months
    assert variables["offset"] >= 31 + 30 + 31


def test_the_bucket_gets_the_very_rows_that_the_warehouse_gets() -> None:
    warehouse, bucket = (read_pipeline(name).blocks[:2] for name in ("api_to_postgres", "api_to_gcs"))
    assert [block.path for block in bucket] == [block.path for block in warehouse]


@pytest.mark.parametrize(
    ("pipeline", "uuid", "type_", "language"),
    [
        ("big_query_test", "big_query_test", "data_loader", "sql"),
        ("gcs_test", "load_titanic", "data_loader", "python"),
        ("gcs_to_bigquery", "standardize_column_names", "transformer", "python"),
        ("gcs_to_bigquery", "write_taxi_to_bigquery", "data_exporter", "python"),
        ("api_to_gcs", "taxi_to_gcs_partitioned_parquet", "data_exporter", "python"),
        ("daily_trips", "daily_trips_to_gcs", "data_exporter", "python"),
    ],
)
def test_a_block_is_of_the_type_and_language_of_the_design(pipeline: str, uuid: str, type_: str, language: str) -> None:
    found = {block.uuid: (block.type, block.language) for block in read_pipeline(pipeline).blocks}
    assert found[uuid] == (type_, language)


@pytest.mark.parametrize("pipeline", PIPELINES, ids=name_of)
def test_downstream_mirrors_upstream_since_mage_reads_both(pipeline: PipelineSpec) -> None:
    document = yaml.safe_load(pipeline.path.read_text())
    assert document["uuid"] == document["name"] == pipeline.name
    downstream = {block["uuid"]: set(block["downstream_blocks"]) for block in document["blocks"]}
    for uuid, below in downstream.items():
        assert below == {block.uuid for block in pipeline.blocks if uuid in block.upstream}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=name_of)
def test_a_block_only_wires(block: BlockSpec) -> None:
    lines = [line.strip() for line in block.path.read_text().splitlines()]
    assert 0 < sum(bool(line) and not line.startswith("#") for line in lines) <= CODE_LINES


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=name_of)
def test_a_block_has_one_function_of_its_type_named_like_its_file(block: BlockSpec) -> None:
    assert decorated(block.path)[block.type] == [block.uuid]


@pytest.mark.parametrize("block", TESTED_BLOCKS, ids=name_of)
def test_a_loader_or_transformer_has_inline_tests_whose_names_are_sentences(block: BlockSpec) -> None:
    tests = decorated(block.path)["test"]
    assert tests
    assert all(len(name.split("_")) >= 3 for name in tests)


def test_no_block_lies_about_unused() -> None:
    files = {
        path for folder in FOLDERS.values() for path in (PROJECT / folder).glob("*.*") if path.name != "__init__.py"
    }
    assert files == set(BLOCKS)


def test_io_config_has_each_profile_with_the_same_keys_and_no_secret_in_it() -> None:
    assert (PROJECT / "io_config.yaml").resolve() == ROOT / "io_config.yaml"
    document = io_config(lambda name, *_: f"the environment, {name}")
    assert set(PROFILES) | {"default"} <= set(document)
    for profile in (*PROFILES, "default"):
        assert set(document[profile]) == set(document["default"])
        assert {"POSTGRES_PASSWORD", "GOOGLE_SERVICE_ACC_KEY_FILEPATH"} <= set(document[profile])
        for name, value in document[profile].items():
            assert name == "POSTGRES_CONNECT_TIMEOUT" or value == f"the environment, {name}"


@pytest.mark.parametrize("environment", [{}, {"GOOGLE_SERVICE_ACC_KEY_FILEPATH": ""}], ids=["unset", "empty"])
def test_without_a_key_file_mages_google_blocks_use_default_credentials(environment: dict[str, str]) -> None:
    for profile in (*PROFILES, "default"):
        assert io_config(environment.get)[profile]["GOOGLE_SERVICE_ACC_KEY_FILEPATH"] is None


def io_config(env_var: Callable[..., object]) -> dict[str, dict[str, object]]:
    """Read io_config.yaml as Mage does: as a template first, with `env_var` as os.getenv."""
    return yaml.safe_load(Template((ROOT / "io_config.yaml").read_text()).render(env_var=env_var))


LOADS_ALL = """
    import json, sys
    from mage_ai.settings.repo import set_repo_path
    project, *names = sys.argv[1:]
    set_repo_path(project)
    from mage_ai.data_preparation.models.pipeline import Pipeline
    found = {}
    for name in names:
        pipeline = Pipeline.get(name, repo_path=project)
        pipeline.validate()
        found[name] = {
            uuid: {"upstream": block.upstream_block_uuids, "type": str(block.type), "content": block.content}
            for uuid, block in pipeline.blocks_by_uuid.items()
        }
    print("FOUND " + json.dumps(found))
"""


def test_mage_itself_loads_every_pipeline_with_its_blocks(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MAGE_DATA_DIR": str(tmp_path / "data"),
        "MAGE_DATABASE_CONNECTION_URL": f"sqlite:///{tmp_path / 'mage.db'}",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", dedent(LOADS_ALL), str(PROJECT), *pipeline_names()],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert {
        name: {uuid: each["upstream"] for uuid, each in blocks.items()} for name, blocks in found.items()
    } == CONTRACT
    for pipeline in PIPELINES:
        for block in pipeline.blocks:
            assert found[pipeline.name][block.uuid]["content"] == block.path.read_text()
            assert found[pipeline.name][block.uuid]["type"] == block.type
