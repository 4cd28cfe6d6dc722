"""Reading the environment: `load_settings` and what it is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from mage_project.lib.errors import ConfigurationError
from mage_project.lib.settings.model import (
    LOCAL_BUCKET,
    LOCAL_PROJECT,
    PROFILES,
    TAXI_FORMATS,
    TLC_BASE_URL,
    TLC_ZONES_URL,
    GoogleSettings,
    HttpSettings,
    PostgresSettings,
    RetentionSettings,
    Settings,
    TaxiSettings,
)
from mage_project.lib.settings.services import read_services

ROOT = Path(__file__).resolve().parents[3]


def load_settings(environment: Mapping[str, str] | None = None, root: Path = ROOT) -> Settings:
    """Read the environment once. Raises ConfigurationError naming the variable and the remedy."""
    values = _merged(environment, root)
    profile = _choice(values, "CANTRIP_PROFILE", "local", PROFILES)
    home = root / values.get("CANTRIP_HOME", ".cantrip")
    embedded = read_services(home).get("postgres")
    host = values.get("POSTGRES_HOST")
    if not host and profile != "local":
        raise ConfigurationError(
            f"POSTGRES_HOST is not set, and the profile is {profile}, which has no embedded server. "
            "Set it in .env (dev.env describes each variable) or use --profile local."
        )
    postgres = _postgres_from(values, host) if host else _postgres_from_service(values, embedded)
    mage_url = values.get("MAGE_DATABASE_CONNECTION_URL")
    if not mage_url and postgres:
        mage_url = postgres.url("mage", driver="postgresql+psycopg2")
    return Settings(
        profile=profile,
        home=home,
        postgres=postgres,
        postgres_is_embedded=not host,
        mage_database_url=mage_url,
        embedded_port=None if host or "POSTGRES_PORT" not in values else _port(values),
        slice_lock_seconds=_number(values, "SLICE_LOCK_SECONDS", 600.0),
        google=_google_from(values, profile, home),
        taxi=TaxiSettings(
            base_url=values.get("TAXI_BASE_URL", TLC_BASE_URL).rstrip("/"),
            format=_choice(values, "TAXI_FORMAT", "parquet", TAXI_FORMATS),
            zones_url=values.get("TAXI_ZONES_URL", TLC_ZONES_URL),
        ),
        http=HttpSettings(
            connect_seconds=_number(values, "HTTP_CONNECT_SECONDS", 10.0),
            read_seconds=_number(values, "HTTP_READ_SECONDS", 60.0),
            attempts=max(1, int(_number(values, "HTTP_ATTEMPTS", 5))),
        ),
        retention=RetentionSettings(
            raw_days=_number(values, "RAW_KEEP_DAYS", 30.0),
            raw_gb=_number(values, "RAW_KEEP_GB", 20.0),
            staged_hours=_number(values, "STAGED_KEEP_HOURS", 24.0),
            variables_days=_number(values, "VARIABLES_KEEP_DAYS", 30.0),
        ),
    )


def _merged(environment: Mapping[str, str] | None, root: Path) -> dict[str, str]:
    """The environment over `.env`; an empty value counts as unset, as compose passes them."""
    from_file = dotenv_values(root / ".env") if environment is None else {}
    found = {**from_file, **(os.environ if environment is None else environment)}
    return {name: value for name, value in found.items() if value}


def _postgres_from(values: Mapping[str, str], host: str) -> PostgresSettings:
    missing = [name for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DBNAME") if name not in values]
    if missing:
        raise ConfigurationError(
            f"POSTGRES_HOST is set to {host}, but {' and '.join(missing)} is not set. "
            "Set it in .env (dev.env describes each variable), or unset POSTGRES_HOST to use the embedded server."
        )
    return PostgresSettings(
        host=host,
        port=_port(values),
        dbname=values["POSTGRES_DBNAME"],
        user=values["POSTGRES_USER"],
        password=values["POSTGRES_PASSWORD"],
        schema=values.get("POSTGRES_SCHEMA", "public"),
    )


def _postgres_from_service(values: Mapping[str, str], service: dict | None) -> PostgresSettings | None:
    if service is None:
        return None
    return PostgresSettings(
        host=service["host"],
        port=service["port"],
        dbname=service["dbname"],
        user=service["user"],
        password=service["password"],
        schema=values.get("POSTGRES_SCHEMA", "public"),
    )


def _google_from(values: Mapping[str, str], profile: str, home: Path) -> GoogleSettings | None:
    """Local servers in `local`, Google's own elsewhere; an emulator host that is set wins over both.

    In `local` nothing is ever asked of Google itself, whatever credentials the machine has.
    """
    services = read_services(home)
    storage = values.get("STORAGE_EMULATOR_HOST")
    bigquery = values.get("BIGQUERY_EMULATOR_HOST")
    if profile == "local":
        storage = storage or services.get("gcs", {}).get("endpoint")
        bigquery = bigquery or services.get("bigquery", {}).get("endpoint")
        if not storage or not bigquery:
            return None
    elif "GCP_PROJECT" not in values or "GCS_BUCKET" not in values:
        return None
    key = values.get("GOOGLE_SERVICE_ACC_KEY_FILEPATH")
    if key and not Path(key).is_file() and profile != "local":
        raise ConfigurationError(
            f"GOOGLE_SERVICE_ACC_KEY_FILEPATH is {key}, which is no file. Name the key file, or unset the variable "
            "to use application default credentials."
        )
    return GoogleSettings(
        project=values.get("GCP_PROJECT", LOCAL_PROJECT),
        bucket=values.get("GCS_BUCKET", LOCAL_BUCKET),
        dataset_suffix=values.get("DATASET_SUFFIX", ""),
        storage_endpoint=_with_scheme(storage),
        bigquery_endpoint=_with_scheme(bigquery),
        key_file=Path(key) if key and profile != "local" else None,
    )


def _with_scheme(host: str | None) -> str | None:
    """Emulator hosts are written with and without `http://`."""
    return host if host is None or "://" in host else f"http://{host}"


def _choice(values: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = values.get(name, default)
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
    return value


def _port(values: Mapping[str, str]) -> int:
    text = values.get("POSTGRES_PORT", "5432")
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigurationError(f"POSTGRES_PORT is {text!r}; it must be a port from 1 to 65535.")
    return int(text)


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(name)
    try:
        return default if text is None else float(text)
    except ValueError:
        raise ConfigurationError(f"{name} is {text!r}; it must be a number.") from None
