"""Mage's own two ways of running blocks, as processes of their own: its scheduler and its notebook.

    python -m tests.support.mage_ways scheduler '{"trigger": {"execution_date": …, "variables": {…}}}'
    python -m tests.support.mage_ways notebook '[{"project": …, "pipeline": …, "block": …, "variables": {…}}]'

The scheduler runs until it is ended; the notebook prints one line of JSON for each block.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.settings import export_environment, load_settings
from mage_project.lib.sinks.postgres_server import ensure_database


def prepare(project: Path) -> None:
    """Bring Mage up as `mage start` does, for a project that may be a copy of ours."""
    settings = load_settings()
    export_environment(settings)
    ensure_database(str(settings.mage_database_url))
    from mage_ai.settings.repo import set_repo_path

    set_repo_path(str(project))
    from mage_ai.orchestration.db import db_connection
    from mage_ai.orchestration.db.database_manager import database_manager

    db_connection.start_session()
    database_manager.run_migrations(log_level=logging.WARNING)


def run_scheduler_with(runs: dict[str, dict[str, Any]]) -> None:
    """Make an active trigger with one INITIAL run for each of `runs`, and start the scheduler."""
    prepare(PROJECT)
    from mage_ai.data_preparation.models.triggers import ScheduleStatus, ScheduleType
    from mage_ai.orchestration.db.models.schedules import PipelineRun, PipelineSchedule
    from mage_ai.server.scheduler_manager import run_scheduler

    for name, facts in runs.items():
        pipeline = facts.get("pipeline", "api_to_postgres")
        trigger = PipelineSchedule.create(
            name=name,
            pipeline_uuid=pipeline,
            repo_path=str(PROJECT),
            schedule_type=ScheduleType.API,
            status=ScheduleStatus.ACTIVE,
        )
        PipelineRun.create(
            pipeline_uuid=pipeline,
            pipeline_schedule_id=trigger.id,
            execution_date=datetime.fromisoformat(facts["execution_date"]),
            variables=facts["variables"],
        )
    run_scheduler()


def run_cells(cells: list[dict[str, Any]]) -> None:
    """Run each block as the notebook's kernel does; print what it shows, or how it fails."""
    prepare(Path(cells[0]["project"]))
    for cell in cells:
        sys.stdout.write(json.dumps(_run_cell(cell)) + "\n")


def _run_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """Follow mage_ai/server/websocket_server.py and mage_ai/server/utils/execute_custom_code.py."""
    import simplejson
    from mage_ai.data_preparation.models.pipeline import Pipeline
    from mage_ai.data_preparation.variable_manager import get_global_variables
    from mage_ai.shared.parsers import encode_complex

    pipeline = Pipeline.get(cell["pipeline"], repo_path=cell["project"])
    block = pipeline.get_block(cell["block"], widget=cell.get("widget", False))
    now, test_logger = datetime.now(UTC), logging.getLogger(f"{block.uuid}_test")
    intervals = {"interval_start_datetime": now, "interval_end_datetime": now + timedelta(days=1)}
    global_vars = {**get_global_variables(pipeline.uuid, pipeline=pipeline), "env": "dev", "event": {}, **intervals}
    global_vars |= {"execution_date": now, "logger": test_logger, **cell.get("variables", {})}
    code = cell.get("code") or block.content
    shared = {"custom_code": code, "from_notebook": True, "global_vars": global_vars, "logger": test_logger}
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            block.execute_with_callback(**shared)
            block.run_tests(**shared, update_tests=False)
            shown = simplejson.dumps(block.get_outputs(), default=encode_complex, ignore_nan=True)
    except Exception as error:  # noqa: BLE001 - the notebook shows whatever it is
        return {"block": block.uuid, "error": f"{type(error).__name__}: {error}", "printed": printed.getvalue()}
    return {"block": block.uuid, "error": None, "shown": shown, "printed": printed.getvalue()}


if __name__ == "__main__":
    {"scheduler": run_scheduler_with, "notebook": run_cells}[sys.argv[1]](json.loads(sys.argv[2]))
