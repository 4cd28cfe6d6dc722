"""Manifests: what a slice is in a bucket, as its files, their rows and their checksums.

A manifest is written last, so what it lists was whole when it was written. It travels between
blocks in the place of a dataset: addresses and counts, never rows.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from mage_project.lib.errors import DataError
from mage_project.lib.preview import describe_files
from mage_project.lib.reference import HandedOver

VERSION = 1
KIND = "manifest"


@dataclass(frozen=True)
class ManifestFile:
    """One Parquet file of a slice. `crc32c` is base64, as Cloud Storage writes it; `bytes` are those stored."""

    path: str
    partition: str
    rows: int
    bytes: int
    crc32c: str


@dataclass(frozen=True)
class Manifest:
    """A slice's files in `bucket`. `schema` is the files' own; the partition column is not in it."""

    slice: str
    bucket: str
    path: str
    rows: int
    files: tuple[ManifestFile, ...]
    schema: pa.Schema
    partition_column: str
    prefix: str
    source: str
    attempt: str
    published_at: str
    generation: int | None = None
    renamed: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = field(default=())

    @property
    def where(self) -> str:
        """The manifest's own address."""
        return f"gs://{self.bucket}/{self.path}"

    @property
    def uris(self) -> list[str]:
        """The files' addresses."""
        return [f"gs://{self.bucket}/{file.path}" for file in self.files]

    @property
    def size(self) -> int:
        """What the files take in the bucket."""
        return sum(file.bytes for file in self.files)

    @property
    def content(self) -> str:
        """A digest of what the files hold: the same for the same rows, whenever they were written."""
        files = sorted((file.path, file.crc32c) for file in self.files)
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]

    @property
    def columns(self) -> dict[str, str]:
        """{name in the files: column's name}: the same until `standardized` says otherwise."""
        names = dict(self.renamed)
        return {name: names.get(name, name) for name in self.schema.names}

    def standardized(self) -> Manifest:
        """Give this manifest with column names in lower case and `_` for spaces; the files stay as they are.

        Says in a notice which names changed. Raises DataError when two would become one.
        """
        wanted = {name: "_".join(name.split()).lower() for name in self.schema.names}
        for standard in wanted.values():
            alike = [name for name in wanted if wanted[name] == standard]
            if standard == self.partition_column:
                alike.append(f"{standard} (of the partitions)")
            if len(alike) > 1:
                raise DataError(
                    f"{self.slice}: the columns {' and '.join(map(repr, alike))} of {self.where} would both be "
                    f"{standard!r} in BigQuery. Nothing was loaded. Rename one in the feed's schema.py."
                )
        changed = tuple((name, standard) for name, standard in wanted.items() if name != standard)
        notice = "renamed: " + ", ".join(f"{name!r} to {standard}" for name, standard in changed)
        return replace(self, renamed=changed, notices=(*self.notices, notice) if changed else self.notices)

    def to_json(self) -> str:
        """Give the text that lies in the bucket."""
        document = {
            "version": VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "schema": [{"name": each.name, "type": str(each.type)} for each in self.schema],
            "files": [asdict(file) for file in self.files],
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str, bucket: str, path: str, generation: int | None) -> Manifest:
        """Read what `to_json` wrote. Raises DataError for a text that is no manifest of ours."""
        try:
            document = json.loads(text)
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            plain = {name: document[name] for name in _PLAIN}
            files = tuple(ManifestFile(**each) for each in document["files"])
            schema = pa.schema([(each["name"], _type_of(each["type"])) for each in document["schema"]])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"gs://{bucket}/{path} is no manifest that this version reads ({type(error).__name__}: {error}). "
                "Run the pipeline that writes it again."
            ) from error
        return cls(**plain, bucket=bucket, path=path, files=files, schema=schema, generation=generation)

    def hand_over(self) -> HandedOver:
        """Wrap this manifest for the next block: what a block returns."""
        facts: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        facts |= {
            "kind": KIND,
            "files": [asdict(file) for file in self.files],
            "instead": (
                "Write `received_manifest(trips)` to see its files, and `publish_to_bigquery(trips, run, …)` to load "
                "them; the rows stay in the bucket."
            ),
        }
        return HandedOver(facts, describe_files(facts))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Manifest:
        """Make a manifest of the plain facts that `hand_over` wrote down."""
        known = {name: value for name, value in facts.items() if name not in ("kind", "instead")}
        return cls(**{**known, "files": tuple(ManifestFile(**each) for each in facts["files"])})


_PLAIN = ("slice", "rows", "partition_column", "prefix", "source", "attempt", "published_at")


def _type_of(text: str) -> pa.DataType:
    """Read an Arrow type as its own text names it."""
    if text.startswith("timestamp[us, tz="):
        return pa.timestamp("us", tz=text.removeprefix("timestamp[us, tz=").removesuffix("]"))
    return pa.type_for_alias(text)
