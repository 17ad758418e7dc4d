"""Take a Parquet snapshot of every table of conf/data/NAME.yaml into data/raw."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import fsspec

from stages.config import Table, load_config, nearest
from stages.errors import DataError, run_stage
from stages.files import RAW, replacing
from stages.tables import STREAMING, SqlError, call, connect, first_line, full_disk, naive, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 50_000  # rows fetched from a database at once

_READERS = {"csv": "read_csv", "parquet": "read_parquet", "json": "read_json"}
_ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet",
    ".json": "json", ".jsonl": "json", ".ndjson": "json",
}  # fmt: skip


def main() -> None:
    started = time.perf_counter()
    config = load_config("ingest")
    counts = ingest(config.data.tables, RAW)
    said = ", ".join(f"{name} {rows:,}" for name, rows in counts.items())
    print(f"ingest: {said} rows in {time.perf_counter() - started:.1f} s → {RAW}")


def ingest(tables: dict[str, Table], out: Path) -> dict[str, int]:
    """Write OUT/NAME.parquet for each table; the number of rows of each.

    All or nothing: `out` is replaced only when every table has been read. Raises DataError for a source that is
    missing, damaged or empty.
    """
    with replacing(out) as folder:
        return {name: snapshot(name, table, folder / f"{name}.parquet") for name, table in tables.items()}


def snapshot(name: str, table: Table, out: Path) -> int:
    """Write one table as Parquet; the number of rows."""
    if table.database is not None:
        rows = _from_database(name, table, out)
    else:
        with local_file(name, table) as path:
            rows = _from_file(name, table, path, out)
    if rows == 0:
        raise DataError(f"data.tables.{name}: {source_of(table)} has no rows")
    return rows


def source_of(table: Table) -> str:
    """Where a table comes from, for messages; never a password."""
    if table.database is not None:
        return f"the query to ${table.database}"
    if table.package is not None:
        return f"{table.path} in package {table.package}"
    return without_secrets(str(table.path), str(table.path))


@contextmanager
def local_file(name: str, table: Table) -> Iterator[Path]:
    """The table's file on the local disk, fetched and unzipped where needed."""
    assert table.path is not None
    with tempfile.TemporaryDirectory() as folder:
        if table.package is not None:
            path = _in_package(name, table.package, table.path)
        elif "://" in table.path or "::" in table.path:
            path = _fetched(name, table.path, Path(folder))
        else:
            path = Path(table.path)
            if not path.exists():
                near = nearest(path.name, [p.name for p in path.parent.glob("*")])
                raise DataError(f"data.tables.{name}.path: there is no file {table.path}{near}")
        if path.suffix == ".zip":
            path = _unzipped(name, path, Path(folder))
        yield path


def _in_package(name: str, package: str, relative: str) -> Path:
    spec = find_spec(package)  # found, never imported: its code may be older than this Python
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"data.tables.{name}.package: {package!r} is not installed; add it to pyproject.toml and run `make setup`"
        )
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise DataError(f"data.tables.{name}.path: package {package} has no file {relative}")
    return path


def _fetched(name: str, url: str, folder: Path) -> Path:
    path = folder / url.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    try:
        with fsspec.open(url, "rb") as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except Exception as error:  # every file system raises its own
        full_disk(error)
        why = error.__cause__ or error  # fsspec makes every failed connection a FileNotFoundError
        said = "there is no such file" if isinstance(why, FileNotFoundError) else f"{type(why).__name__}: {why}"
        raise DataError(f"data.tables.{name}.path: {without_secrets(url, url)}: {without_secrets(said, url)}") from None
    return path


def without_secrets(text: str, url: str) -> str:
    """A message without the user, password and query that a URL may hold, as they stand in it or decoded."""
    head, _, query = url.partition("?")
    user = head.partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    hidden = {user, password, query, *password.split("@"), *(pair.partition("=")[2] for pair in query.split("&"))}
    for secret in sorted({*hidden, *map(unquote, hidden)}, key=len, reverse=True):
        text = text.replace(secret, "…") if len(secret) > 2 else text
    return text


