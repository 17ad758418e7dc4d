"""The engine: run a query over Parquet snapshots and write Parquet, out of core. The only importer of duckdb."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from stages.config import Engine
from stages.errors import ConfigError, DataError

Connection = duckdb.DuckDBPyConnection
SqlError = duckdb.Error

SPILL = Path("data/.spill")
_END = re.compile(r"\s*;\s*(--[^\n]*\s*)*\Z")
ROW_GROUP = 122_880  # rows, DuckDB's own


@contextmanager
def connect(engine: Engine | None = None) -> Iterator[Connection]:
    """An in-memory database that spills to data/.spill beyond the engine's memory limit."""
    shutil.rmtree(SPILL, ignore_errors=True)  # what a killed run left
    SPILL.parent.mkdir(exist_ok=True)
    con = duckdb.connect(config={"temp_directory": str(SPILL), "autoinstall_known_extensions": "false"})
    con.execute("set enable_progress_bar = false")
    con.execute("set timezone = 'UTC'")
    con.execute("set python_enable_replacements = false")  # a missing table is no Python variable of ours
    try:
        if engine is not None:
            _limit(con, engine)
        yield con
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"the query does not fit in memory ({first_line(error)}); raise engine.memory_limit") from None
    finally:
        con.close()
        shutil.rmtree(SPILL, ignore_errors=True)


def _limit(con: Connection, engine: Engine) -> None:
    try:
        con.execute(f"set memory_limit = {literal(engine.memory_limit)}")
    except duckdb.Error as error:
        said = first_line(error)
        raise ConfigError(
            f"engine.memory_limit is {engine.memory_limit!r}: write it as 4GB or 500MB ({said})"
        ) from None
    if engine.threads is not None:
        con.execute(f"set threads = {engine.threads}")


def one_select(con: Connection, query: str, file: Path) -> str:
    """The query without its closing `;`, fit to be put in parentheses. Raises DataError for no SELECT or several."""
    try:
        statements = con.extract_statements(query)
    except duckdb.Error as error:
        raise DataError(f"{file}: the query does not run: {' '.join(str(error).split())}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        said = f"{len(statements)} statements" if len(statements) != 1 else "something else"
        raise DataError(f"{file}: expected one SELECT, found {said}")
    return _END.sub("", str(statements[0].query))


def view_tables(con: Connection, tables: Mapping[str, Path]) -> None:
    """Make each Parquet file a view of the table's name. Raises DataError for a file that is no whole Parquet file."""
    for name, path in tables.items():
        if not path.is_file():
            raise DataError(f"{path}: there is no such file; run `dvc repro ingest`")
        try:
            con.execute(f"create or replace view {identifier(name)} as from read_parquet({literal(str(path))})")
        except duckdb.Error as error:
            raise DataError(
                f"{path}: not a readable Parquet file ({first_line(error)}); run `dvc repro -f ingest`"
            ) from None


def copy_parquet(con: Connection, select: str, out: Path) -> None:
    """Write the rows of a select in their order, fast; the bytes vary with the threads: for files on the way."""
    con.execute(f"copy ({select}) to {literal(str(out))} (format parquet, row_group_size {ROW_GROUP})")


def write_parquet(con: Connection, select: str, out: Path) -> int:
    """Write the rows of a select in their order, the same bytes for the same rows; the number of rows.

    Arrow writes them: DuckDB's own row groups end where a thread's batch ends, so its bytes vary with the threads.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = con.sql(select).to_arrow_reader(ROW_GROUP)
    held, rows = reader.schema.empty_table(), 0
    with pq.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in _batches(reader):
            rows += batch.num_rows
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while held.num_rows >= ROW_GROUP:
                writer.write_table(held.slice(0, ROW_GROUP).combine_chunks(), row_group_size=ROW_GROUP)
                held = held.slice(ROW_GROUP)
        writer.write_table(held.combine_chunks(), row_group_size=ROW_GROUP)
    return rows


def _batches(reader: Any) -> Iterator[Any]:
    """The batches of a running query; what goes wrong in it as SqlError again."""
    while True:
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return
        except Exception as error:  # Arrow wraps what the database says
            raise SqlError(str(error)) from None


def naive(con: Connection, source: str) -> str:
    """A select of all of `source` with every moment that has a time zone brought to naive UTC, the one kind we use."""
    zoned = [name for name, kind in columns_of(con, f"(from {source})").items() if kind == "TIMESTAMP WITH TIME ZONE"]
    if not zoned:
        return f"from {source}"
    replaced = ", ".join(f"timezone('UTC', {identifier(name)}) as {identifier(name)}" for name in zoned)
    return f"select * replace ({replaced}) from {source}"


def columns_of(con: Connection, source: str) -> dict[str, str]:
    """Names and SQL types of the columns of a table, view or parenthesised select."""
    return {str(row[0]): str(row[1]) for row in con.execute(f"describe from {source}").fetchall()}


def call(function: str, path: Path, options: Mapping[str, Any]) -> str:
    """`read_csv('path', name = value, …)` as SQL text."""
    given = "".join(f", {identifier(key)} = {literal(value)}" for key, value in options.items())
    return f"{function}({literal(str(path))}{given})"


def literal(value: object) -> str:
    """A Python value as an SQL literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return "'" + str(value).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def first_line(error: Exception) -> str:
    """The first line of a database error, without its colon-led class."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def out_of_memory(error: Exception) -> None:
    """Raise what `connect` makes of a query that does not fit in memory; else nothing."""
    if isinstance(error, duckdb.OutOfMemoryException):
        raise error


def full_disk(error: Exception) -> None:
    """Raise the OSError behind an error that says the disk is full; else nothing."""
    if "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
