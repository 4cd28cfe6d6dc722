"""What a bucket answers becomes one paragraph whose type says how to recover; checksums are Cloud Storage's own."""

import base64
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import RefreshError
from hypothesis import example, given
from hypothesis import strategies as st

from mage_project.lib.errors import CantripError, ConfigurationError, DataError, ReconciliationError, SinkError
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks import buckets
from mage_project.lib.sinks.buckets import (
    bucket_errors,
    crc32c_of,
    crc32c_of_file,
    ensure_bucket,
    generation_of,
    require_checksum,
)

CLOUD = GoogleSettings("acme", "trips")
LOCAL = GoogleSettings("cantrip-local", "trips", storage_endpoint="http://127.0.0.1:1")

# the check value of the CRC catalogue, and those of RFC 3720, appendix B.4
VECTORS = [
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (b"", 0),
]


@pytest.mark.parametrize(("content", "crc"), VECTORS)
def test_a_checksum_is_the_big_endian_crc32c_in_base64(content: bytes, crc: int) -> None:
    assert base64.b64decode(crc32c_of(content)) == crc.to_bytes(4, "big")


def test_a_checksum_looks_as_cloud_storage_writes_it() -> None:
    assert crc32c_of(b"") == "AAAAAA=="
    assert crc32c_of(memoryview(b"123456789")) == crc32c_of(bytearray(b"123456789")) == "4waSgw=="


@given(st.binary(max_size=200))
@example(b"x" * 64)
def test_a_files_checksum_is_that_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "checked"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "CHUNK_BYTES", 64)
        assert crc32c_of_file(path) == crc32c_of(content)


def test_a_piece_of_an_upload_is_of_a_size_that_the_api_takes() -> None:
    assert buckets.CHUNK_BYTES % (256 << 10) == 0


def blob(crc32c: str) -> Any:
    return SimpleNamespace(crc32c=crc32c, name="green/a.parquet", bucket=SimpleNamespace(name="trips"))


def test_other_bytes_than_were_sent_are_never_published() -> None:
    require_checksum(blob("4waSgw=="), "4waSgw==", "green/2021-01")
    with pytest.raises(SinkError) as caught:
        require_checksum(blob("AAAAAA=="), "4waSgw==", "green/2021-01")
    assert str(caught.value) == (
        "green/2021-01: gs://trips/green/a.parquet has the checksum AAAAAA==, where 4waSgw== was sent. "
        "Nothing was published; run it again."
    )


def raised(error: Exception, google: GoogleSettings = CLOUD) -> CantripError:
    with pytest.raises(CantripError) as caught, bucket_errors(google, "green/2021-01", "writing green/a.parquet"):
        raise error
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("green/2021-01: writing green/a.parquet: ")
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_bucket_that_is_not_there_is_a_matter_of_configuration() -> None:
    error = raised(exceptions.NotFound("The specified bucket does not exist."))
    assert type(error) is ConfigurationError
    assert (
        "there is no bucket gs://trips. Create it with `gcloud storage buckets create gs://trips --project acme` "
        "(`terraform apply` does), or check GCS_BUCKET."
    ) in str(error)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.Forbidden("loader@acme does not have storage.objects.create access."),
        exceptions.Unauthorized("Anonymous caller does not have storage.objects.create access."),
        RefreshError("invalid_grant: does not have storage.objects.create access"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_names_the_role_that_is_missing(error: Exception) -> None:
    told = raised(error)
    assert type(told) is ConfigurationError
    assert "gs://trips refuses: " in str(told)
    assert "does not have storage.objects.create access. Give the account the role: " in str(told)
    assert "--role=roles/storage.objectAdmin`. Nothing was published." in str(told)


FAILURES = [
    exceptions.ServiceUnavailable("try again."),
    exceptions.InternalServerError("backend error"),
    exceptions.TooManyRequests("slow down"),
    exceptions.PreconditionFailed("conditionNotMet"),
    exceptions.RetryError("Timeout of 120.0s exceeded", cause=ConnectionRefusedError(111, "Connection refused")),
    requests.exceptions.ConnectionError("HTTPConnectionPool(host='127.0.0.1', port=1): Connection refused"),
    requests.exceptions.ReadTimeout("Read timed out."),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_leaves_the_slice_and_is_tried_again_later(error: Exception) -> None:
    told = raised(error)
    assert type(told) is SinkError
    assert "gs://trips failed: " in str(told)
    assert str(told).endswith(". The slice holds what it held before. Run it again later.")


def test_a_local_server_that_does_not_answer_is_started() -> None:
    told = raised(requests.exceptions.ConnectionError("Connection refused"), LOCAL)
    assert "gs://trips failed: Connection refused. " in str(told)
    assert str(told).endswith("Is it running? `./cantrip up` starts it.")


def test_a_long_answer_is_cut_to_a_paragraph() -> None:
    assert len(str(raised(exceptions.ServiceUnavailable("<html>\n  <body> down\n" * 500)))) < 500


@pytest.mark.parametrize(
    "error",
    [ReconciliationError("rows."), DataError("data."), SinkError("another run.")],
    ids=lambda e: type(e).__name__,
)
def test_our_own_errors_pass_as_they_are(error: CantripError) -> None:
    with pytest.raises(type(error)) as caught, bucket_errors(CLOUD, "green/2021-01", "writing"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("ours")], ids=["Ctrl-C", "a bug"])
def test_what_is_neither_the_buckets_nor_ours_passes_untouched(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, bucket_errors(CLOUD, "green/2021-01", "writing"):
        raise error
    assert caught.value is error


class Client:
    """Stands in for Cloud Storage: buckets that exist, and what was made."""

    def __init__(self, *there: str, conflict: bool = False) -> None:
        self.there, self.conflict, self.made = there, conflict, list[str]()

    def bucket(self, name: str) -> Any:
        return SimpleNamespace(name=name, exists=lambda: name in self.there, get_blob=lambda path: None)

    def create_bucket(self, name: str) -> Any:
        if self.conflict:
            raise exceptions.Conflict("You already own this bucket.")
        self.made.append(name)
        return SimpleNamespace(name=name)


@pytest.mark.parametrize(
    ("google", "client", "made"),
    [
        (LOCAL, Client(), ["trips"]),
        (LOCAL, Client("trips"), []),
        (LOCAL, Client(conflict=True), []),
        (CLOUD, Client(), []),
    ],
    ids=["local and missing", "local and there", "another process is first", "the cloud's"],
)
def test_only_a_local_servers_bucket_is_made(google: GoogleSettings, client: Client, made: list[str]) -> None:
    assert ensure_bucket(cast(Any, client), google).name == "trips"
    assert client.made == made


def test_an_object_that_is_not_there_has_the_generation_0() -> None:
    there = cast(Any, SimpleNamespace(get_blob=lambda path: SimpleNamespace(generation="7") if path == "a" else None))
    assert (generation_of(there, "a"), generation_of(there, "b")) == (7, 0)
