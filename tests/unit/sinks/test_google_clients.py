"""Local servers are asked anonymously, Google's own with the machine's credentials or a key that is named."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google.auth
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2.credentials import Credentials

from mage_project.lib.errors import ConfigurationError, SinkError
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.google_clients import SCOPES, bigquery_client, storage_client

Make = Callable[[GoogleSettings], Any]
MAKERS: list[Make] = [storage_client, bigquery_client]
CLOUD = GoogleSettings("acme", "acme-trips")


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[str, str]]:
    """Two addresses at which somebody listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield tuple(f"http://127.0.0.1:{each.getsockname()[1]}" for each in (one, other))  # type: ignore[misc]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What google.auth.default was asked for; it answers with credentials of a user."""
    found: list[Any] = []

    def default(scopes: list[str]) -> tuple[Credentials, str]:
        found.append(scopes)
        return Credentials(token="of the machine"), "another-project"

    monkeypatch.setattr(google.auth, "default", default)
    return found


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service account's key, made up."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    facts = {
        "type": "service_account",
        "client_email": "loader@acme.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:1/token",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    }
    path = tmp_path_factory.mktemp("key") / "key.json"
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("keyed", [False, True], ids=["no key", "a key is named"])
def test_a_local_server_is_asked_anonymously_at_its_address(
    make: Make, keyed: bool, listening: tuple[str, str], key_file: Path, asked: list[Any]
) -> None:
    storage, bigquery = listening
    client = make(GoogleSettings("p", "b", "", storage, bigquery, key_file if keyed else None))
    assert isinstance(client._credentials, AnonymousCredentials)
    assert (storage if make is storage_client else bigquery) == client._connection.API_BASE_URL
    assert client.project == "p"
    assert asked == []


@pytest.mark.parametrize("make", MAKERS)
def test_a_local_server_that_is_down_is_said_at_once(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SinkError, match=rf"nothing answers at {endpoint} \(.*refused.*Start it with `\./cantrip up`"):
        make(GoogleSettings("p", "b", storage_endpoint=endpoint, bigquery_endpoint=endpoint))


@pytest.mark.parametrize("make", MAKERS)
def test_google_is_asked_with_the_machines_credentials_for_our_project(make: Make, asked: list[Any]) -> None:
    client = make(CLOUD)
    assert asked == [SCOPES]
    assert client._credentials.token == "of the machine"
    assert client.project == "acme"
    assert ".googleapis.com" in client._connection.API_BASE_URL


@pytest.mark.parametrize("make", MAKERS)
def test_google_is_asked_with_a_key_only_when_one_is_named(make: Make, key_file: Path, asked: list[Any]) -> None:
    client = make(GoogleSettings("acme", "acme-trips", key_file=key_file))
    assert client._credentials.service_account_email == "loader@acme.iam.gserviceaccount.com"
    assert client.project == "acme"
    assert asked == []


@pytest.mark.parametrize("make", MAKERS)
def test_without_credentials_the_remedy_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(scopes: list[str]) -> None:
        raise DefaultCredentialsError("Your default credentials were not found.\nSee https://cloud.google.com/docs.")

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(ConfigurationError) as caught:
        make(CLOUD)
    assert str(caught.value) == (
        "there are no credentials for Google Cloud: Your default credentials were not found. Run `gcloud auth "
        "application-default login`, give the service its own account, or name a key file in "
        "GOOGLE_SERVICE_ACC_KEY_FILEPATH."
    )


@pytest.mark.parametrize("content", ["", "{}", '{"type": "authorized_user"}', "not JSON"])
def test_a_key_file_that_holds_no_key_is_refused_without_its_content(content: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"no credentials for Google Cloud.*GOOGLE_SERVICE_ACC_KEY_FILEPATH"):
        storage_client(GoogleSettings("acme", "acme-trips", key_file=path))
