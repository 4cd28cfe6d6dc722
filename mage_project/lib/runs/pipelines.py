"""Pipelines as Mage's YAML files declare them, read without importing Mage."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.settings import ROOT

PROJECT = ROOT / "mage_project"

FOLDERS = {
    "data_loader": "data_loaders",
    "transformer": "transformers",
    "data_exporter": "data_exporters",
    "conditional": "conditionals",
    "callback": "callbacks",
    "custom": "custom",
    "sensor": "sensors",
    "scratchpad": "scratchpads",
    "markdown": "markdowns",
    "chart": "charts",
    "dbt": "dbt",
}
ENDINGS = {"python": ".py", "sql": ".sql", "yaml": ".yaml", "r": ".r", "markdown": ".md"}


@dataclass(frozen=True)
class BlockSpec:
    """One block of a pipeline: its file, its type and what it takes its inputs from."""

    uuid: str
    type: str
    language: str
    upstream: tuple[str, ...]
    path: Path


@dataclass(frozen=True)
class PipelineSpec:
    """One pipeline: its blocks in the file's order, and its variables (`cadence` and `offset` among them)."""

    name: str
    path: Path
    blocks: tuple[BlockSpec, ...]
    variables: dict[str, Any]

    @property
    def cadence(self) -> str:
        """The length of its windows."""
        return str(self.variables.get("cadence") or "day")


def pipeline_names(project: Path = PROJECT) -> list[str]:
    """Give the names of all pipelines."""
    return sorted(path.parent.name for path in (project / "pipelines").glob("*/metadata.yaml"))


def read_pipeline(name: str, project: Path = PROJECT) -> PipelineSpec:
    """Read one pipeline. Raises ConfigurationError for an unknown name (and says the nearest) or a broken file."""
    path = project / "pipelines" / name / "metadata.yaml"
    if name not in pipeline_names(project):
        near = difflib.get_close_matches(name, pipeline_names(project), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(pipeline_names(project))}."
        raise ConfigurationError(f"there is no pipeline {name!r}. {hint}")
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    blocks = tuple(_block(entry, project) for entry in document.get("blocks") or [])
    return PipelineSpec(name, path, blocks, dict(document.get("variables") or {}))


def _block(entry: dict[str, Any], project: Path) -> BlockSpec:
    type_, language = str(entry.get("type")), str(entry.get("language") or "python")
    configured = (entry.get("configuration") or {}).get("file_path")
    folder = project / FOLDERS.get(type_, f"{type_}s")
    path = project / configured if configured else folder / f"{entry['uuid']}{ENDINGS.get(language, '.py')}"
    return BlockSpec(str(entry["uuid"]), type_, language, tuple(entry.get("upstream_blocks") or ()), path)
