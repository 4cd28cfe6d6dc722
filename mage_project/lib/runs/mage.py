"""Mage's internals, known here and nowhere else. Written against Mage 0.9.80.

A run of ours executes the blocks in this process (Mage is imported once) and is recorded as a
PipelineRun with its BlockRuns, so that Mage's UI shows it like any other. It stays INITIAL under an
inactive trigger until it ends: a running scheduler takes RUNNING runs and INITIAL ones of active
triggers for its own, and would execute them a second time.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from typing import Any

import psutil
from sqlalchemy.exc import SQLAlchemyError

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import CantripError, DataError
from mage_project.lib.handover import received
from mage_project.lib.reference import facts_of
from mage_project.lib.runs.context import drop_staged
from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.runs.window import Window
from mage_project.lib.settings import Settings, export_environment
from mage_project.lib.sinks.postgres_server import engine_for_url, ensure_database, plain_reason

logger = logging.getLogger(__name__)

TRIGGER_NAME = "cantrip run"


@dataclass(frozen=True)
class BlockOutcome:
    """One block that ran: seconds of wall time, and rows where it is known."""

    uuid: str
    seconds: float
    rows_in: int | None
    rows_out: int | None


@dataclass
class Outcome:
    """One run that ended. `error` is None when every block completed."""

    run_id: str
    seconds: float = 0.0
    blocks: list[BlockOutcome] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    error: Exception | None = None


def prepare(settings: Settings) -> None:
    """Import Mage against this project and bring its own tables up to date (once per version)."""
    export_environment(settings)
    if settings.mage_database_url:
        ensure_database(settings.mage_database_url)
    from mage_ai.settings.repo import set_repo_path

    set_repo_path(str(PROJECT))
    from mage_ai.orchestration.db import db_connection
    from mage_ai.orchestration.db.database_manager import database_manager
    from mage_ai.orchestration.queue.queue_factory import QueueFactory

    # the scheduler's queue, made on import, is a process that outlives ours when that is killed; we queue nothing
    QueueFactory.queue = QueueFactory.queue or object()
    db_connection.start_session()
    if not _schema_is_current():
        logger.info("making Mage's own tables")
        database_manager.run_migrations(log_level=logging.WARNING)


def run_pipeline(
    name: str,
    window: Window,
    variables: Mapping[str, Any],
    settings: Settings,
    on_block: Callable[[str, str], None] = lambda *_: None,
) -> Outcome:
    """Execute a pipeline for a window in this process; `on_block(uuid, state)` follows it.

    Call `prepare` first. The error of a failed block is in the outcome, not raised. The run's staged
    files are gone when it returns, and when it is interrupted.
    """
    from mage_ai.data_preparation.models.pipeline import Pipeline
    from mage_ai.orchestration.db.models.schedules import BlockRun, PipelineRun

    pipeline = Pipeline.get(name, repo_path=str(PROJECT))
    run = _create_run(name, window, variables, settings)
    outcome = Outcome(run_id=_run_id(run))
    outputs: dict[str, Any] = {}
    started = time.monotonic()
    global_vars = run.get_variables(extra_variables={})
    while outcome.error is None:
        ready = run.executable_block_runs()
        if not ready:
            break
        for block_run in ready:
            block_uuid = block_run.block_uuid  # asking later would ask Mage's database, which may be gone then
            on_block(block_uuid, "running")
            block_run.update(status=BlockRun.BlockRunStatus.RUNNING, started_at=datetime.now(UTC))
            begun = time.monotonic()
            try:
                outputs[block_uuid] = _execute(pipeline, run, block_run, global_vars)
            except Exception as error:  # noqa: BLE001 - a block may raise anything; the outcome carries it
                outcome.error = error
                on_block(block_uuid, "failed")
                with _if_mage_can():
                    block_run.update(status=BlockRun.BlockRunStatus.FAILED, completed_at=datetime.now(UTC))
                break
            except BaseException:
                block_run.update(status=BlockRun.BlockRunStatus.CANCELLED, completed_at=datetime.now(UTC))
                _close(run, PipelineRun.PipelineRunStatus.CANCELLED)
                drop_staged(settings, outcome.run_id)
                raise
            block_run.update(status=BlockRun.BlockRunStatus.COMPLETED, completed_at=datetime.now(UTC))
            outcome.blocks.append(_block_outcome(pipeline, block_uuid, time.monotonic() - begun, outputs))
            on_block(block_uuid, "done")
    outcome.seconds = time.monotonic() - started
    outcome.datasets = [received(value) for value in outputs.values() if facts_of(value) is not None]
    drop_staged(settings, outcome.run_id)
    if outcome.error is None:
        _close(run, PipelineRun.PipelineRunStatus.COMPLETED)
    else:
        with _if_mage_can():
            _close(run, PipelineRun.PipelineRunStatus.FAILED)
    return outcome


def require_upstream_tests(pipeline_name: str, block_uuid: str) -> None:
    """Run the inline tests of every block above `block_uuid` on what the notebook last stored for it.

    Raises DataError when one fails, so that an exporter which is run by hand writes nothing.
    """
    from mage_ai.data_preparation.models.pipeline import Pipeline

    block = Pipeline.get(pipeline_name, repo_path=str(PROJECT)).get_block(block_uuid)
    above, seen = list(block.upstream_blocks) if block else [], set()
    while above:
        upstream = above.pop()
        if upstream.uuid in seen:
            continue
        seen.add(upstream.uuid)
        above.extend(upstream.upstream_blocks)
        lines = _Lines()
        test_logger = logging.getLogger(f"{__name__}.{upstream.uuid}")
        test_logger.setLevel(logging.INFO)  # the level at which Mage prints a failed assertion
        test_logger.addHandler(lines)
        try:
            upstream.run_tests(logger=test_logger, update_tests=True)
        except Exception as error:
            raise DataError(f"{_failed_test(upstream.uuid, lines, error)} Nothing was written.") from error
        finally:
            test_logger.removeHandler(lines)


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


def _schema_is_current() -> bool:
    """Compare Mage's schema version with the newest of its migrations: running them all takes 4 s."""
    from alembic.script import ScriptDirectory
    from mage_ai.orchestration import db
    from sqlalchemy import inspect, text

    folder = next(iter(db.__path__))
    with db.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found == ScriptDirectory(f"{folder}/migrations").get_current_head()


