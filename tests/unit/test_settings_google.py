"""Where Google's APIs are: local servers in `local`, whatever the machine has; Google's own elsewhere."""

import json
import os
import socket
from pathlib import Path
from typing import NoReturn

import pytest

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.settings import (
    LOCAL_BUCKET,
    LOCAL_PROJECT,
    GoogleSettings,
    Settings,
    export_environment,
    load_settings,
)
from mage_project.lib.settings.export import ANY_TOKEN

SERVER = {"POSTGRES_HOST": "db", "POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p", "POSTGRES_DBNAME": "d"}
EMULATORS = {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1", "BIGQUERY_EMULATOR_HOST": "http://127.0.0.1:2"}
CLOUD = {**SERVER, "GCP_PROJECT": "acme", "GCS_BUCKET": "acme-trips"}


def read(folder: Path, profile: str = "local", **values: str) -> Settings:
    return load_settings({"CANTRIP_PROFILE": profile, **values}, root=folder)


def google(folder: Path, profile: str = "local", **values: str) -> GoogleSettings:
    return read(folder, profile, **values).require_google()


def with_local_servers(folder: Path, **missing: None) -> None:
    (folder / ".cantrip").mkdir()
    services = {"gcs": {"endpoint": "http://127.0.0.1:4443"}, "bigquery": {"endpoint": "http://127.0.0.1:9050"}}
    services = {name: facts for name, facts in services.items() if name not in missing}
    (folder / ".cantrip" / "services.json").write_text(json.dumps(services))


def test_local_is_the_servers_that_run_here(tmp_path: Path) -> None:
    with_local_servers(tmp_path)
    assert google(tmp_path) == GoogleSettings(
        project=LOCAL_PROJECT,
        bucket=LOCAL_BUCKET,
        storage_endpoint="http://127.0.0.1:4443",
        bigquery_endpoint="http://127.0.0.1:9050",
    )


@pytest.mark.parametrize("missing", ["gcs", "bigquery"])
def test_local_without_one_of_the_servers_says_how_to_start_them(missing: str, tmp_path: Path) -> None:
    with_local_servers(tmp_path, **{missing: None})
    settings = read(tmp_path)
    assert settings.google is None
    with pytest.raises(ConfigurationError, match=r"Cloud Storage and BigQuery are not running.*`\./cantrip up`"):
        settings.require_google()


def test_local_without_servers_never_turns_to_google_whatever_is_set(tmp_path: Path) -> None:
    assert (
        read(tmp_path, GCP_PROJECT="acme", GCS_BUCKET="acme-trips", GOOGLE_APPLICATION_CREDENTIALS="k").google is None
    )


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [
        ("127.0.0.1:4443", "http://127.0.0.1:4443"),
        ("http://127.0.0.1:4443", "http://127.0.0.1:4443"),
        ("https://gcs.test", "https://gcs.test"),
        ("gcs:80", "http://gcs:80"),
    ],
)
def test_an_emulators_host_is_taken_with_and_without_its_scheme(host: str, endpoint: str, tmp_path: Path) -> None:
    found = google(tmp_path, STORAGE_EMULATOR_HOST=host, BIGQUERY_EMULATOR_HOST=host)
    assert (found.storage_endpoint, found.bigquery_endpoint) == (endpoint, endpoint)


def test_an_emulator_that_is_named_wins_over_the_server_that_runs_here(tmp_path: Path) -> None:
    with_local_servers(tmp_path)
    found = google(tmp_path, STORAGE_EMULATOR_HOST="gcs:80")
    assert (found.storage_endpoint, found.bigquery_endpoint) == ("http://gcs:80", "http://127.0.0.1:9050")


