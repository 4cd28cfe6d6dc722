"""The one place that decides where Google's APIs are and with what credentials they are asked.

A local server (an emulator's address is set): anonymous. Google's own: application default
credentials, or a service account's key where one is named.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mage_project.lib.errors import ConfigurationError, SinkError
from mage_project.lib.settings import GoogleSettings

if TYPE_CHECKING:
    from google.cloud import bigquery, storage  # type: ignore[attr-defined]

CONNECT_SECONDS = 5
SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]


def storage_client(google: GoogleSettings) -> storage.Client:
    """Give a client for Cloud Storage. Raises ConfigurationError when there are no credentials.

    SinkError when a local server is down.
    """
    from google.cloud import storage  # type: ignore[attr-defined]

    return storage.Client(project=google.project, **_access(google, google.storage_endpoint))


def bigquery_client(google: GoogleSettings) -> bigquery.Client:
    """Give a client for BigQuery. Raises ConfigurationError when there are no credentials.

    SinkError when a local server is down.
    """
    from google.cloud import bigquery

    return bigquery.Client(project=google.project, **_access(google, google.bigquery_endpoint))


def reason_of(error: Exception) -> str:
    """Give the server's own words in one line."""
    text = str(getattr(error, "message", None) or error)
    return " ".join(text.split())[:300].rstrip(".")


def _access(google: GoogleSettings, endpoint: str | None) -> dict[str, Any]:
    from google.auth import default
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError
    from google.oauth2 import service_account

    if endpoint:
        _require_listening(endpoint)
        return {"credentials": AnonymousCredentials(), "client_options": {"api_endpoint": endpoint}}
    try:
        if google.key_file:
            credentials = service_account.Credentials.from_service_account_file(google.key_file, scopes=SCOPES)
        else:
            credentials, _ = default(scopes=SCOPES)
    except (DefaultCredentialsError, ValueError) as error:
        key = f" in the key file {google.key_file}" if google.key_file else ""
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigurationError(
            f"there are no credentials for Google Cloud{key}: {reason}. Run `gcloud auth "
            "application-default login`, give the service its own account, or name a key file in "
            "GOOGLE_SERVICE_ACC_KEY_FILEPATH."
        ) from error
    return {"credentials": credentials}


def _require_listening(endpoint: str) -> None:
    """Say at once that a local server is down: the client would try to reach it for two minutes."""
    parts = urlsplit(endpoint)
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), CONNECT_SECONDS
        ).close()
    except OSError as error:
        raise SinkError(
            f"nothing answers at {endpoint} ({error.strerror or error}), where the local server should be. Nothing was "
            "written. Start it with `./cantrip up`, or check STORAGE_EMULATOR_HOST and BIGQUERY_EMULATOR_HOST."
        ) from error
