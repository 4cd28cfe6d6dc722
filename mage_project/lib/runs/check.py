"""Checks of the whole project without running it: what would fail later, said now, with file and line.

Mage itself is not imported: blocks are executed as Mage executes them, with decorators of our own
that only note which functions they stand on.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.runs.pipelines import PROJECT, BlockSpec, PipelineSpec, pipeline_names, read_pipeline
from mage_project.lib.runs.window import CADENCES
from mage_project.lib.settings import child_environment, export_environment, load_settings

TESTED_TYPES = ("data_loader", "transformer")
DECORATORS = (
    "data_loader",
    "transformer",
    "data_exporter",
    "conditional",
    "callback",
    "custom",
    "sensor",
    "condition",
    "test",
)
DECORATOR_MODULE = "mage_ai.data_preparation.decorators"
ENV_VAR = re.compile(r"env_var\(\s*['\"]([A-Z0-9_]+)['\"]\s*\)")
TEMPLATE_VAR = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
# what Mage and our own window give every SQL block
GIVEN_VARIABLES = {"execution_date", "ds", "hr", "env", "event", "execution_partition", "pipeline_uuid", "block_uuid"}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `file` is relative to the project's root."""

    file: str
    line: int
    text: str


@dataclass
class Report:
    """All that is wrong, and how much was looked at."""

    problems: list[Problem] = field(default_factory=list)
    pipelines: int = 0
    blocks: int = 0
    modules: int = 0

    def add(self, path: Path, line: int, text: str, project: Path) -> None:
        """Note a problem, once."""
        file = os.path.relpath(path, project.parent)
        problem = Problem(file, line, text)
        if problem not in self.problems:
            self.problems.append(problem)


def check_project(project: Path = PROJECT) -> Report:
    """Check library modules, pipelines and blocks of the project."""
    report = Report()
    if project == PROJECT:
        _check_modules(project, report)
    _check_environment(project, report)
    seen: set[Path] = set()
    for name in pipeline_names(project):
        path = project / "pipelines" / name / "metadata.yaml"
        report.pipelines += 1
        try:
            pipeline = read_pipeline(name, project)
        except (ConfigurationError, AttributeError, KeyError, TypeError) as error:
            report.add(path, 1, f"can't be read as a pipeline: {error}", project)
            continue
        _check_graph(pipeline, report, project)
        _check_triggers(pipeline, report, project)
        for block in pipeline.blocks:
            report.blocks += block.path not in seen
            _check_block(pipeline, block, report, project)
            seen.add(block.path)
    report.problems.sort(key=lambda problem: (problem.file, problem.line))
    return report


def _check_modules(project: Path, report: Report) -> None:
    for path in sorted((project / "lib").rglob("*.py")):
        name = ".".join(path.relative_to(project.parent).with_suffix("").parts).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        report.modules += 1
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a module may raise anything when imported; the report says it
            report.add(path, _line_of(error, path), f"can't be imported: {type(error).__name__}: {error}", project)


def _check_environment(project: Path, report: Report) -> None:
    """Every variable that io_config.yaml needs must be there once the settings are exported."""
    path = project / "io_config.yaml"
    if not path.exists():
        return
    try:
        settings = load_settings()
        known = child_environment(**(export_environment(settings) if settings.postgres else {}))
        embedded = settings.postgres_is_embedded
    except ConfigurationError as error:
        report.add(path, 1, str(error), project)
        return
    for line, name in _matches(path, ENV_VAR):
        if not known.get(name) and not (embedded and name.startswith("POSTGRES_")):
            report.add(path, line, f"the variable {name} is not set. Set it in .env (dev.env describes it)", project)


def _check_graph(pipeline: PipelineSpec, report: Report, project: Path) -> None:
    names = [block.uuid for block in pipeline.blocks]
    for name in {name for name in names if names.count(name) > 1}:
        report.add(pipeline.path, _line_in(pipeline.path, name), f"block {name!r} is listed twice", project)
    for block in pipeline.blocks:
        for upstream in block.upstream:
            if upstream not in names:
                line = _line_in(pipeline.path, upstream)
                report.add(pipeline.path, line, f"block {block.uuid!r} needs {upstream!r}, which is not in it", project)
    cycle = _cycle({block.uuid: block.upstream for block in pipeline.blocks})
    if cycle:
        report.add(pipeline.path, _line_in(pipeline.path, cycle[0]), f"a cycle: {' → '.join(cycle)}", project)
    if pipeline.cadence not in CADENCES:
        text = f"cadence {pipeline.cadence!r} is none of {', '.join(CADENCES)}"
        report.add(pipeline.path, _line_in(pipeline.path, "cadence"), text, project)
    if not str(pipeline.variables.get("offset", 0)).isdigit():
        text = f"offset {pipeline.variables['offset']!r} is not a number of windows"
        report.add(pipeline.path, _line_in(pipeline.path, "offset"), text, project)