def test_local_never_uses_a_key_file(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text("{}")
    for path in (key, tmp_path / "missing.json"):
        assert google(tmp_path, **EMULATORS, GOOGLE_SERVICE_ACC_KEY_FILEPATH=str(path)).key_file is None


@pytest.mark.parametrize("profile", ["staging", "production"])
class TestElsewhere:
    def test_it_is_googles_own_with_default_credentials(self, profile: str, tmp_path: Path) -> None:
        with_local_servers(tmp_path)
        assert google(tmp_path, profile, **CLOUD) == GoogleSettings(project="acme", bucket="acme-trips")

    def test_it_is_the_emulator_that_is_named(self, profile: str, tmp_path: Path) -> None:
        found = google(tmp_path, profile, **CLOUD, **EMULATORS)
        assert (found.storage_endpoint, found.bigquery_endpoint) == ("http://127.0.0.1:1", "http://127.0.0.1:2")

    @pytest.mark.parametrize("missing", ["GCP_PROJECT", "GCS_BUCKET"])
    def test_project_and_bucket_are_needed_only_by_who_asks_for_them(
        self, missing: str, profile: str, tmp_path: Path
    ) -> None:
        settings = read(tmp_path, profile, **{name: value for name, value in CLOUD.items() if name != missing})
        assert settings.require_postgres().host == "db"
        with pytest.raises(ConfigurationError, match=rf"{missing}.*is not set, and the profile is {profile}.*dev\.env"):
            settings.require_google()

    def test_a_key_file_is_used_where_one_is_named(self, profile: str, tmp_path: Path) -> None:
        key = tmp_path / "key.json"
        key.write_text("{}")
        assert google(tmp_path, profile, **CLOUD, GOOGLE_SERVICE_ACC_KEY_FILEPATH=str(key)).key_file == key

    def test_a_key_file_that_is_none_is_refused_with_the_remedy(self, profile: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"missing\.json, which is no file.*default credentials"):
            read(tmp_path, profile, **CLOUD, GOOGLE_SERVICE_ACC_KEY_FILEPATH=str(tmp_path / "missing.json"))


def test_a_datasets_name_carries_the_suffix(tmp_path: Path) -> None:
    assert google(tmp_path, **EMULATORS).dataset("ny_taxi") == "ny_taxi"
    assert google(tmp_path, **EMULATORS, DATASET_SUFFIX="_dev").dataset("ny_taxi") == "ny_taxi_dev"


def test_mage_and_child_processes_are_led_to_the_same_servers(tmp_path: Path) -> None:
    with_local_servers(tmp_path)
    settings = read(tmp_path, **SERVER)
    exported = export_environment(settings)
    assert {name: os.environ[name] for name in exported} == exported
    (tmp_path / ".cantrip" / "services.json").unlink()
    assert load_settings(exported, root=tmp_path).google == settings.google
    assert exported["GOOGLE_CLOUD_PROJECT"] == LOCAL_PROJECT  # Google's own libraries read this one


def test_without_google_nothing_of_it_is_exported(tmp_path: Path) -> None:
    exported = export_environment(read(tmp_path, **SERVER))
    assert not [name for name in exported if name.startswith(("G", "STORAGE", "BIGQUERY", "DATASET"))]


def test_googles_own_is_asked_with_the_machines_credentials(tmp_path: Path) -> None:
    exported = export_environment(read(tmp_path, "staging", **CLOUD))
    assert not {"GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST"} & set(exported)


def test_the_local_servers_get_a_token_that_nobody_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.auth import default
    from google.auth.transport.requests import Request

    def offline(*_arguments: object, **_options: object) -> NoReturn:
        raise AssertionError("asked the network")

    exported = export_environment(read(tmp_path, **SERVER, **EMULATORS, GOOGLE_SERVICE_ACC_KEY_FILEPATH="key.json"))
    assert exported["GOOGLE_APPLICATION_CREDENTIALS"] == str(ANY_TOKEN)
    assert exported["GOOGLE_SERVICE_ACC_KEY_FILEPATH"] == ""
    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    credentials, _ = default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    headers: dict[str, str] = {}
    credentials.before_request(Request(), "GET", "http://127.0.0.1:2", headers)
    assert credentials.valid
    assert headers["authorization"] == "Bearer local"


def test_the_token_for_local_servers_is_no_secret() -> None:
    document = json.loads(ANY_TOKEN.read_text())
    secrets = {name: value for name, value in document.items() if name not in ("type", "expiry")}
    assert set(secrets.values()) == {"local"}
