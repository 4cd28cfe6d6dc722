"""A receipt as plain data says what the sink says, and nothing that it doesn't."""

import json
from dataclasses import replace

from mage_project.lib.sinks.receipt import Receipt

RECEIPT = Receipt("postgres", "db:5432/x/ny_taxi.green_cab_data", "green/2021-02", 64_541, 8_192, 1.5)


def test_it_is_plain_data_without_what_the_sink_does_not_say() -> None:
    assert RECEIPT.as_dict() == {
        "sink": "postgres",
        "where": "db:5432/x/ny_taxi.green_cab_data",
        "slice": "green/2021-02",
        "rows": 64_541,
        "bytes": 8_192,
        "seconds": 1.5,
    }


def test_what_is_known_to_be_none_at_all_is_said() -> None:
    said = replace(RECEIPT, sink="bigquery", rows=0, bytes=0, seconds=0.0, files=0, bytes_billed=0, slot_ms=0).as_dict()
    assert {name for name, value in said.items() if value == 0} == {
        *("rows", "bytes", "seconds", "files", "bytes_billed", "slot_ms")
    }
    assert json.loads(json.dumps(said)) == said
