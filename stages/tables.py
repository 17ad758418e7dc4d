"""The engine: run a query over Parquet snapshots and write Parquet, out of core. The only importer of duckdb."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from stages.config import Engine
from stages.errors import ConfigError, DataError
from stages.files import locked

Connection = duckdb.DuckDBPyConnection
SqlError = duckdb.Error

SPILL = Path("data/.spill")
STREAMING = Engine(name="duckdb", memory_limit="1GB", threads=None)
"""For work that holds no table: it is no parameter of a stage, so that a larger engine takes no new snapshot."""

_CLOCKS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""What the parser takes for columns where no parentheses follow."""

_UNDECLARED = {"current_localtime", "current_localtimestamp", "query", "json_execute_serialized_sql"}
"""What varies and DuckDB says nothing of: two clocks, and what runs SQL that stands in a text."""

_END = re.compile(r"\s*;\s*(--[^\n]*\s*)*\Z")
ROW_GROUP = 122_880  # rows, DuckDB's own


@contextmanager
def connect(engine: Engine, only: Sequence[Path] | None = None) -> Iterator[Connection]:
    """An in-memory database that spills to a folder of its own in data/.spill beyond the engine's memory limit.

    only: the files and folders that its SQL may read and write, and no URL then; None is any.
    """
    with _spill() as spill, _opened(spill, engine) as con:
        if only is not None:
            folders = [str(path.absolute()) for path in only if path.is_dir()]
            files = [str(path.absolute()) for path in only if not path.is_dir()]  # links are followed for files alone
            con.execute(f"set allowed_directories = {literal(folders)}")
            con.execute(f"set allowed_paths = {literal(files)}")
            con.execute("set enable_external_access = false")
            con.execute("set lock_configuration = true")
        yield con


@contextmanager
def _spill() -> Iterator[Path]:
    """A folder that goes with the connection; what a killed process left is removed, what another one uses is not."""
    for left in SPILL.glob("*"):
        with suppress(OSError), locked(left):
            shutil.rmtree(left, ignore_errors=True)
    folder, lock = _claimed()
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _claimed() -> tuple[Path, ExitStack]:
    """A new folder in SPILL, which itself stays for whoever comes next, and the lock on it."""
    while True:
        # before it is locked, another process may take it for one that was left
        with suppress(FileNotFoundError, BlockingIOError), ExitStack() as held:
            SPILL.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=SPILL))
            held.enter_context(locked(folder))
            if folder.exists():
                return folder, held.pop_all()


@contextmanager
def _opened(spill: Path, engine: Engine) -> Iterator[Connection]:
    con = duckdb.connect(config={"temp_directory": str(spill.absolute()), "autoinstall_known_extensions": "false"})
    con.execute("set enable_progress_bar = false")
    con.execute("set timezone = 'UTC'")
    con.execute("set python_enable_replacements = false")  # a missing table is no Python variable of ours
    try:
        _limit(con, engine)
        yield con
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"the query does not fit in memory ({first_line(error)}); raise engine.memory_limit") from None
    finally:
        con.close()


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


def varying(con: Connection, query: str) -> list[str]:
    """What a SELECT calls that may not follow from its tables alone: random(), now(), a sample without a seed, …"""
    ((text,),) = con.execute("select json_serialize_sql($query)", {"query": query}).fetchall()
    rows = con.execute(
        "select distinct function_name from duckdb_functions() where stability <> 'CONSISTENT'"
    ).fetchall()
    unstable = {str(name) for (name,) in rows} - {"error"} | _CLOCKS | _UNDECLARED
    return sorted({said for node in _nodes(json.loads(text)["statements"]) for said in _unstable(node, unstable)})


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(value)


def _unstable(node: dict[str, Any], unstable: set[str]) -> Iterator[str]:
    name = str(node.get("function_name", "")).lower()
    if name in unstable:
        yield f"{name}()"
    if name == "age" and len(node.get("arguments") or node.get("children") or ()) == 1:
        yield "age() of one moment"
    column = [str(part).lower() for part in node.get("column_names", ())]
    if len(column) == 1 and column[0] in _CLOCKS:
        yield column[0]
    sample = node.get("sample")
    if isinstance(sample, dict) and sample.get("seed") in (None, -1):
        yield "a sample without REPEATABLE (seed)"


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


def is_number(sql_type: str) -> bool:
    """Whether the values of an SQL type are numbers, booleans among them."""
    kind = sql_type.split("(")[0]
    return kind.endswith(("INT", "INTEGER")) or kind in ("DOUBLE", "FLOAT", "DECIMAL", "BOOLEAN", "BIGNUM")


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
