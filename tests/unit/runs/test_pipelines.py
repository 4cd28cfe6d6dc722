"""Pipelines are read as Mage's YAML declares them, without Mage."""

from pathlib import Path

import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.runs.pipelines import pipeline_names, read_pipeline

TRIPS = """
blocks:
- {uuid: load, type: data_loader, language: python, upstream_blocks: [], downstream_blocks: [clean]}
- {uuid: clean, type: transformer, upstream_blocks: [load]}
- {uuid: ask, type: data_loader, language: sql, upstream_blocks: []}
- {uuid: open, type: conditional, upstream_blocks: []}
- {uuid: dim, type: dbt, language: sql, configuration: {file_path: dbt/models/dim.sql}}
variables: {cadence: month, offset: 2, color: yellow}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (("trips", TRIPS), ("zones", "blocks: []"), ("bare", "")):
        folder = tmp_path / "pipelines" / name
        folder.mkdir(parents=True)
        (folder / "metadata.yaml").write_text(text)
    (tmp_path / "pipelines" / "no_pipeline").mkdir()
    return tmp_path


def test_a_pipeline_is_a_folder_with_metadata(project: Path) -> None:
    assert pipeline_names(project) == ["bare", "trips", "zones"]


def test_blocks_stand_in_the_files_order_with_their_files(project: Path) -> None:
    blocks = read_pipeline("trips", project).blocks
    assert [block.uuid for block in blocks] == ["load", "clean", "ask", "open", "dim"]
    assert [str(block.path.relative_to(project)) for block in blocks] == [
        "data_loaders/load.py",
        "transformers/clean.py",
        "data_loaders/ask.sql",
        "conditionals/open.py",
        "dbt/models/dim.sql",
    ]
    assert [block.upstream for block in blocks] == [(), ("load",), (), (), ()]


def test_variables_hold_the_cadence_and_the_offset(project: Path) -> None:
    trips = read_pipeline("trips", project)
    assert (trips.cadence, trips.variables["offset"], trips.variables["color"]) == ("month", 2, "yellow")


@pytest.mark.parametrize("name", ["zones", "bare"])
def test_a_pipeline_that_declares_nothing_runs_by_day(name: str, project: Path) -> None:
    found = read_pipeline(name, project)
    assert (found.cadence, found.blocks, found.variables) == ("day", (), {})


def test_an_unknown_name_says_the_nearest(project: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no pipeline 'tripps'\. Did you mean trips\?"):
        read_pipeline("tripps", project)


@pytest.mark.parametrize("name", ["api_to_bigquery_x", "", "..", "no_pipeline", "trips/../trips"])
def test_a_name_like_no_other_says_which_there_are(name: str, project: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean|There are bare, trips, zones\."):
        read_pipeline(name, project)


def test_a_file_that_is_no_yaml_is_one_paragraph(project: Path) -> None:
    path = project / "pipelines" / "zones" / "metadata.yaml"
    path.write_text("blocks: [\n  - a: {")
    with pytest.raises(ConfigurationError, match=r"metadata\.yaml is not YAML") as caught:
        read_pipeline("zones", project)
    assert "\n" not in str(caught.value)
