"""Whose Google servers are used, on which ports, and what is said when they can't be had."""

import logging
import platform
import socket
from pathlib import Path

import pytest

from mage_project.lib.errors import CantripError
from mage_project.lib.local import gcs, google
from mage_project.lib.local.state import free_port, keep_port
from mage_project.lib.settings import GoogleSettings, Settings, load_settings, read_services

THEIRS = "http://127.0.0.1:1"


def settings_of(folder: Path, **environment: str) -> Settings:
    (folder / "home").mkdir(exist_ok=True)
    return load_settings({"CANTRIP_HOME": str(folder / "home"), **environment}, root=folder)


def reserved(folder: Path, **environment: str) -> Settings:
    google.reserve(settings_of(folder, **environment))
    return settings_of(folder, **environment)


# whose server is used


@pytest.mark.parametrize(
    ("environment", "storage", "bigquery"),
    [
        ({}, True, True),
        ({"STORAGE_EMULATOR_HOST": THEIRS}, False, True),
        ({"BIGQUERY_EMULATOR_HOST": "127.0.0.1:1"}, True, False),
        ({"STORAGE_EMULATOR_HOST": THEIRS, "BIGQUERY_EMULATOR_HOST": THEIRS}, False, False),
    ],
    ids=["none is set", "storage is theirs", "bigquery is theirs", "both are theirs"],
)
def test_a_server_that_the_environment_names_is_used_in_place_of_ours(
    tmp_path: Path, environment: dict[str, str], storage: bool, bigquery: bool
) -> None:
    settings = reserved(tmp_path, **environment)
    assert google.is_embedded(settings, google.GCS) is storage
    assert google.is_embedded(settings, google.BIGQUERY) is bigquery


def test_the_address_of_our_own_server_in_the_environment_is_still_ours(tmp_path: Path) -> None:
    """A run exports it for Mage, and a `cantrip up` in Mage's terminal inherits it."""
    endpoint = reserved(tmp_path).require_google().storage_endpoint
    assert endpoint
    assert google.is_embedded(reserved(tmp_path, STORAGE_EMULATOR_HOST=endpoint), google.GCS)


@pytest.mark.parametrize("profile", ["staging", "production"])
@pytest.mark.parametrize("names", [{}, {"GCP_PROJECT": "p", "GCS_BUCKET": "b"}], ids=["unset", "set"])
def test_other_profiles_have_no_servers_of_ours_and_no_address_of_them(
    tmp_path: Path, profile: str, names: dict[str, str]
) -> None:
    postgres = dict.fromkeys(("POSTGRES_HOST", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DBNAME"), "x")
    settings = reserved(tmp_path, CANTRIP_PROFILE=profile, **postgres, **names)
    assert not google.is_embedded(settings, google.GCS)
    assert not google.is_embedded(settings, google.BIGQUERY)
    assert read_services(settings.home) == {}


def test_an_address_that_is_reserved_is_kept(tmp_path: Path) -> None:
    first = reserved(tmp_path).google
    assert first is not None
    assert reserved(tmp_path).google == first
    assert first.storage_endpoint != first.bigquery_endpoint


# ports


def test_a_port_is_kept_while_it_is_free_and_replaced_with_a_notice_when_it_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    free = free_port()
    assert keep_port(free, "BigQuery") == free
    assert caplog.text == ""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        chosen = keep_port(port, "BigQuery")
    assert chosen != port
    assert f"port {port} is in use by another program; BigQuery now listens on {chosen}" in caplog.text


# what is said


def test_a_machine_without_a_storage_server_is_told_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(google, "provide_environment", lambda: tmp_path)
    with pytest.raises(CantripError, match=r"no Cloud Storage server for this machine \(\w+, riscv64\)") as refused:
        gcs.start(reserved(tmp_path))
    assert "Set STORAGE_EMULATOR_HOST" in str(refused.value)


def test_a_storage_server_of_theirs_that_is_down_is_named(tmp_path: Path) -> None:
    theirs = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CantripError, match=f"{theirs} can't be reached") as refused:
        gcs.ensure_bucket(GoogleSettings(project="p", bucket="b", storage_endpoint=theirs))
    assert "unset STORAGE_EMULATOR_HOST" in str(refused.value)


def test_an_environment_that_cannot_be_made_is_one_error_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "cantrip"
    lines = ["cantrip: making it", "error: no route to the index", "error: uv could not make it."]
    script.write_text(f"import sys\nsys.stderr.write({chr(10).join(lines)!r} + chr(10))\nsys.exit(2)\n")
    monkeypatch.setattr(google, "ROOT", tmp_path)
    with pytest.raises(CantripError) as refused:
        google.provide_environment()
    assert "no route to the index uv could not make it. Mend that" in str(refused.value)
    assert "error: " not in str(refused.value)
    assert caplog.messages == ["cantrip: making it"]


def test_the_lock_of_their_environment_names_the_public_index_only() -> None:
    lock = (google.ROOT / "services" / "google" / "uv.lock").read_text()
    hosts = {part.split("/")[0] for part in lock.split("https://")[1:]}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "file://" not in lock
