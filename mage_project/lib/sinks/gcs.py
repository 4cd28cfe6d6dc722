"""The Cloud Storage sink: a slice as one Parquet object, or as files by day under a manifest.

*One object* is replaced as a whole: Cloud Storage shows the old one or the new. *Files by day* have
names made of the slice and of a digest of their content, so that nothing a published manifest lists
is ever overwritten by other rows; the manifest is written last, on condition that it replaces the
generation that was read first. Two writers of one slice: one publishes, the other fails. Objects
that were there before and that the new manifest doesn't list go after it is published; those that
a concurrent writer has put there since are its own, and stay.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Semaphore
from typing import Any

import pyarrow as pa
from google.api_core import exceptions

from mage_project.lib.dataset import Dataset
from mage_project.lib.errors import ReconciliationError
from mage_project.lib.manifest import Manifest, ManifestFile
from mage_project.lib.settings import GoogleSettings
from mage_project.lib.sinks.buckets import (
    CHUNK_BYTES,
    bucket_errors,
    crc32c_of,
    crc32c_of_file,
    ensure_bucket,
    generation_of,
    replaced_meanwhile,
    require_checksum,
)
from mage_project.lib.sinks.google_clients import storage_client
from mage_project.lib.sinks.manifests import file_slug, manifest_path, publish_manifest, published_files
from mage_project.lib.sinks.parquet_files import DayRows, encode, rows_by_day, write_one_file
from mage_project.lib.sinks.receipt import Receipt

logger = logging.getLogger(__name__)

PARQUET = "application/vnd.apache.parquet"
UPLOADS = 8  # at once; each is one file of a few megabytes in memory
ENCODERS = 2


@dataclass(frozen=True)
class GcsObject:
    """A slice as one object `path`. `scratch` is a local folder for the file on its way."""

    google: GoogleSettings
    path: str
    scratch: Path

    @property
    def where(self) -> str:
        """The object's address."""
        return f"gs://{self.google.bucket}/{self.path}"

    def replace(self, dataset: Dataset) -> Receipt:
        """Put the dataset's rows in the place of the object.

        Raises SinkError when it fails, or when another run replaced the object meanwhile.
        """
        started, slice = time.monotonic(), dataset.slice
        file = self.scratch / f"{uuid.uuid4().hex}.parquet"
        client = storage_client(self.google)
        try:
            with bucket_errors(self.google, slice, f"writing {self.path}"):
                bucket = ensure_bucket(client, self.google)
                before = generation_of(bucket, self.path)
                rows = write_one_file(dataset, file)
                _require_rows(slice, dataset.rows, rows, self.where)
                blob = bucket.blob(self.path, chunk_size=CHUNK_BYTES)
                blob.metadata = {"slice": slice, "rows": str(rows)}
                expected = crc32c_of_file(file)
                try:
                    blob.upload_from_filename(
                        str(file), content_type=PARQUET, if_generation_match=before, checksum="crc32c"
                    )
                except exceptions.PreconditionFailed:
                    blob.reload()
                    if blob.crc32c != expected:  # else it was our own write, whose answer got lost
                        raise replaced_meanwhile(slice, self.where) from None
                require_checksum(blob, expected, slice)
                size = file.stat().st_size
                return Receipt("gcs", self.where, slice, rows, size, _since(started), files=1, content=expected)
        finally:
            file.unlink(missing_ok=True)