def _unzipped(name: str, path: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [item for item in archive.infolist() if not item.is_dir() and "__MACOSX" not in item.filename]
            if len(files) != 1:
                held = ", ".join(item.filename for item in files) or "nothing"
                raise DataError(f"data.tables.{name}.path: {path} should hold one file, it holds {held}")
            target = folder / Path(files[0].filename).name
            with archive.open(files[0]) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"data.tables.{name}.path: {path} is no whole zip file ({error})") from None
    return target


def _from_file(name: str, table: Table, path: Path, out: Path) -> int:
    kind = table.format or _kind(name, table, path)
    options = dict(table.read)
    if kind == "csv":
        options.setdefault("sample_size", -1)  # types from all rows: a sample can be wrong later in the file
    with connect(STREAMING) as con:
        try:
            return write_parquet(con, naive(con, call(_READERS[kind], path, options)), out)
        except SqlError as error:
            full_disk(error)
            hint = f" (is it UTF-8? data.tables.{name}.read: {{encoding: latin-1}})" if _about_text(error) else ""
            said = first_line(error)
            raise DataError(f"data.tables.{name}: {source_of(table)} is not readable as {kind}: {said}{hint}") from None


def _about_text(error: Exception) -> bool:
    return any(word in str(error).lower() for word in ("unicode", "utf-8", "utf8", "encod"))


def _kind(name: str, table: Table, path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in {".gz", ".zst"}]
    kind = _ENDINGS.get(suffixes[-1].lower()) if suffixes else None
    if kind is None:
        raise DataError(f"data.tables.{name}.path: what is {table.path}? Say `format: csv`, `parquet` or `json`")
    return kind


def _from_database(name: str, table: Table, out: Path) -> int:
    import pyarrow as pa
    import sqlalchemy as sa

    assert table.database is not None
    assert table.query is not None
    url = os.environ.get(table.database)
    if not url:
        raise DataError(
            f"data.tables.{name}.database: the environment variable {table.database} is not set; "
            f"it holds an SQLAlchemy URL such as postgresql+psycopg://user:password@host/name"
        )
    try:
        engine = sa.create_engine(url)
        try:
            with engine.connect().execution_options(stream_results=True) as connection:
                result = connection.execute(sa.text(table.query))
                names = _distinct(name, list(result.keys()))
                return _spooled((_arrow(names, rows) for rows in result.partitions(BATCH)), out)
        finally:
            engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError, pa.ArrowException) as error:
        said = first_line(error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error)
        raise DataError(f"data.tables.{name}: {source_of(table)} failed: {without_secrets(said, url)}") from None


def _distinct(name: str, names: list[str]) -> list[str]:
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise DataError(f"data.tables.{name}.query: yields {', '.join(twice)} more than once; name each with `as`")
    return names


def _arrow(names: list[str], rows: Sequence[Any]) -> pa.Table:
    """The rows of one batch as a table. Raises ArrowInvalid, naming the column, for values that have no one type."""
    import pyarrow as pa

    arrays = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        try:
            arrays.append(pa.array([_plain(value) for value in values]))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise pa.ArrowInvalid(f"column {name}: {error}; cast it in the query") from None
    return pa.table(arrays, names=names)


def _plain(value: Any) -> Any:
    """What Parquet can hold of a database's value: decimals as floats, moments in naive UTC, odd types as text."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)
    if value is None or isinstance(value, _HELD):
        return value
    return bytes(value) if isinstance(value, memoryview) else str(value)


_HELD = (bool, int, float, str, bytes, date, clock, timedelta)


def _spooled(batches: Iterator[pa.Table], out: Path) -> int:
    """Write batches whose types are known only at the end (a column may start with nulls, or turn to floats)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, rows, files = None, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for number, batch in enumerate(batches):
            file = Path(folder) / f"{number}.parquet"
            pq.write_table(batch, file)
            files.append(file)
            rows += batch.num_rows
            schemas = [schema, batch.schema] if schema is not None else [batch.schema]
            schema = pa.unify_schemas(schemas, promote_options="permissive")
        if schema is None:
            return 0
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for file in files:
                writer.write_table(pq.read_table(file).cast(schema))
    return rows


if __name__ == "__main__":
    run_stage(main)
