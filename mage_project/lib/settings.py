"""The one reader of the environment.

`load_settings` builds a frozen `Settings` from, in this order: the process's environment, `.env`
at the project's root, and what `cantrip up` left in `.cantrip/services.json` (the address of the
embedded server). `export_environment` writes the same facts back for Mage, whose `io_config.yaml`
and child processes know nothing but the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dotenv import dotenv_values

from mage_project.lib.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ("local", "staging", "production")
TAXI_FORMATS = ("parquet", "csv.gz", "csv")
TLC_BASE_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
TLC_ZONES_URL = "https://d37ci6vzurychx.cloudfront.net/misc/taxi_zone_lookup.csv"


@dataclass(frozen=True)
class PostgresSettings:
    """How to reach one PostgreSQL database; `password` never shows in a repr."""

    host: str
    port: int
    dbname: str
    user: str
    password: str = field(repr=False)
    schema: str = "public"

    def url(self, dbname: str | None = None, driver: str = "postgresql") -> str:
        """Give the connection URL, with the password: never log it."""
        user, password = quote(self.user, safe=""), quote(self.password, safe="")
        return f"{driver}://{user}:{password}@{self.host}:{self.port}/{quote(dbname or self.dbname)}"

    @property
    def address(self) -> str:
        """Where it is, without credentials, for messages."""
        return f"{self.host}:{self.port}/{self.dbname}"


@dataclass(frozen=True)
class TaxiSettings:
    """Where trips come from: `{base_url}/{color}_tripdata_{yyyy-mm}.{format}`."""

    base_url: str = TLC_BASE_URL
    format: str = "parquet"
    zones_url: str = TLC_ZONES_URL


@dataclass(frozen=True)
class HttpSettings:
    """Time-outs in seconds; `attempts` counts the first one."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    attempts: int = 5


@dataclass(frozen=True)
class RetentionSettings:
    """What `cantrip clean` (and every load, for staged files) keeps."""

    raw_days: float = 30.0
    raw_gb: float = 20.0
    staged_hours: float = 24.0
    variables_days: float = 30.0


@dataclass(frozen=True)
class Settings:
    """All that a run needs to know of its surroundings."""

    profile: str
    home: Path
    postgres: PostgresSettings | None
    postgres_is_embedded: bool
    mage_database_url: str | None = field(repr=False)
    embedded_port: int | None = None
    slice_lock_seconds: float = 600.0
    taxi: TaxiSettings = field(default_factory=TaxiSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)

    @property
    def raw_folder(self) -> Path:
        """Downloaded files, kept by URL and ETag."""
        return self.home / "raw"

    @property
    def staging_folder(self) -> Path:
        """Arrow files that datasets point to."""
        return self.home / "staging"

    @property
    def services_file(self) -> Path:
        """What `cantrip up` wrote about the local services."""
        return self.home / "services.json"

    @property
    def mage_data_folder(self) -> Path:
        """Where Mage keeps block outputs and logs."""
        return self.home / "mage"

    def require_postgres(self) -> PostgresSettings:
        """Give the warehouse's address or say how to get one."""
        if self.postgres is None:
            raise ConfigurationError(
                "POSTGRES_HOST is not set and the embedded server is not running. "
                "Start it with `./cantrip up`, or copy dev.env to .env and set POSTGRES_HOST."
            )
        return self.postgres


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


def export_environment(settings: Settings) -> dict[str, str]:
    """Set, and give, the variables that Mage and `io_config.yaml` read. Call before importing Mage."""
    postgres = settings.require_postgres()
    exported = {
        "CANTRIP_PROFILE": settings.profile,
        "POSTGRES_HOST": postgres.host,
        "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_DBNAME": postgres.dbname,
        "POSTGRES_SCHEMA": postgres.schema,
        "POSTGRES_USER": postgres.user,
        "POSTGRES_PASSWORD": postgres.password,
        "MAGE_DATABASE_CONNECTION_URL": settings.mage_database_url or "",
        "MAGE_DATA_DIR": str(settings.mage_data_folder),
        # a laptop's notebook on 127.0.0.1 needs no login; elsewhere Mage's own default (a login) stays
        **({"REQUIRE_USER_AUTHENTICATION": "0"} if settings.profile == "local" else {}),
    }
    os.environ.update(exported)
    return exported


def child_environment(**extra: str) -> dict[str, str]:
    """Give a copy of this process's environment for a child process, with `extra` over it."""
    return {**os.environ, **extra}


def remember(**values: str) -> None:
    """Set variables for this process and its children, as a command-line option would."""
    os.environ.update(values)


def _merged(environment: Mapping[str, str] | None, root: Path) -> dict[str, str]:
    """The environment over `.env`; an empty value counts as unset, as compose passes them."""
    from_file = dotenv_values(root / ".env") if environment is None else {}
    found = {**from_file, **(os.environ if environment is None else environment)}
    return {name: value for name, value in found.items() if value}


def read_services(home: Path) -> dict[str, dict[str, Any]]:
    """Give what `cantrip up` wrote about each local service; nothing says that it still runs."""
    try:
        return json.loads((home / "services.json").read_text())
    except FileNotFoundError:
        return {}
    except PermissionError as error:
        raise ConfigurationError(
            f"{home} belongs to another user, so the local services can't be looked up. "
            "Set CANTRIP_HOME to a folder that you own."
        ) from error
    except NotADirectoryError as error:
        raise ConfigurationError(
            f"CANTRIP_HOME is {home}, which is no folder. Set it to a folder that you own."
        ) from error
    except (json.JSONDecodeError, OSError) as error:
        raise ConfigurationError(
            f"{home / 'services.json'} can't be read ({error}). Remove it and run `./cantrip up`."
        ) from error


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
