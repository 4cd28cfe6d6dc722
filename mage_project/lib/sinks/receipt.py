"""What a sink says it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Receipt:
    """One slice stored: how many rows and bytes, in how many seconds, and where (no credentials).

    `files` are those of a bucket; `bytes_billed` and `slot_ms` what BigQuery says that its jobs cost.
    `content` stands for the rows themselves: an object's checksum, or a manifest's digest, which
    BigQuery's receipt has of what it loaded.
    """

    sink: str
    where: str
    slice: str
    rows: int
    bytes: int
    seconds: float
    files: int | None = None
    bytes_billed: int | None = None
    slot_ms: int | None = None
    content: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data, for the ledger and `--json`, without what the sink doesn't say."""
        return {name: value for name, value in asdict(self).items() if value is not None}
