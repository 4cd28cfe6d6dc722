"""What a run needs to know of its surroundings: frozen facts, read from the environment elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from mage_project.lib.errors import ConfigurationError

PROFILES = ("local", "staging", "production")
TAXI_FORMATS = ("parquet", "csv.gz", "csv")
TLC_BASE_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
TLC_ZONES_URL = "https://d37ci6vzurychx.cloudfront.net/misc/taxi_zone_lookup.csv"
# The project and bucket of the local servers. The project is exported to Mage, which hides the values of
# environment variables of eight letters and more in what a block shows: it must not be part of the bucket's name then.
LOCAL_PROJECT = "cantrip"
LOCAL_BUCKET = "cantrip-local"


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
class GoogleSettings:
    """Project, bucket and datasets of Google Cloud, and where its API is when that is not Google's own.

    `storage_endpoint` and `bigquery_endpoint` are set for local servers, which ask for no
    credentials. `key_file` is set only when a key is named; otherwise application default credentials.
    """

    project: str
    bucket: str
    dataset_suffix: str = ""
    storage_endpoint: str | None = None
    bigquery_endpoint: str | None = None
    key_file: Path | None = None

    def dataset(self, name: str) -> str:
        """Give a dataset's name in BigQuery: `ny_taxi`, with the suffix behind."""
        return f"{name}{self.dataset_suffix}"


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
    google: GoogleSettings | None = None
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

    def require_google(self) -> GoogleSettings:
        """Give Google Cloud's project and bucket, or the local servers', or say how to get them."""
        if self.google is None and self.profile != "local":
            raise ConfigurationError(
                f"GCP_PROJECT or GCS_BUCKET is not set, and the profile is {self.profile}, which has no local servers. "
                "Set both in .env (dev.env describes each variable) or use --profile local."
            )
        if self.google is None:
            raise ConfigurationError(
                "the local servers for Cloud Storage and BigQuery are not running. Start them with `./cantrip up`."
            )
        return self.google
