"""Blocks executed as Mage does it, decorators given from outside, but without importing Mage (3 s)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mage_project.lib.runs.pipelines import PROJECT, read_pipeline

DECORATORS = ("data_loader", "transformer", "data_exporter")


@dataclass
class Block:
    """The decorated function of a block's file and its inline tests."""

    functions: list[Callable[..., Any]] = field(default_factory=list)
    tests: list[Callable[..., None]] = field(default_factory=list)


def block(path: str) -> Block:
    """Execute a block's file, such as `data_loaders/load_api_data.py`."""
    found = Block()

    def noting(functions: list) -> Callable[[Callable], Callable]:
        return lambda function: functions.append(function) or function

    scope: dict[str, Any] = {name: noting(found.functions) for name in DECORATORS} | {"test": noting(found.tests)}
    file = PROJECT / path
    exec(compile(file.read_text(), str(file), "exec"), scope)
    return found


def run_blocks(pipeline: str, **variables: Any) -> Any:
    """Run a pipeline's blocks in the file's order, each with its inline tests; give the last one's output."""
    spec = read_pipeline(pipeline)
    outputs: dict[str, Any] = {}
    for each in spec.blocks:
        found = block(str(each.path.relative_to(PROJECT)))
        known = {"pipeline_uuid": pipeline, "block_uuid": each.uuid, "execution_partition": "test"}
        given = [outputs[name] for name in each.upstream]
        outputs[each.uuid] = output = found.functions[0](*given, **{**spec.variables, **known, **variables})
        for test in found.tests:
            test(output)
    return output
