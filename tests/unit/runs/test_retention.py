"""What is past its retention goes, oldest first, and what a run may still need stays."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mage_project.lib.runs.retention import Freed, free_disk
from mage_project.lib.settings import RetentionSettings, Settings

DAY = 86_400


@pytest.fixture
def settings(settings: Settings) -> Settings:
    retention = RetentionSettings(raw_days=30, raw_gb=1e-6, staged_hours=24, variables_days=30)  # 1,000 bytes of raw
    return replace(settings, retention=retention)


def file_of(path: Path, size: int, days: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (0, time.time() - days * DAY))
    return path


def raw(settings: Settings, name: str, size: int, days: float) -> Path:
    return file_of(settings.raw_folder / "host" / name / f"{name}.parquet", size, days)


def stored(settings: Settings, kind: str, run: str, days: float) -> Path:
    block = settings.mage_data_folder / "cantrip" / "pipelines" / "p" / kind / "1" / run / "block"
    path = file_of(block / "data", 10, days)
    os.utime(block, (0, time.time() - days * DAY))
    return path


def test_an_empty_home_has_nothing_to_free(settings: Settings) -> None:
    assert free_disk(settings) == Freed(0, 0, 0)


def test_raw_files_past_their_age_go_with_their_folders(settings: Settings) -> None:
    old, young = raw(settings, "old", 100, 31), raw(settings, "young", 100, 29)
    assert free_disk(settings) == Freed(raw=100, staged=0, variables=0)
    assert (old.parent.exists(), young.exists()) == (False, True)
    assert settings.raw_folder.exists()


def test_of_too_many_raw_files_the_oldest_go(settings: Settings) -> None:
    files = [raw(settings, f"f{days}", 400, days) for days in (1, 2, 3, 4)]
    assert free_disk(settings).raw == 800
    assert [path.exists() for path in files] == [True, True, False, False]


def test_freeing_twice_frees_nothing_more(settings: Settings) -> None:
    for days in (1, 2, 31):
        raw(settings, f"f{days}", 900, days)
    assert free_disk(settings).raw == 1800
    assert free_disk(settings) == Freed(0, 0, 0)


def test_what_mage_stored_of_old_runs_goes_and_of_young_ones_stays(settings: Settings) -> None:
    old = [stored(settings, kind, "old", 31) for kind in (".variables", ".logs")]
    young = [stored(settings, kind, "young", 29) for kind in (".variables", ".logs")]
    assert free_disk(settings).variables == 20
    assert [path.exists() for path in (*old, *young)] == [False, False, True, True]


def test_a_run_that_wrote_lately_keeps_all_it_wrote(settings: Settings) -> None:
    first = stored(settings, ".variables", "run", 31)
    file_of(first.with_name("later"), 10, 1)
    assert free_disk(settings).variables == 0
    assert first.exists()


def test_staged_files_of_killed_runs_go(settings: Settings) -> None:
    old = file_of(settings.staging_folder / "killed" / "a.arrow", 50, 2)
    young = file_of(settings.staging_folder / "running" / "a.arrow", 50, 0.5)
    assert free_disk(settings).staged == 50
    assert (old.exists(), young.exists()) == (False, True)


def test_nothing_else_in_the_home_is_touched(settings: Settings) -> None:
    kept = [
        file_of(settings.home / name, 10, 400)
        for name in ("services.json", "postgres/data/base", "logs/runs.log", "mage/cantrip/pipelines/p/metadata.yaml")
    ]
    free_disk(settings)
    assert all(path.exists() for path in kept)
