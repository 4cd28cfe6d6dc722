"""Datasets: handles on staged Arrow data, never the rows themselves.

A dataset is one Arrow IPC file, read once from front to back in bounded batches, and the named
rules by which rows are left out while reading. `drop_where` only notes a rule and counts what it
drops (reading just the columns it needs); nothing is written a second time. `map_pandas` runs
arbitrary code, so it stages its result anew.

Units: rows are rows, bytes are bytes; `fetched = rows + sum(dropped)` always holds.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mage_project.lib.errors import DataError, DatasetMisuseError, ReconciliationError, SinkError
from mage_project.lib.preview import PREVIEW_ROWS, describe
from mage_project.lib.reference import HandedOver

if TYPE_CHECKING:
    import pandas as pd

BATCH_ROWS = 32_768


@dataclass(frozen=True)
class Rule:
    """Rows for which `where` is true are left out and counted under `name`; unknown (null) is not true."""

    name: str
    where: pc.Expression

    def keeps(self) -> pc.Expression:
        """Give the condition of the rows that stay, the unknown ones among them."""
        return ~pc.coalesce(self.where, pa.scalar(False))


@dataclass(frozen=True)
class Dataset:
    """A handle on staged rows of one slice. See the module's text for its promises."""

    path: Path
    schema: pa.Schema
    slice: str
    source: str
    staged_rows: int
    staged_bytes: int
    fetched: int
    dropped: tuple[tuple[str, int], ...] = ()
    rules: tuple[Rule, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows `batches` gives."""
        return self.fetched - sum(count for _, count in self.dropped)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows that the rules keep, in their order, one staged batch in memory at a time."""
        kept = self._kept()
        for table in self._tables(self.schema.names):
            table = table if kept is None else table.filter(kept)
            yield from (batch for batch in table.to_batches() if batch.num_rows)

    def count(self, where: pc.Expression | None = None) -> int:
        """Count kept rows for which `where` is true, over the whole dataset and not a sample."""
        conditions = [condition for condition in (self._kept(), where) if condition is not None]
        if not conditions:
            self._require_staged_file()
            return self.staged_rows
        both = conditions[0] if len(conditions) == 1 else conditions[0] & conditions[1]
        self.schema.empty_table().filter(both)  # an unknown column is an error for a file without rows, too
        return sum(table.filter(both).num_rows for table in self._tables(_columns_in(both, self.schema)))

    def drop_where(self, where: pc.Expression, rule: str) -> Dataset:
        """Leave out the rows for which `where` is known to be true, counted under `rule`."""
        try:
            dropped = self.count(where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
            reason = str(error).splitlines()[0].partition(" in ")[0]  # Arrow lists the schema behind it
            raise DataError(
                f"{self.slice}: rule {rule!r} can't be applied: {reason}. "
                f"The columns are {', '.join(self.schema.names)}."
            ) from error
        return replace(self, rules=(*self.rules, Rule(rule, where)), dropped=(*self.dropped, (rule, dropped)))

    def map_pandas(self, function: Callable[[pd.DataFrame], pd.DataFrame], rule: str | None = None) -> Dataset:
        """Run `function` over one bounded batch as a DataFrame at a time; rows it drops are counted.

        The result keeps the declared types of columns that were there before; a column that the
        function adds takes the type of the first batch. `rule` names the drops (default: the
        function's name). A function that gives more rows than it got is refused: it would invent.
        """
        name = rule or getattr(function, "__name__", "map_pandas").strip("<>")
        pieces = _mapped(self, function, name)
        first = next(pieces, None)
        if first is None:
            return self
        path = self.path.with_name(f"{self.path.stem}-{uuid.uuid4().hex[:8]}.arrow")
        staged = stage(_chain(first, pieces), first.schema, path, slice=self.slice, source=self.source)
        dropped = self.rows - staged.staged_rows
        return replace(
            staged,
            fetched=self.fetched,
            dropped=(*self.dropped, *(((name, dropped),) if dropped else ())),
            notices=self.notices,
        )

    def head(self, rows: int = 10) -> pd.DataFrame:
        """Give the first kept rows as a DataFrame: something to look at, not the data."""
        taken: list[pa.RecordBatch] = []
        for batch in self.batches():
            taken.append(batch.slice(0, rows - sum(piece.num_rows for piece in taken)))
            if sum(piece.num_rows for piece in taken) >= rows:
                break
        return pa.Table.from_batches(taken, schema=self.schema).to_pandas()

    def noting(self, *notices: str) -> Dataset:
        """Give this dataset with notices that the run's summary shows."""
        return replace(self, notices=(*self.notices, *notices))

    def hand_over(self) -> HandedOver:
        """Wrap this dataset for the next block: what a block returns."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        rules = [(rule.name, rule.where) for rule in self.rules]
        facts |= {"rules": rules, "path": str(self.path), "rows": self.rows}
        return HandedOver(facts, describe(facts, self.head(PREVIEW_ROWS)))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Dataset:
        """Make a dataset of the plain facts that `hand_over` wrote down."""
        known = {name: value for name, value in facts.items() if name != "rows"}
        return cls(**{**known, "rules": tuple(Rule(*rule) for rule in facts["rules"]), "path": Path(facts["path"])})

    def _tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Read the staged batches, `columns` only, one in memory at a time.

        Not by Arrow's scanner: it reads ahead, which takes no less time and grows with the file.
        """
        self._require_staged_file()
        wanted = pa.ipc.IpcReadOptions(included_fields=[self.schema.get_field_index(name) for name in columns])
        with pa.OSFile(str(self.path), "rb") as file, pa.ipc.open_file(file, options=wanted) as reader:
            for index in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(index)])

    def _kept(self) -> pc.Expression | None:
        kept: pc.Expression | None = None
        for rule in self.rules:
            kept = rule.keeps() if kept is None else kept & rule.keeps()
        return kept

    def _require_staged_file(self) -> None:
        found = self.path.stat().st_size if self.path.exists() else None
        if found != self.staged_bytes:
            state = (
                "is gone" if found is None else f"has {found} bytes and not the {self.staged_bytes} it was written with"
            )
            raise DataError(
                f"{self.slice}: the staged file {self.path} {state}. "
                "Staged files go when their run ends: run the loader again."
            )


