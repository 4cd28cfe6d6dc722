"""Settings come from the environment, `.env` and the running services, in this order, and hide passwords."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.settings import (
    TLC_BASE_URL,
    PostgresSettings,
    Settings,
    child_environment,
    export_environment,
    load_settings,
    remember,
)

SERVER = {
    "POSTGRES_HOST": "db.example",
    "POSTGRES_USER": "loader",
    "POSTGRES_PASSWORD": "s3cret/@:",
    "POSTGRES_DBNAME": "warehouse",
}


def with_services(home: Path) -> None:
    home.mkdir(parents=True)
    facts = {"host": "127.0.0.1", "port": 54321, "dbname": "cantrip", "user": "cantrip", "password": "embedded"}
    (home / "services.json").write_text(json.dumps({"postgres": facts}))


def test_without_anything_the_profile_is_local_and_the_source_is_the_publishers_own(tmp_path: Path) -> None:
    settings = load_settings({}, root=tmp_path)
    assert settings.profile == "local"
    assert settings.home == tmp_path / ".cantrip"
    assert settings.taxi.base_url == TLC_BASE_URL
    assert settings.postgres is None
    assert settings.mage_database_url is None


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TAXI_FORMAT=csv\nSLICE_LOCK_SECONDS=7\n")
    monkeypatch.setenv("TAXI_FORMAT", "csv.gz")
    monkeypatch.delenv("SLICE_LOCK_SECONDS", raising=False)
    settings = load_settings(root=tmp_path)
    assert settings.taxi.format == "csv.gz"
    assert settings.slice_lock_seconds == 7


def test_an_environment_that_is_given_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TAXI_FORMAT=csv\n")
    monkeypatch.setenv("TAXI_BASE_URL", "http://elsewhere")
    settings = load_settings({}, root=tmp_path)
    assert (settings.taxi.format, settings.taxi.base_url) == ("parquet", TLC_BASE_URL)


@pytest.mark.parametrize("name", ["POSTGRES_HOST", "TAXI_FORMAT", "CANTRIP_PROFILE", "HTTP_ATTEMPTS", "CANTRIP_HOME"])
def test_an_empty_value_counts_as_unset(name: str, tmp_path: Path) -> None:
    assert load_settings({name: ""}, root=tmp_path) == load_settings({}, root=tmp_path)


def test_a_server_that_is_named_wins_over_the_embedded_one(tmp_path: Path) -> None:
    with_services(tmp_path / ".cantrip")
    settings = load_settings(SERVER, root=tmp_path)
    assert settings.require_postgres().address == "db.example:5432/warehouse"
    assert not settings.postgres_is_embedded


def test_without_a_named_server_it_is_the_embedded_one_that_runs(tmp_path: Path) -> None:
    with_services(tmp_path / ".cantrip")
    settings = load_settings({"POSTGRES_SCHEMA": "trips"}, root=tmp_path)
    assert settings.require_postgres().address == "127.0.0.1:54321/cantrip"
    assert settings.require_postgres().schema == "trips"
    assert settings.postgres_is_embedded


def test_mages_database_is_on_the_same_server_unless_it_is_named(tmp_path: Path) -> None:
    assert "@db.example:5432/mage" in str(load_settings(SERVER, root=tmp_path).mage_database_url)
    named = load_settings({**SERVER, "MAGE_DATABASE_CONNECTION_URL": "sqlite:///mage.db"}, root=tmp_path)
    assert named.mage_database_url == "sqlite:///mage.db"


@pytest.mark.parametrize("missing", ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DBNAME"])
def test_a_missing_variable_is_named_with_the_remedy(missing: str, tmp_path: Path) -> None:
    values = {name: value for name, value in SERVER.items() if name != missing}
    with pytest.raises(ConfigurationError, match=rf"{missing} is not set.*\.env.*dev\.env") as caught:
        load_settings(values, root=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_no_server_at_all_says_how_to_get_one(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"POSTGRES_HOST is not set.*cantrip up.*dev\.env"):
        settings.require_postgres()


@pytest.mark.parametrize("profile", ["staging", "production"])
def test_only_the_local_profile_may_go_without_a_named_server(profile: str, tmp_path: Path) -> None:
    with_services(tmp_path / ".cantrip")
    with pytest.raises(ConfigurationError, match=f"POSTGRES_HOST is not set, and the profile is {profile}"):
        load_settings({"CANTRIP_PROFILE": profile}, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CANTRIP_PROFILE", "prod", "local, staging, production"),
        ("TAXI_FORMAT", "xlsx", r"parquet, csv\.gz, csv"),
        ("HTTP_ATTEMPTS", "many", "must be a number"),
        ("SLICE_LOCK_SECONDS", "1h", "must be a number"),
        ("RAW_KEEP_GB", "20GB", "must be a number"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is '{value}'.*{expected}"):
        load_settings({name: value}, root=tmp_path)


def test_a_port_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES_PORT is 'five'"):
        load_settings({**SERVER, "POSTGRES_PORT": "five"}, root=tmp_path)


def test_a_record_of_services_that_is_damaged_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".cantrip").mkdir()
    (tmp_path / ".cantrip" / "services.json").write_text('{"postgres": {')
    with pytest.raises(ConfigurationError, match=r"services\.json can't be read.*Remove it"):
        load_settings({}, root=tmp_path)


def test_no_repr_or_text_shows_a_password(tmp_path: Path) -> None:
    settings = load_settings(SERVER, root=tmp_path)
    for shown in (repr(settings), str(settings), repr(settings.postgres), settings.require_postgres().address):
        assert "s3cret" not in shown


def test_the_url_escapes_what_a_password_may_hold(tmp_path: Path) -> None:
    assert load_settings(SERVER, root=tmp_path).require_postgres().url() == (
        "postgresql://loader:s3cret%2F%40%3A@db.example:5432/warehouse"
    )


def test_a_trailing_slash_of_the_source_makes_no_double_one(tmp_path: Path) -> None:
    assert load_settings({"TAXI_BASE_URL": "http://x/trips/"}, root=tmp_path).taxi.base_url == "http://x/trips"


def test_there_is_always_one_attempt(tmp_path: Path) -> None:
    assert load_settings({"HTTP_ATTEMPTS": "0"}, root=tmp_path).http.attempts == 1


def test_what_is_exported_leads_to_the_same_servers_when_it_is_read_again(tmp_path: Path) -> None:
    settings = load_settings({**SERVER, "POSTGRES_SCHEMA": "trips", "POSTGRES_PORT": "6000"}, root=tmp_path)
    exported = export_environment(settings)
    assert {name: os.environ[name] for name in exported} == exported
    again = load_settings(exported, root=tmp_path)
    assert (again.postgres, again.mage_database_url) == (settings.postgres, settings.mage_database_url)
    assert exported["MAGE_DATA_DIR"] == str(tmp_path / ".cantrip" / "mage")


@pytest.mark.parametrize(("profile", "value"), [("local", "0"), ("staging", None), ("production", None)])
def test_only_the_local_profile_opens_the_notebook_without_a_login(
    profile: str, value: str | None, tmp_path: Path
) -> None:
    exported = export_environment(load_settings({**SERVER, "CANTRIP_PROFILE": profile}, root=tmp_path))
    assert exported.get("REQUIRE_USER_AUTHENTICATION") == value


def test_nothing_is_exported_without_a_server(settings: Settings) -> None:
    before = dict(os.environ)
    with pytest.raises(ConfigurationError, match="cantrip up"):
        export_environment(settings)
    assert dict(os.environ) == before


def test_what_is_remembered_reaches_this_process_and_its_children(tmp_path: Path) -> None:
    remember(TAXI_FORMAT="csv")
    assert load_settings(root=tmp_path).taxi.format == "csv"
    assert child_environment(EXTRA="1")["TAXI_FORMAT"] == "csv"
    assert child_environment(EXTRA="1")["EXTRA"] == "1"
    assert "EXTRA" not in os.environ


def test_settings_can_not_be_changed_by_accident(settings: Settings) -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        settings.profile = "production"  # type: ignore[misc]
    server = PostgresSettings("h", 1, "d", "u", "p")
    assert replace(server, port=2).port == 2
    assert server.port == 1


@pytest.mark.parametrize("text", ["0", "65536", "-1", "5432.5", "nan", "inf", "five"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES_PORT"):
        load_settings({"POSTGRES_PORT": text}, root=tmp_path)