def _check_triggers(pipeline: PipelineSpec, report: Report, project: Path) -> None:
    """Schedules beside the pipeline: Mage's own words (@daily) or a cron expression."""
    path = pipeline.path.with_name("triggers.yaml")
    if not path.exists():
        return
    from croniter import croniter

    try:
        triggers = (yaml.safe_load(path.read_text()) or {}).get("triggers") or []
        intervals = [trigger.get("schedule_interval") for trigger in triggers]
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        report.add(path, 1, f"can't be read: {' '.join(str(error).split())}", project)
        return
    for interval in intervals:
        if interval and interval not in ("@once", "@always_on") and not croniter.is_valid(str(interval)):
            line = _line_in(path, str(interval))
            report.add(path, line, f"schedule {interval!r} is neither cron nor one of Mage's words", project)


def _check_block(pipeline: PipelineSpec, block: BlockSpec, report: Report, project: Path) -> None:
    if not block.path.exists():
        line = _line_in(pipeline.path, block.uuid)
        report.add(
            pipeline.path,
            line,
            f"block {block.uuid!r} has no file {os.path.relpath(block.path, project.parent)}",
            project,
        )
    elif block.language == "sql":
        for line, name in _matches(block.path, TEMPLATE_VAR):
            if name not in pipeline.variables and name not in GIVEN_VARIABLES and not re.fullmatch(r"df_\d+", name):
                report.add(block.path, line, f"the variable {name!r} is not declared in {pipeline.name}", project)
    elif block.language == "python":
        _check_python_block(pipeline, block, report, project)


def _check_python_block(pipeline: PipelineSpec, block: BlockSpec, report: Report, project: Path) -> None:
    marked = _execute(block.path, report, project)
    if marked is None:
        return
    kind = "condition" if block.type == "conditional" else block.type
    if block.type in ("callback", "markdown", "scratchpad"):
        return
    functions = marked.get(kind, [])
    if not functions:
        report.add(block.path, 1, f"no function is decorated with @{kind}", project)
        return
    function = functions[0]
    accepted = _accepted_inputs(function)
    line = function.__code__.co_firstlineno
    if accepted is not None and len(block.upstream) > accepted:
        text = f"takes {accepted} inputs, but has {len(block.upstream)} upstream blocks in {pipeline.name}"
        report.add(block.path, line, text, project)
    needed = _needed_inputs(function)
    if needed > len(block.upstream):
        text = f"needs {needed} inputs, but has {len(block.upstream)} upstream blocks in {pipeline.name}"
        report.add(block.path, line, text, project)
    if block.type in TESTED_TYPES and not marked.get("test"):
        report.add(block.path, line, "has no inline @test", project)


def _execute(path: Path, report: Report, project: Path) -> dict[str, list[Callable]] | None:
    """Execute a block's file with noting decorators; give {decorator: functions}."""
    source = path.read_text()
    try:
        tree = ast.parse(source)
        code = compile(source, str(path), "exec")
    except SyntaxError as error:
        report.add(path, error.lineno or 1, f"does not parse: {error.msg}", project)
        return None
    unguarded = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == DECORATOR_MODULE]
    if unguarded:
        text = "import decorators only under `if 'name' not in globals():`, or Mage finds no decorated function"
        report.add(path, unguarded[0].lineno, text, project)
        return None
    marked: dict[str, list[Callable]] = {}

    def noting(name: str) -> Callable:
        def decorate(function: Callable) -> Callable:
            marked.setdefault(name, []).append(function)
            return function

        return decorate

    surroundings: dict[str, Any] = {name: noting(name) for name in DECORATORS}
    if str(project.parent) not in sys.path:
        sys.path.append(str(project.parent))
    try:
        exec(code, {**surroundings, "__name__": path.stem})
    except Exception as error:  # noqa: BLE001 - a person's block may raise anything; the report says it
        report.add(path, _line_of(error, path), f"can't be imported: {type(error).__name__}: {error}", project)
        return None
    return marked


def _accepted_inputs(function: Callable) -> int | None:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


def _needed_inputs(function: Callable) -> int:
    """Mage takes every parameter that isn't variadic for an upstream's output, one with a default as well."""
    parameters = inspect.signature(function).parameters.values()
    return sum(parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters)


def _cycle(upstream: dict[str, tuple[str, ...]]) -> list[str]:
    """Give one cycle as a list of names, or an empty list."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done or name not in upstream:
            return []
        for above in upstream[name]:
            found = visit(above, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in upstream if (found := visit(name, []))), [])


def _matches(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, match.group(1)


def _line_in(path: Path, word: str) -> int:
    """Give the line of `path` that holds `word` as a word of its own, or 1."""
    lines = path.read_text().splitlines()
    whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")
    return next((number for number, line in enumerate(lines, 1) if whole.search(line)), 1)


def _line_of(error: BaseException, path: Path) -> int:
    """Give the line of `path` that an error came through, or 1."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return frames[-1].lineno or 1 if frames else 1
