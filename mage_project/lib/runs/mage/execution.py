"""Executing a pipeline's blocks in this process, recorded as Mage's own run.

A run of ours executes the blocks in this process (Mage is imported once) and is recorded as a
PipelineRun with its BlockRuns, so that Mage's UI shows it like any other. It stays INITIAL under an
inactive trigger until it ends: a running scheduler takes RUNNING runs and INITIAL ones of active
triggers for its own, and would execute them a second time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from mage_project.lib.errors import CantripError, DataError
from mage_project.lib.reference import facts_of
from mage_project.lib.runs.context import drop_staged
from mage_project.lib.runs.mage.inline_tests import LogLines, describe_failed_test
from mage_project.lib.runs.mage.records import close, create_run, run_id_of
from mage_project.lib.runs.pipelines import PROJECT
from mage_project.lib.runs.window import Window
from mage_project.lib.settings import Settings, export_environment
from mage_project.lib.sinks.postgres_server import ensure_database

logger = logging.getLogger(__name__)


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
    # the facts of every reference that a block handed over
    handed_over: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None
    failed_block: str | None = None


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
    run = create_run(name, window, variables, settings)
    outcome = Outcome(run_id=run_id_of(run))
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
                outcome.error, outcome.failed_block = error, block_uuid
                on_block(block_uuid, "failed")
                with _if_mage_can():
                    block_run.update(status=BlockRun.BlockRunStatus.FAILED, completed_at=datetime.now(UTC))
                break
            except BaseException:
                block_run.update(status=BlockRun.BlockRunStatus.CANCELLED, completed_at=datetime.now(UTC))
                close(run, PipelineRun.PipelineRunStatus.CANCELLED)
                drop_staged(settings, outcome.run_id)
                raise
            block_run.update(status=BlockRun.BlockRunStatus.COMPLETED, completed_at=datetime.now(UTC))
            outcome.blocks.append(_block_outcome(pipeline, block_uuid, time.monotonic() - begun, outputs))
            on_block(block_uuid, "done")
    outcome.seconds = time.monotonic() - started
    outcome.handed_over = [facts for value in outputs.values() if (facts := facts_of(value)) is not None]
    drop_staged(settings, outcome.run_id)
    if outcome.error is None:
        close(run, PipelineRun.PipelineRunStatus.COMPLETED)
    else:
        with _if_mage_can():
            close(run, PipelineRun.PipelineRunStatus.FAILED)
    return outcome


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


def _execute(pipeline: Any, run: Any, block_run: Any, global_vars: dict[str, Any]) -> Any:
    """Execute one block with its inline tests and give what it returned."""
    from mage_ai.data_preparation.executors.block_executor import BlockExecutor

    executor = BlockExecutor(
        pipeline, block_run.block_uuid, execution_partition=run.execution_partition, block_run_id=block_run.id
    )
    lines = LogLines()
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
        if isinstance(error, TypeError) and "missing 1 required positional argument" in str(error):
            raise DataError(
                f"block {block_run.block_uuid} returned nothing for its tests to look at, or takes another number of "
                "inputs than it has upstreams. End it with `return ….hand_over()`; `./cantrip check` counts its inputs."
            ) from error
        if "Failed to pass tests" not in str(error):
            raise
        failed = DataError(f"{describe_failed_test(block_run.block_uuid, lines, error)} Nothing was written after it.")
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


def _block_outcome(pipeline: Any, block_uuid: str, seconds: float, outputs: Mapping[str, Any]) -> BlockOutcome:
    above = [_rows(outputs.get(name)) for name in pipeline.get_block(block_uuid).upstream_block_uuids]
    known = [rows for rows in above if rows is not None]
    return BlockOutcome(block_uuid, round(seconds, 3), sum(known) if known else None, _rows(outputs.get(block_uuid)))


def _rows(output: Any) -> int | None:
    facts = facts_of(output)
    if facts is not None:
        return int(facts["rows"])
    if isinstance(output, dict) and isinstance(output.get("rows"), int):
        return output["rows"]
    return None
