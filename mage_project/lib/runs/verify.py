"""Counting again: what every place really holds, against what the ledger says of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import text

from mage_project.lib.errors import DataError
from mage_project.lib.settings import PostgresSettings, Settings
from mage_project.lib.sinks.bigquery import BigQueryTable
from mage_project.lib.sinks.gcs import stored_object
from mage_project.lib.sinks.manifests import broken_files, manifest_at
from mage_project.lib.sinks.postgres_server import engine_for
from mage_project.lib.sinks.postgres_tables import literal, quoted, run_plain

Key = tuple[str, str]


def differences(settings: Settings, stored: Iterable[dict[str, Any]]) -> dict[Key, str]:
    """Give {(slice, where): what differs} for entries of `ledger.stored`; empty when all is as the ledger says."""
    found: dict[Key, str] = {}
    for row in stored:
        receipt = row["receipt"]
        count = _COUNTS.get(receipt["sink"])
        differs = count(settings, receipt) if count else None
        if differs:
            found[row["slice"], receipt["where"]] = differs
    return found


def _differs_in_postgres(settings: Settings, receipt: dict[str, Any]) -> str | None:
    schema, table = receipt["where"].rpartition("/")[2].split(".", 1)
    rows = _count_in_postgres(settings.require_postgres(), schema, table, receipt["slice"])
    return _difference(f"{schema}.{table}", rows, receipt["rows"])


def _count_in_postgres(server: PostgresSettings, schema: str, table: str, slice: str) -> int | None:
    engine = engine_for(server)
    try:
        with engine.connect() as connection:
            name = quoted(schema, table)
            if connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is None:
                return None
            counted = run_plain(connection, f"SELECT count(*) FROM {name} WHERE _slice = {literal(slice)}")
            return int(counted.scalar_one())
    finally:
        engine.dispose()


def _differs_in_gcs(settings: Settings, receipt: dict[str, Any]) -> str | None:
    bucket, _, path = receipt["where"].removeprefix("gs://").partition("/")
    google = replace(settings.require_google(), bucket=bucket)
    if not path.endswith(".json"):
        found = stored_object(google, path)
        if found is None:
            return f"{receipt['where']} is gone"
        same = found == (receipt["bytes"], receipt["content"])
        return None if same else f"{receipt['where']} was altered: it is not the {receipt['bytes']:,} bytes written"
    try:
        manifest = manifest_at(google, path, receipt["slice"])
    except DataError as error:
        return str(error)
    if manifest is None:
        return f"{receipt['where']} is gone"
    broken = broken_files(google, manifest)
    return broken[0] if broken else _difference(receipt["where"], manifest.rows, receipt["rows"])


def _differs_in_bigquery(settings: Settings, receipt: dict[str, Any]) -> str | None:
    project, dataset, table = receipt["where"].rsplit(".", 2)
    google = replace(settings.require_google(), project=project)
    rows = BigQueryTable(google, dataset, table).count(receipt["slice"])
    return _difference(f"{dataset}.{table}", rows, receipt["rows"])


def _difference(where: str, rows: int | None, wanted: int) -> str | None:
    if rows is None:
        return f"{where} is gone"
    return None if rows == wanted else f"{rows:,} rows in {where}, {wanted:,} in the ledger"


_COUNTS = {"postgres": _differs_in_postgres, "gcs": _differs_in_gcs, "bigquery": _differs_in_bigquery}
