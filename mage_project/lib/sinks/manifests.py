"""The manifests in a bucket: read, published on condition, and compared with the files that they list."""

from __future__ import annotations

import logging
import re
from typing import Any

from google.api_core import exceptions

from mage_project.lib.errors import DataError, SourceError, about_slice
from mage_project.lib.manifest import Manifest
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.buckets import bucket_errors, ensure_bucket, generation_of, replaced_meanwhile
from mage_project.lib.sinks.google_clients import storage_client

logger = logging.getLogger(__name__)


def manifest_path(prefix: str, slice: str) -> str:
    """Give where a slice's manifest lies; what the prefix says of the slice is not said again.

    `green/2021-02` under `nyc_taxi_data/green` has `nyc_taxi_data/green/_manifests/2021-02.json`.
    """
    first, _, rest = slice.partition("/")
    return f"{prefix}/_manifests/{file_slug(rest if rest and prefix.endswith(f'/{first}') else slice)}.json"


def file_slug(slice: str) -> str:
    """Give a slice as a part of a file's name: `_` for `/`, and no two slices alike."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: "_" if found[0] == "/" else f"~{ord(found[0]):x}~", slice)


def read_manifest(google: GoogleSettings, prefix: str, slice: str, client: Any = None) -> Manifest | None:
    """Give the slice's published manifest, or None when there is none."""
    return manifest_at(google, manifest_path(prefix, slice), slice, client)


def manifest_at(google: GoogleSettings, path: str, slice: str, client: Any = None) -> Manifest | None:
    """Give the manifest that lies at `path`, or None when there is none."""
    client = client or storage_client(google)
    with bucket_errors(google, slice, f"reading {path}"):
        blob = ensure_bucket(client, google).get_blob(path)
        if blob is None:
            return None
        try:
            text = blob.download_as_text(if_generation_match=blob.generation)
        except (exceptions.NotFound, exceptions.PreconditionFailed):
            return manifest_at(google, path, slice, client)  # published anew between the two questions
        return Manifest.from_json(text, google.bucket, path, int(blob.generation))


def require_manifest(google: GoogleSettings, prefix: str, slice: str) -> Manifest:
    """Give the slice's published manifest. Raises SourceError when there is none, naming the pipeline to run."""
    with about_slice(slice):
        manifest = read_manifest(google, prefix, slice)
        if manifest is None:
            raise SourceError(
                f"{slice}: nothing has landed: there is no gs://{google.bucket}/{manifest_path(prefix, slice)}. "
                "Run the pipeline that writes it first (taxi: ./cantrip run api_to_gcs for the same date and color)."
            )
        return manifest


def broken_files(google: GoogleSettings, manifest: Manifest) -> list[str]:
    """Compare what a manifest lists with what the bucket holds; say of each file that differs how."""
    client = storage_client(google)
    found: dict[str, Any] = {}
    with bucket_errors(google, manifest.slice, f"checking {manifest.path}"):
        for day in sorted({file.path.rpartition("/")[0] for file in manifest.files}):
            fields = "items(name,size,crc32c),nextPageToken"
            found |= {blob.name: blob for blob in client.list_blobs(google.bucket, prefix=f"{day}/", fields=fields)}
    broken = []
    for file in manifest.files:
        blob = found.get(file.path)
        if blob is None:
            broken.append(f"{file.path} is missing")
        elif blob.size != file.bytes:
            broken.append(f"{file.path} was altered: {blob.size:,} bytes, not {file.bytes:,}")
        elif blob.crc32c != file.crc32c:
            broken.append(f"{file.path} was altered: checksum {blob.crc32c}, not {file.crc32c}")
    return broken


def published_files(google: GoogleSettings, prefix: str, slice: str, client: Any) -> tuple[int, set[str]]:
    """Give the generation of the slice's manifest (0: there is none) and the files that it lists.

    A damaged one lists none that can be relied on; it can be replaced like any other.
    """
    path = manifest_path(prefix, slice)
    try:
        manifest = manifest_at(google, path, slice, client)
    except DataError as error:
        logger.warning("%s It is replaced.", error)
        return generation_of(client.bucket(google.bucket), path), set()
    return (manifest.generation or 0, {file.path for file in manifest.files}) if manifest else (0, set())


def publish_manifest(bucket: Any, manifest: Manifest, replacing: int) -> None:
    """Write a manifest, on condition that it replaces the generation `replacing`. Raises SinkError otherwise."""
    blob = bucket.blob(manifest.path)
    try:
        blob.upload_from_string(manifest.to_json(), content_type="application/json", if_generation_match=replacing)
    except exceptions.PreconditionFailed:
        now = bucket.get_blob(manifest.path)
        if now is None or manifest.attempt not in now.download_as_text():
            raise replaced_meanwhile(manifest.slice, manifest.where) from None
        # it was our own write, whose answer got lost
