"""Mage's records of runs: triggers, PipelineRuns and BlockRuns in Mage's own database."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from typing import Any

import psutil

from mage_project.lib.errors import CantripError
from mage_project.lib.runs.context import drop_staged
from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.runs.window import Window
from mage_project.lib.settings import Settings
from mage_project.lib.sinks.postgres_server import engine_for_url, plain_reason

logger = logging.getLogger(__name__)

TRIGGER_NAME = "cantrip run"


def create_run(name: str, window: Window, variables: Mapping[str, Any], settings: Settings) -> Any:
    """Make a PipelineRun with its BlockRuns, owned by this process; runs of killed ones are closed first."""
    from mage_ai.data_preparation.models.triggers import ScheduleStatus, ScheduleType
    from mage_ai.orchestration.db.models.schedules import PipelineRun, PipelineSchedule

    trigger = PipelineSchedule.query.filter_by(pipeline_uuid=name, name=TRIGGER_NAME).first()
    if trigger is None:
        trigger = PipelineSchedule.create(
            name=TRIGGER_NAME,
            pipeline_uuid=name,
            repo_path=str(PROJECT),
            schedule_type=ScheduleType.TIME,
            status=ScheduleStatus.INACTIVE,
        )
    _close_killed(trigger, settings)
    start = datetime.combine(window.start, clock(), UTC)
    end = datetime.combine(window.end, clock(), UTC)
    # a partition of its own, or two runs of one window would share a folder of block outputs
    partition = f"{trigger.id}/{start:%Y%m%dT%H%M%S}_{uuid.uuid4().hex[:8]}"
    return PipelineRun.create(
        pipeline_uuid=name,
        pipeline_schedule_id=trigger.id,
        execution_date=start,
        create_block_runs=True,
        metrics={"process": _this_process()},
        variables={
            **variables,
            "window": str(window),
            "execution_partition": partition,
            "interval_start_datetime": start.isoformat(),
            "interval_end_datetime": end.isoformat(),
            "interval_seconds": (end - start) / timedelta(seconds=1),
        },
    )


def run_id_of(run: Any) -> str:
    """Name a run as its blocks do (`run_of`)."""
    return f"{run.id}:{run.execution_partition}"


def close(run: Any, status: Any) -> None:
    """End a run with `status`."""
    run.update(status=status, completed_at=datetime.now(UTC))


def is_last_block(run_number: int, block_uuid: str) -> bool:
    """Whether every other block of a run has completed: then its staged files have served."""
    from mage_ai.orchestration.db.models.schedules import BlockRun

    others = BlockRun.query.filter(BlockRun.pipeline_run_id == run_number, BlockRun.block_uuid != block_uuid).all()
    return all(other.status == BlockRun.BlockRunStatus.COMPLETED for other in others)


def recent_runs(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """Give the newest pipeline runs as Mage's tables hold them, whoever started them."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    settings.require_postgres()
    engine = engine_for_url(str(settings.mage_database_url))
    statement = text(
        "SELECT r.id, r.pipeline_uuid AS pipeline, CAST(r.status AS TEXT) AS status, r.execution_date, r.created_at, "
        "r.completed_at, s.name AS trigger, r.variables->>'window' AS window FROM pipeline_run r "
        "LEFT JOIN pipeline_schedule s ON s.id = r.pipeline_schedule_id ORDER BY r.id DESC LIMIT :limit"
    )
    try:
        with engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(statement, {"limit": limit})]
    except DBAPIError as error:
        if "does not exist" in str(error.orig):
            return []  # nothing ran yet: Mage's tables come with the first run
        raise CantripError(f"Mage's database can't be read: {plain_reason(error)}. Run `./cantrip up`.") from error
    finally:
        engine.dispose()


def _this_process() -> dict[str, Any]:
    """Name this process, so that a later one can tell whether it still lives."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _close_killed(trigger: Any, settings: Settings) -> None:
    """Mark the runs whose process was killed as failed, and remove their staged files: nobody else would."""
    from mage_ai.orchestration.db.models.schedules import BlockRun, PipelineRun

    open_runs = PipelineRun.query.filter_by(
        pipeline_schedule_id=trigger.id, status=PipelineRun.PipelineRunStatus.INITIAL
    )
    for run in open_runs.all():
        if not _is_gone((run.metrics or {}).get("process") or {}):
            continue
        logger.info("run %s was killed; it is marked as failed", run.id)
        for block_run in run.block_runs:
            if block_run.status == BlockRun.BlockRunStatus.RUNNING:
                block_run.update(status=BlockRun.BlockRunStatus.FAILED, completed_at=datetime.now(UTC))
        drop_staged(settings, run_id_of(run))
        close(run, PipelineRun.PipelineRunStatus.FAILED)


def _is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine has ended; of another machine's nothing is known."""
    if process.get("host") != socket.gethostname():
        return False
    try:
        # a second's difference is the clock's, more is another process under the same number
        return abs(psutil.Process(process["pid"]).create_time() - process["started"]) > 2
    except psutil.NoSuchProcess:
        return True
