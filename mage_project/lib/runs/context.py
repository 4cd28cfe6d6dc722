"""What a block knows of its run, whichever way it was started.

Blocks take window, variables and staging place from `run_of(kwargs)` and never from Mage's raw
`ds` or `interval_*` values, which differ between a trigger, a backfill and the notebook.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mage_project.lib.dataset import Dataset, from_pandas
from mage_project.lib.errors import ConfigurationError
from mage_project.lib.runs.window import Window, parse_date, parse_window, window_holding, windows_before
from mage_project.lib.settings import Settings, load_settings

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# The run's own variables: the command line passes them, a person may set them in Mage's UI.
WINDOW_VARIABLE = "window"
DATE_VARIABLE = "date"
REFRESH_VARIABLE = "refresh"


@dataclass(frozen=True)
class RunContext:
    """One run as its blocks see it. `run_id` names it in the ledger; `origin` says who started it."""

    pipeline: str
    block: str
    run_id: str
    origin: str
    window: Window
    variables: Mapping[str, Any]
    settings: Settings
    started_at: datetime

    @property
    def refresh(self) -> bool:
        """Whether the source is to be fetched again."""
        return str(self.variables.get(REFRESH_VARIABLE, "")).lower() in ("1", "true", "yes")

    @property
    def staging_folder(self) -> Path:
        """Where this run's staged files lie; they go when it ends."""
        return self.settings.staging_folder / _folder_name(self.run_id)

    def staged(self, name: str) -> Path:
        """Give the path for a staged file, after sweeping what older runs left behind."""
        sweep_staging(self.settings)
        return self.staging_folder / f"{self.block or 'block'}-{name.replace('/', '-')}.arrow"

    def dataset_of(self, frame: pd.DataFrame, *, slice: str, source: str) -> Dataset:
        """Make a dataset of a small DataFrame: `run_of(kwargs).dataset_of(frame, …).hand_over()`."""
        return from_pandas(frame, self.staged(slice), slice=slice, source=source)


def run_of(kwargs: Mapping[str, Any], settings: Settings | None = None) -> RunContext:
    """Give the run that a block's `**kwargs` belong to.

    The window is, in this order: the one the command line decided; the one that holds the variable
    `date`; the one that lies the pipeline's `offset` before the execution date (a trigger, or the
    notebook, where that is today: the last published window). Raises ConfigurationError.
    """
    pipeline = str(kwargs.get("pipeline_uuid") or "notebook")
    partition = kwargs.get("execution_partition")
    run_number = kwargs.get("pipeline_run_id")
    run_id = f"{run_number}:{partition}" if run_number else f"notebook-{pipeline}"
    context = RunContext(
        pipeline=pipeline,
        block=str(kwargs.get("block_uuid") or ""),
        run_id=run_id,
        origin="run" if partition or run_number else "notebook",
        window=_window(kwargs),
        variables=kwargs,
        settings=settings or load_settings(),
        started_at=datetime.now(UTC),
    )
    logger.info("%s covers %s", pipeline, context.window)
    return context


def _window(kwargs: Mapping[str, Any]) -> Window:
    if kwargs.get(WINDOW_VARIABLE):
        return parse_window(str(kwargs[WINDOW_VARIABLE]))
    cadence = str(kwargs.get("cadence") or "day")
    if kwargs.get(DATE_VARIABLE):
        return window_holding(parse_date(str(kwargs[DATE_VARIABLE])), cadence)
    execution_date = kwargs.get("execution_date") or datetime.now(UTC)
    if not isinstance(execution_date, date):
        execution_date = parse_date(str(execution_date)[:10])
    day = execution_date.date() if isinstance(execution_date, datetime) else execution_date
    return windows_before(window_holding(day, cadence), _offset(kwargs), cadence)


def _offset(kwargs: Mapping[str, Any]) -> int:
    text = kwargs.get("offset") or 0
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(
            f"offset is {text!r}; it must be a number of windows. Set it in metadata.yaml."
        ) from None


def _folder_name(run_id: str) -> str:
    """A folder name that is safe whatever the pipeline is called."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:6]
    return f"{''.join(c if c.isalnum() or c in '-_' else '-' for c in run_id)}-{digest}"


def drop_staged(settings: Settings, run_id: str) -> None:
    """Remove a run's staged files: its end."""
    shutil.rmtree(settings.staging_folder / _folder_name(run_id), ignore_errors=True)


def sweep_staging(settings: Settings) -> int:
    """Remove staged files past their retention (runs that were killed); give the bytes freed."""
    oldest = time.time() - settings.retention.staged_hours * 3600
    freed = 0
    for path in settings.staging_folder.glob("*/*"):
        try:
            facts = path.stat()
            if facts.st_mtime < oldest:
                path.unlink()
                freed += facts.st_size
        except FileNotFoundError:
            continue  # another run swept it
    for folder in settings.staging_folder.glob("*"):
        with suppress(OSError):  # not empty, or gone
            if folder.stat().st_mtime < oldest:
                folder.rmdir()
    return freed
