"""Arrow IPC streams and Parquet, by pyarrow, which is imported only when a file of theirs comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from serve.formats.columns import TOGETHER, Tell, added, fields, missing, places_of
from serve.protocols import BadInputError
from serve.protocols.rows import shown
from serve.runtime import Predictor
from stages.bundle import Rows, Signature

MESSAGE = 256_000_000  # bytes of one message of an IPC stream
GROUP = 16  # inferences that make one row group of Parquet


def scored_arrow(file: BinaryIO, predictor: Predictor, tell: Tell) -> Iterator[bytes]:
    """An Arrow IPC stream, its record batches cut to those of ours. Raises BadInputError naming row and column."""
    pa = arrow()
    try:
        with pa.ipc.open_stream(_Bounded(file)) as stream:
            sink, schema = _Sink(), _answered_schema(stream.schema, predictor.signature)
            with pa.ipc.new_stream(sink, schema) as writer:
                first = 0
                for batch in stream:
                    batch.validate(full=True)  # a stranger's offsets may point anywhere
                    for start in range(0, len(batch), TOGETHER):
                        part = batch.slice(start, TOGETHER)
                        writer.write_batch(_answered(part, first, predictor, schema, tell))
                        first += len(part)
                        yield sink.taken()
        yield sink.taken()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable("an Arrow IPC stream", error) from None


def scored_parquet(file: BinaryIO, predictor: Predictor, tell: Tell) -> Iterator[bytes]:
    """Parquet, from a file that can be sought in. Raises BadInputError naming row and column."""
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False) as parquet:
            sink, schema = _Sink(), _answered_schema(parquet.schema_arrow, predictor.signature)
            with pq.ParquetWriter(sink, schema) as writer:
                first = 0
                group: list[Any] = []
                for batch in parquet.iter_batches(TOGETHER, use_threads=False):
                    group.append(_answered(batch, first, predictor, schema, tell))
                    first += len(batch)
                    if len(group) == GROUP:
                        writer.write_table(pa.Table.from_batches(group, schema))
                        group = []
                        yield sink.taken()
                if group:
                    writer.write_table(pa.Table.from_batches(group, schema))
        yield sink.taken()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable("Parquet", error) from None


def arrow() -> Any:
    """pyarrow. Raises BadInputError where it is not installed: serving goes without it."""
    try:
        import pyarrow as pa
    except ImportError:
        raise BadInputError("Arrow and Parquet need pyarrow, which is not installed here; send CSV", 415) from None
    return pa


def rows_of_parquet(file: BinaryIO) -> int:
    """How many rows a Parquet file says it has. Raises BadInputError where it is none."""
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable("Parquet", error) from None


def _unreadable(what: str, error: Exception) -> BadInputError:
    return BadInputError(f"the file is not {what}, or damaged ({shown(str(error))})", 400)


class _Bounded:
    """A file that pyarrow reads from, which by itself would ask for as much as a damaged length says."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        if size > MESSAGE:
            raise BadInputError(f"a record batch of more than {MESSAGE:,} bytes; write smaller ones", 413)
        parts, left = [], size
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.closed = True


class _Sink:
    """What pyarrow has written and nobody has taken yet."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(self._parts[-1])

    def taken(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _answered_schema(schema: Any, signature: Signature) -> Any:
    """The schema with our columns. Raises BadInputError for a feature that is not there or of a wrong type."""
    pa = arrow()
    places = places_of(schema.names, signature)
    for column in signature.columns:
        kind = schema.field(places[column.name]).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
        words = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        fits = numbers if column.kind == "numeric" else words
        if not pa.types.is_null(inner) and not any(test(inner) for test in fits):
            expected = "numbers" if column.kind == "numeric" else "text"
            raise BadInputError(f"the column {column.name} is of the type {kind}; expected {expected}")
    classes = signature.classes
    label = pa.float64() if classes is None else pa.string() if isinstance(classes[0], str) else pa.int64()
    for name in added(signature):
        schema = schema.append(pa.field(name, label if name == "prediction" else pa.float64()))
    return schema


def _answered(batch: Any, first: int, predictor: Predictor, schema: Any, tell: Tell) -> Any:
    """A record batch with its answers. first: the number of its first row, for what an error says."""
    pa = arrow()
    signature = predictor.signature
    rows = _arrow_rows(batch, first, signature)
    answers = predictor.answers(rows)
    tell(rows, answers)
    columns = list(zip(*fields(answers, signature), strict=True)) or [()] * len(added(signature))
    kinds = [schema.field(name).type for name in added(signature)]
    ours = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays([*batch.columns, *ours], schema=schema)


def _arrow_rows(batch: Any, first: int, signature: Signature) -> Rows:
    pa = arrow()
    numeric = np.empty((len(batch), len(signature.numeric)), dtype="float64")
    text = np.empty((len(batch), len(signature.text)), dtype="object")
    for column in signature.columns:
        given = batch.column(column.name)
        if column.kind == "numeric":
            values = given.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            wrong = np.isinf(values) if column.nullable else ~np.isfinite(values)
            numeric[:, signature.numeric.index(column.name)] = values
        else:
            values = given.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False)
            wrong = np.zeros(len(batch), dtype=bool) if column.nullable else values == ""
            text[:, signature.text.index(column.name)] = values
        if wrong.any():
            place = int(wrong.argmax())
            if column.kind == "numeric" and np.isinf(values[place]):
                raise BadInputError(f"row {first + place}: {column.name} is {values[place]}; expected a finite number")
            raise missing(column, f"row {first + place}")
    return Rows(numeric, text)
