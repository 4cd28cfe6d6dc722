"""Freeing disk: raw files, staged files, and what Mage stores of past runs, by the settings' retention."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mage_project.lib.runs.context import sweep_staging
from mage_project.lib.settings import Settings

DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Freed:
    """Bytes freed, by what they were."""

    raw: int
    staged: int
    variables: int


def free_disk(settings: Settings) -> Freed:
    """Remove what is past its retention; what a run may still need is younger than that."""
    return Freed(raw=_free_raw(settings), staged=sweep_staging(settings), variables=_free_variables(settings))


def _free_raw(settings: Settings) -> int:
    """Remove raw files past their age, then the oldest until the rest fits the size."""
    files = sorted((path for path in settings.raw_folder.glob("*/*/*") if path.is_file()), key=_used_at, reverse=True)
    oldest = time.time() - settings.retention.raw_days * DAY_SECONDS
    room = settings.retention.raw_gb * 1e9
    freed = 0
    for path in files:
        size = path.stat().st_size
        room -= size
        if room < 0 or _used_at(path) < oldest:
            path.unlink()
            freed += size
    _remove_empty(settings.raw_folder)
    return freed


def _free_variables(settings: Settings) -> int:
    """Remove Mage's stored block outputs and logs of runs past their age."""
    oldest = time.time() - settings.retention.variables_days * DAY_SECONDS
    freed = 0
    for folder in settings.mage_data_folder.glob("*/pipelines/*/.*/*/*"):
        if folder.is_dir() and _newest(folder) < oldest:
            freed += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            shutil.rmtree(folder)
    return freed


def _used_at(path: Path) -> float:
    return path.stat().st_mtime


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*")), default=folder.stat().st_mtime)


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.glob("**/"), reverse=True):
        if path != folder and not any(path.iterdir()):
            path.rmdir()