@dataclass(frozen=True)
class GcsPartitions:
    """A slice as files `{prefix}/{partition}=YYYY-MM-DD/…` by day of the column `by_day_of`, under a manifest."""

    google: GoogleSettings
    prefix: str
    partition: str
    by_day_of: str
    scratch: Path

    @property
    def where(self) -> str:
        """Where the partitions lie."""
        return f"gs://{self.google.bucket}/{self.prefix}"

    def replace(self, dataset: Dataset) -> Receipt:
        """Put the dataset's rows in the place of what the slice's manifest listed.

        Raises SinkError when it fails, or when another run published the slice meanwhile; the manifest
        and its files are then what they were.
        """
        started, slice = time.monotonic(), dataset.slice
        client = storage_client(self.google)
        with bucket_errors(self.google, slice, f"writing {self.prefix}"):
            bucket = ensure_bucket(client, self.google)
            generation, listed = published_files(self.google, self.prefix, slice, client)
            there = {blob.name: blob for blob in self._blobs_of(client, slice)}
            keep = {name: blob for name, blob in there.items() if name in listed}
            manifest = self._manifest(slice, dataset, self._store_all(bucket, slice, dataset, keep))
            _require_rows(slice, dataset.rows, manifest.rows, manifest.where)
            publish_manifest(bucket, manifest, replacing=generation)
            now = {file.path for file in manifest.files}
            self._remove(blob for name, blob in there.items() if name not in now)
        return Receipt(
            "gcs",
            manifest.where,
            slice,
            manifest.rows,
            manifest.size,
            _since(started),
            files=len(manifest.files),
            content=manifest.content,
        )

    def _store_all(self, bucket: Any, slice: str, dataset: Dataset, keep: dict[str, Any]) -> list[ManifestFile]:
        """Encode and upload day by day. What a failure leaves no manifest lists; the slice's next run removes it."""
        slots = Semaphore(ENCODERS)

        def store(day: DayRows, part: int) -> ManifestFile:
            try:
                content = encode(day.rows, self.by_day_of)
            finally:
                slots.release()
            return self._store(bucket, slice, self._path(slice, day.day, part, content), day, content, keep)

        futures: list[Future[ManifestFile]] = []
        parts: Counter[str] = Counter()
        days = rows_by_day(dataset, self.by_day_of, self.scratch / f"{uuid.uuid4().hex}.spill")
        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool, closing(days):
            try:
                for day in days:
                    slots.acquire()  # reading waits for encoding, and so the rows in memory stay few
                    futures.append(pool.submit(store, day, parts[day.day]))
                    parts[day.day] += 1
                    if any(future.done() and future.exception() for future in futures):
                        break
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _path(self, slice: str, day: str, part: int, content: pa.Buffer) -> str:
        """Name a file by its content; a further file of the day that holds the same rows is another file."""
        digest = hashlib.sha256(content).hexdigest()[:16]
        number = f"-{part}" if part else ""
        return f"{self.prefix}/{self.partition}={day}/{file_slug(slice)}_{digest}{number}.parquet"

    def _store(
        self,
        bucket: Any,
        slice: str,
        path: str,
        day: DayRows,
        content: pa.Buffer,
        keep: dict[str, Any],
    ) -> ManifestFile:
        crc32c = crc32c_of(content)
        # what the manifest lists already, and is whole, needn't be sent again
        there = keep.get(path)
        if there is None or (there.crc32c, there.size) != (crc32c, content.size):
            blob = bucket.blob(path)
            blob.upload_from_string(content.to_pybytes(), content_type=PARQUET, checksum="crc32c")
            require_checksum(blob, crc32c, slice)
        return ManifestFile(path, day.day, len(day.rows), content.size, crc32c)

    def _manifest(self, slice: str, dataset: Dataset, files: list[ManifestFile]) -> Manifest:
        files.sort(key=lambda file: file.path)
        return Manifest(
            slice=slice,
            bucket=self.google.bucket,
            path=manifest_path(self.prefix, slice),
            rows=sum(file.rows for file in files),
            files=tuple(files),
            schema=dataset.schema,
            partition_column=self.partition,
            prefix=self.prefix,
            source=dataset.source,
            attempt=uuid.uuid4().hex,
            published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _blobs_of(self, client: Any, slice: str) -> Iterator[Any]:
        """Give the slice's objects, whoever wrote them; their names say so."""
        start = f"{self.prefix}/{self.partition}="
        name = re.compile(rf"{re.escape(start)}[^/]+/{re.escape(file_slug(slice))}_[0-9a-f]{{16}}(-\d+)?\.parquet")
        listing = client.list_blobs(
            self.google.bucket,
            prefix=start,
            match_glob=f"{start}*/{file_slug(slice)}_*.parquet",
            fields="items(name,generation,size,crc32c),nextPageToken",
        )
        # a server that doesn't know match_glob lists the other slices as well
        return (blob for blob in listing if name.fullmatch(blob.name))

    def _remove(self, blobs: Any) -> None:
        """Remove objects as they were listed; one that was written anew since belongs to another run."""

        def remove(blob: Any) -> None:
            try:
                blob.delete(if_generation_match=blob.generation)
            except (exceptions.NotFound, exceptions.PreconditionFailed):
                pass
            except exceptions.GoogleAPIError as error:
                logger.warning("gs://%s/%s is not listed any more, but stays: %s", blob.bucket.name, blob.name, error)

        with ThreadPoolExecutor(UPLOADS) as pool:
            list(pool.map(remove, blobs))


def stored_object(google: GoogleSettings, path: str) -> tuple[int, str] | None:
    """Give size and checksum of an object as the server has them, or None when it is gone."""
    with bucket_errors(google, path, "looking it up"):
        blob = ensure_bucket(storage_client(google), google).get_blob(path)
        return (int(blob.size), str(blob.crc32c)) if blob else None


def _require_rows(slice: str, kept: int, landed: int, where: str) -> None:
    if kept != landed:
        raise ReconciliationError(
            f"{slice}: {kept:,} rows were kept, but {landed:,} would land in {where}. "
            "Nothing was published; run it again, and report this if it stays."
        )


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
