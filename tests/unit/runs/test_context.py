"""A run's window, place and identity are the same question with one answer, whoever started the run."""

import os
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.runs.context import RunContext, drop_staged, run_of, sweep_staging
from mage_project.lib.runs.window import window_holding, windows_before
from mage_project.lib.settings import Settings

TAXI = {"pipeline_uuid": "api_to_postgres", "block_uuid": "load_api_data", "cadence": "month", "offset": 2}
NEW_YORK = timezone(timedelta(hours=-5))
MIDNIGHT = datetime(2021, 4, 1, tzinfo=UTC)


@pytest.fixture
def run(settings: Settings) -> Callable[..., RunContext]:
    return lambda **kwargs: run_of({**TAXI, **kwargs}, settings)


Run = Callable[..., RunContext]


class TestWindow:
    def test_the_command_lines_window_wins_over_everything(self, run: Run) -> None:
        found = run(window="2021-02-01/2021-03-01", date="2019-05-05", execution_date=MIDNIGHT)
        assert str(found.window) == "2021-02-01/2021-03-01"

    def test_a_date_names_the_window_that_holds_it_without_an_offset(self, run: Run) -> None:
        assert str(run(date="2021-02-10", execution_date=MIDNIGHT).window) == "2021-02-01/2021-03-01"

    @pytest.mark.parametrize(
        "execution_date",
        [
            MIDNIGHT,
            datetime(2021, 4, 30, 23, 59),
            datetime(2021, 4, 1, tzinfo=NEW_YORK),
            date(2021, 4, 15),
            "2021-04-01",
            "2021-04-01 00:00:00+00:00",
            "2021-04-01T00:00:00.000000",
        ],
        ids=repr,
    )
    def test_a_trigger_loads_the_window_that_lies_the_offset_before_its_execution_date(
        self, execution_date: Any, run: Run
    ) -> None:
        assert str(run(execution_date=execution_date).window) == "2021-02-01/2021-03-01"

    def test_mages_own_dates_do_not_matter(self, run: Run) -> None:
        given = {"ds": "2019-01-01", "interval_start_datetime": MIDNIGHT, "interval_end_datetime": None}
        assert run(execution_date=MIDNIGHT, **given).window == run(execution_date=MIDNIGHT).window

    def test_in_the_notebook_it_is_the_last_published_window(self, run: Run) -> None:
        today = datetime.now(UTC).date()
        assert run().window == windows_before(window_holding(today, "month"), 2, "month")

    def test_without_a_cadence_a_window_is_a_day_without_an_offset(self, settings: Settings) -> None:
        assert str(run_of({"execution_date": MIDNIGHT}, settings).window) == "2021-04-01/2021-04-02"

    @pytest.mark.parametrize("offset", ["0", 0, None, ""])
    def test_no_offset_is_the_window_of_the_execution_date(self, offset: Any, run: Run) -> None:
        assert str(run(offset=offset, execution_date=MIDNIGHT).window) == "2021-04-01/2021-05-01"

    @pytest.mark.parametrize(
        ("wrong", "text"),
        [
            ({"window": "soon"}, "'soon' is not a date"),
            ({"date": "10.2.2021"}, "'10.2.2021' is not a date"),
            ({"execution_date": "soon"}, "'soon' is not a date"),
            ({"offset": "two"}, "offset is 'two'"),
            ({"cadence": "hour"}, "cadence is 'hour'"),
        ],
        ids=str,
    )
    def test_what_can_not_be_read_is_named(self, wrong: dict[str, Any], text: str, run: Run) -> None:
        with pytest.raises(ConfigurationError, match=text):
            run(**wrong)


class TestIdentity:
    def test_a_run_is_known_by_its_number_and_partition(self, run: Run) -> None:
        found = run(pipeline_run_id=7, execution_partition="3/20210201T000000_ab12")
        assert (found.run_id, found.origin) == ("7:3/20210201T000000_ab12", "run")

    def test_a_notebook_has_neither(self, run: Run) -> None:
        assert (run().run_id, run().origin) == ("notebook-api_to_postgres", "notebook")

    @pytest.mark.parametrize(
        ("value", "expected"), [("1", True), ("true", True), (True, True), ("0", False), (None, False)]
    )
    def test_refresh_is_a_variable_like_any_other(self, value: Any, expected: bool, run: Run) -> None:
        assert run(refresh=value).refresh is expected
        assert run().refresh is False

    def test_the_pipelines_variables_are_there(self, run: Run) -> None:
        assert run(color="green").variables["color"] == "green"


class TestStaging:
    def test_each_run_has_a_folder_of_its_own_within_the_staging_folder(self, run: Run, settings: Settings) -> None:
        runs = [run(pipeline_run_id=n, execution_partition=part) for n in (1, 2) for part in ("a/b", "a-b", "../../x")]
        folders = {each.staging_folder for each in runs}
        assert len(folders) == len(runs)
        assert {folder.parent for folder in folders} == {settings.staging_folder}

    def test_a_staged_file_is_named_after_its_block(self, run: Run) -> None:
        assert run().staged("green/2021-02").name == "load_api_data-green-2021-02.arrow"

    def test_a_small_frame_is_staged_for_the_run(self, run: Run) -> None:
        found = run()
        dataset = found.dataset_of(pd.DataFrame({"n": [1, 2]}), slice="s/1", source="x")
        assert dataset.path.parent == found.staging_folder
        assert dataset.rows == 2

    def test_the_end_of_a_run_removes_its_files_and_no_others(self, run: Run, settings: Settings) -> None:
        one, other = (run(pipeline_run_id=n, execution_partition="p") for n in (1, 2))
        for each in (one, other):
            each.dataset_of(pd.DataFrame({"n": [1]}), slice="s", source="x")
        drop_staged(settings, one.run_id)
        drop_staged(settings, one.run_id)  # nothing left to remove is fine
        assert not one.staging_folder.exists()
        assert len(list(other.staging_folder.iterdir())) == 1

    def test_files_of_killed_runs_go_after_their_retention(self, run: Run, settings: Settings) -> None:
        found = run()
        old, young = (settings.staging_folder / "killed" / name for name in ("old.arrow", "young.arrow"))
        old.parent.mkdir(parents=True)
        for path, hours in ((old, 25), (young, 23)):
            path.write_bytes(b"rows")
            os.utime(path, (0, time.time() - hours * 3600))
        assert sweep_staging(settings) == 4
        assert sorted(path.name for path in old.parent.iterdir()) == ["young.arrow"]
        os.utime(young, (0, 0))
        found.staged("trips")
        assert not young.exists()

    def test_sweeping_an_empty_home_frees_nothing(self, settings: Settings) -> None:
        assert not settings.home.exists()
        assert sweep_staging(settings) == 0


def test_settings_are_read_when_none_are_given(tmp_path: Path) -> None:
    assert run_of(TAXI).settings.home == tmp_path / "home"