def _create_run(name: str, window: Window, variables: Mapping[str, Any], settings: Settings) -> Any:
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


def _run_id(run: Any) -> str:
    """Name a run as its blocks do (`run_of`)."""
    return f"{run.id}:{run.execution_partition}"


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
        drop_staged(settings, _run_id(run))
        _close(run, PipelineRun.PipelineRunStatus.FAILED)


def _is_gone(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine has ended; of another machine's nothing is known."""
    if process.get("host") != socket.gethostname():
        return False
    try:
        # a second's difference is the clock's, more is another process under the same number
        return abs(psutil.Process(process["pid"]).create_time() - process["started"]) > 2
    except psutil.NoSuchProcess:
        return True


def _execute(pipeline: Any, run: Any, block_run: Any, global_vars: dict[str, Any]) -> Any:
    """Execute one block with its inline tests and give what it returned."""
    from mage_ai.data_preparation.executors.block_executor import BlockExecutor

    executor = BlockExecutor(
        pipeline, block_run.block_uuid, execution_partition=run.execution_partition, block_run_id=block_run.id
    )
    lines = _Lines()
    executor.logger.logger.addHandler(lines)
    try:
        result = executor.execute(
            block_run_id=block_run.id,
            global_vars=dict(global_vars),
            pipeline_run_id=run.id,
            update_status=False,
            skip_logging=True,
        )
    except Exception as error:
        ours = _ours_behind(error)
        if ours is not None:
            raise ours from None
        if "Failed to pass tests" not in str(error):
            raise
        failed = DataError(f"{_failed_test(block_run.block_uuid, lines, error)} Nothing was written after it.")
        stored = executor.block.get_raw_outputs(block_run.block_uuid, execution_partition=run.execution_partition)
        failed.slice = next((facts["slice"] for facts in map(facts_of, stored) if facts), None)
        raise failed from error
    finally:
        executor.logger.logger.removeHandler(lines)
    output = (result or {}).get("output") if isinstance(result, dict) else None
    return output[0] if isinstance(output, list) and output else output


def _ours_behind(error: BaseException | None) -> CantripError | None:
    """Give our own error, also when Mage failed a second time in noting it (its database is away)."""
    while error is not None and not isinstance(error, CantripError):
        error = error.__context__
    return error


@contextmanager
def _if_mage_can() -> Iterator[None]:
    """Go on when Mage's own database is away: the error that the run failed with says more."""
    try:
        yield
    except SQLAlchemyError as error:
        logger.info("Mage's records could not be written: %s", error)


def _close(run: Any, status: Any) -> None:
    run.update(status=status, completed_at=datetime.now(UTC))


def _block_outcome(pipeline: Any, block_uuid: str, seconds: float, outputs: Mapping[str, Any]) -> BlockOutcome:
    above = [_rows(outputs.get(name)) for name in pipeline.get_block(block_uuid).upstream_block_uuids]
    known = [rows for rows in above if rows is not None]
    return BlockOutcome(block_uuid, round(seconds, 3), sum(known) if known else None, _rows(outputs.get(block_uuid)))


def _rows(output: Any) -> int | None:
    if facts_of(output) is not None:
        return received(output).rows
    if isinstance(output, dict) and isinstance(output.get("rows"), int):
        return output["rows"]
    return None


class _Lines(logging.Handler):
    """Keeps what a block logs: Mage prints a failed assertion there and raises without it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.extend(record.getMessage().splitlines())


def _failed_test(block_uuid: str, lines: _Lines, error: Exception) -> str:
    """Give which inline test failed and what its assertion says."""
    # of several failed tests, the first
    text = "\n".join(lines.lines).partition("FAIL: ")[2].partition("FAIL: ")[0]
    name = text.partition(" (block")[0].strip()
    said = text.rpartition("AssertionError")[2].lstrip(": ").partition('"')[0].splitlines()
    reason = said[0].strip() if said and said[0].strip() else str(error)
    return f"inline test {name or 'of the block'} of block {block_uuid} failed: {reason}."
