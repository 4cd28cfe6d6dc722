"""What a sink says it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Receipt:
    """One slice stored: how many rows and bytes, in how many seconds, and where (no credentials)."""

    sink: str
    where: str
    slice: str
    rows: int
    bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data, for the ledger and `--json`."""
        return asdict(self)