def stage(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path, *, slice: str, source: str) -> Dataset:
    """Write batches to `path` as one Arrow file, aside and then renamed, and give the handle on it.

    Raises SinkError when the disk is full; whatever the batches raise passes through, and nothing
    is left behind at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    rows = 0
    try:
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        aside.rename(path)
    except OSError as error:
        if error.errno is None:
            raise  # a reader's word for a damaged file, not the disk's
        raise SinkError(
            f"{slice}: can't stage rows in {path.parent}: {error.strerror or error}. "
            "Free some space (`./cantrip clean`), or set CANTRIP_HOME to a larger disk."
        ) from error
    finally:
        aside.unlink(missing_ok=True)
    return Dataset(path, schema, slice, source, rows, path.stat().st_size, fetched=rows)


def from_pandas(frame: pd.DataFrame, path: Path, *, slice: str, source: str) -> Dataset:
    """Make a dataset of a small DataFrame that is in memory anyway, such as an API's answer."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    return stage(table.to_batches(max_chunksize=BATCH_ROWS), table.schema, path, slice=slice, source=source)


def _mapped(dataset: Dataset, function: Callable, name: str) -> Iterator[pa.RecordBatch]:
    schema: pa.Schema | None = None
    for batch in dataset.batches():
        frame = function(batch.to_pandas())
        if frame is None or not hasattr(frame, "columns"):
            raise DatasetMisuseError(
                f"{dataset.slice}: {name} must give back a DataFrame, but gave {type(frame).__name__}. "
                "End it with `return frame`."
            )
        if len(frame) > batch.num_rows:
            raise ReconciliationError(
                f"{dataset.slice}: {name} made {len(frame)} rows out of {batch.num_rows}. "
                "A map may drop rows, not add them: load the other rows as a dataset of their own."
            )
        schema = schema or _mapped_schema(frame, dataset.schema, name)
        more = [str(column) for column in frame.columns if column not in schema.names]
        if more:
            raise DataError(
                f"{dataset.slice}: {name} gave back the column {more[0]!r}, which the batches before don't have. "
                "Give back the same columns for every batch."
            )
        yield _conformed(frame, schema, dataset.slice, name)


def _mapped_schema(frame: pd.DataFrame, before: pa.Schema, name: str) -> pa.Schema:
    """Types of columns that were there stay as declared; new ones come from the first batch."""
    inferred = pa.Schema.from_pandas(frame, preserve_index=False)
    fields = []
    for field in inferred:
        known = before.field(field.name) if field.name in before.names else None
        if known is None and pa.types.is_null(field.type):
            raise DataError(
                f"{name}: the new column {field.name!r} is empty in the first batch, so its type is unknown. "
                "Give it one: frame[...] = pandas.Series(..., dtype='float64')."
            )
        fields.append(known if known is not None else field)
    return pa.schema(fields)


def _conformed(frame: pd.DataFrame, schema: pa.Schema, slice: str, name: str) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pandas(frame, schema=schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
        raise DataError(
            f"{slice}: what {name} gave back doesn't fit the columns {', '.join(schema.names)}: {error}. "
            "Keep each column's type the same in every batch."
        ) from error


def _columns_in(condition: pc.Expression, schema: pa.Schema) -> list[str]:
    """Give the columns that a condition may need: those whose name stands in its text, or all of them."""
    text = str(condition)
    named = [name for name in schema.names if name in text]
    return schema.names if "FieldPath(" in text or not named else named


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
