"""Objects in a bucket of Cloud Storage: written conditionally, checked, and errors in one paragraph."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import google_crc32c
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError, TransportError
from requests.exceptions import RequestException

from mage_project.lib.errors import ConfigurationError, SinkError
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.google_clients import reason_of

if TYPE_CHECKING:
    from google.cloud import storage  # type: ignore[attr-defined]

# a resumable upload holds one such piece in memory; a multiple of 256 KB, as the API asks
CHUNK_BYTES = 8 << 20


def crc32c_of(content: Any) -> str:
    """Give the checksum of bytes as Cloud Storage writes it: base64 of the big-endian CRC32C."""
    return base64.b64encode(google_crc32c.Checksum(bytes(content)).digest()).decode()


def crc32c_of_file(path: Any) -> str:
    """Give the checksum of a local file."""
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for _ in checksum.consume(file, CHUNK_BYTES):
            pass
    return base64.b64encode(checksum.digest()).decode()


def require_checksum(blob: storage.Blob, expected: str, slice: str) -> None:
    """Raise SinkError unless the server stored the bytes that were sent."""
    if blob.crc32c != expected:
        raise SinkError(
            f"{slice}: gs://{blob.bucket.name}/{blob.name} has the checksum {blob.crc32c}, where {expected} was sent. "
            "Nothing was published; run it again."
        )


def ensure_bucket(client: storage.Client, google: GoogleSettings) -> storage.Bucket:
    """Give the bucket; a local server's is made when it is missing."""
    bucket = client.bucket(google.bucket)
    if google.storage_endpoint and not bucket.exists():
        with suppress(exceptions.Conflict):  # another process made it meanwhile
            bucket = client.create_bucket(google.bucket)
    return bucket


def replaced_meanwhile(slice: str, where: str) -> SinkError:
    """Say that another run was first."""
    return SinkError(
        f"{slice}: another run replaced {where} while this one was writing. Its rows stand; nothing of this run was "
        "published. Run it again if this one's are to stand."
    )


def generation_of(bucket: storage.Bucket, path: str) -> int:
    """Give the generation of an object, or 0 when there is none: what a conditional write is to match."""
    blob = bucket.get_blob(path)
    return int(blob.generation) if blob else 0


@contextmanager
def bucket_errors(google: GoogleSettings, slice: str, doing: str) -> Iterator[None]:
    """Turn the client's errors into one paragraph; it has retried what a retry can mend."""
    from google.cloud.storage.exceptions import DataCorruption

    where = f"gs://{google.bucket}"
    try:
        yield
    except exceptions.NotFound as error:
        raise ConfigurationError(
            f"{slice}: {doing}: there is no bucket {where}. Create it with `gcloud storage buckets create {where} "
            f"--project {google.project}` (`terraform apply` does), or check GCS_BUCKET."
        ) from error
    except (TransportError, DataCorruption) as error:  # the way to the server, not its answer
        raise _failed(google, slice, doing, error) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        raise ConfigurationError(
            f"{slice}: {doing}: {where} refuses: {reason_of(error)}. Give the account the role: `gcloud storage "
            f"buckets add-iam-policy-binding {where} --member=… --role=roles/storage.objectAdmin`. "
            "Nothing was published."
        ) from error
    except (exceptions.GoogleAPIError, RequestException, OSError) as error:
        raise _failed(google, slice, doing, error) from error


def _failed(google: GoogleSettings, slice: str, doing: str, error: Exception) -> SinkError:
    remedy = "Is it running? `./cantrip up` starts it." if google.storage_endpoint else "Run it again later."
    return SinkError(
        f"{slice}: {doing}: gs://{google.bucket} failed: {reason_of(error)}. "
        f"The slice holds what it held before. {remedy}"
    )
