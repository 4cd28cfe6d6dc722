"""titanic_clean.csv is made of the sample that Mage ships: whole passengers, names that a table can have."""

from pathlib import Path

import pandas as pd
import pytest

from mage_project.lib.runs import mage
from mage_project.lib.runs.samples import clean_titanic


@pytest.fixture(scope="module")
def passengers() -> pd.DataFrame:
    return clean_titanic()


def test_the_sample_is_the_one_that_is_installed() -> None:
    path = mage.sample_file("titanic_survival.csv")
    assert path.is_file()
    assert len(pd.read_csv(path)) == 891


def test_a_sample_that_mage_does_not_ship_is_no_file() -> None:
    assert not Path(mage.sample_file("titanic_clean.csv")).exists()


def test_712_passengers_are_left_with_age_and_port_known(passengers: pd.DataFrame) -> None:
    assert len(passengers) == 712
    assert passengers["passengerid"].is_unique
    assert not passengers.isna().any().any()


def test_its_columns_are_in_lower_case_without_the_cabin(passengers: pd.DataFrame) -> None:
    assert list(passengers.columns) == [
        *("passengerid", "survived", "pclass", "name", "sex", "age", "sibsp", "parch", "ticket", "fare", "embarked")
    ]


def test_no_passenger_with_age_and_port_is_left_out(passengers: pd.DataFrame) -> None:
    raw = pd.read_csv(mage.sample_file("titanic_survival.csv"))
    known = raw[raw["Age"].notna() & raw["Embarked"].notna()]
    assert list(passengers["passengerid"]) == list(known["PassengerId"])
