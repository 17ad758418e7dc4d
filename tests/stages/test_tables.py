"""A connection has a spill folder of its own, and a query reaches what it was given and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from stages.config import Engine
from stages.errors import DataError
from stages.files import locked
from stages.tables import SPILL, STREAMING, SqlError, connect, is_number, varying, view_tables
from tests.conftest import ROOT

SMALL = Engine(name="duckdb", memory_limit="60MB", threads=1)
SORTED = "create or replace temp table sorted as select hash(i) as h from range(6000000) t(i) order by h"

OPENS = """
from stages.tables import _spill
for _ in range(2000):
    with _spill() as folder:
        assert folder.is_dir()
"""


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- spill


def test_what_does_not_fit_in_memory_is_spilled_and_the_folder_goes_with_the_connection() -> None:
    with connect(SMALL) as con:
        con.execute(SORTED)
        (folder,) = SPILL.iterdir()
        assert any(folder.iterdir())
        assert con.execute("select count(*) from sorted").fetchall() == [(6_000_000,)]
    assert list(SPILL.iterdir()) == []


def test_a_connection_leaves_the_spilled_rows_of_another_alone() -> None:
    with connect(SMALL) as con:
        con.execute(SORTED)
        before = {file.name for folder in SPILL.iterdir() for file in folder.iterdir()}
        with connect(STREAMING) as other:
            other.execute("select 1")
            assert len(list(SPILL.iterdir())) == 2
        assert {file.name for folder in SPILL.iterdir() for file in folder.iterdir()} == before
        assert con.execute("select count(distinct h) > 5900000 from sorted").fetchall() == [(True,)]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not() -> None:
    for name in ("left", "held"):
        (SPILL / name).mkdir(parents=True)
        (SPILL / name / "block").write_bytes(b"rows")
    with locked(SPILL / "held"), connect(STREAMING):
        assert not (SPILL / "left").exists()
        assert (SPILL / "held" / "block").exists()


def test_processes_that_open_and_close_at_once_never_trip_over_each_other() -> None:
    """One may come between another's making of a folder and its locking."""
    command = [sys.executable, "-c", OPENS]
    running = [subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said


# --- what a query may touch


def test_a_confined_connection_reads_and_writes_what_it_was_given_and_nothing_else() -> None:
    for name in ("given", "draft", "other"):
        Path(name).mkdir()
        duckdb.sql(f"copy (select 1 as a) to '{name}/t.parquet'")
    with connect(SMALL, only=[Path("given/t.parquet"), Path("draft")]) as con:
        view_tables(con, {"t": Path("given/t.parquet")})
        con.execute("copy (from t) to 'draft/out.parquet'")
        con.execute(SORTED)  # it still spills
        for refused in (
            "from 'other/t.parquet'",
            "from 'given/../other/t.parquet'",
            "from read_text('/etc/hostname')",
            "from glob('*')",
            "from read_csv('https://example.org/t.csv')",
            "copy (from t) to 'other/out.parquet'",
            "attach 'other/a.db'",
            "install httpfs",
            "set enable_external_access = true",
            "set allowed_directories = ['/']",
            "reset memory_limit",
        ):
            with pytest.raises(SqlError):
                con.execute(refused)


def test_a_snapshot_that_is_not_there_is_named_on_a_confined_connection_too() -> None:
    with (
        connect(STREAMING, only=[Path("t.parquet")]) as con,
        pytest.raises(DataError, match=r"t.parquet: there is no such file"),
    ):
        view_tables(con, {"t": Path("t.parquet")})


# --- what varies


@pytest.mark.parametrize(
    "query",
    [
        "select main.random()",
        'select "NOW"()',
        "select get_current_timestamp()",
        "select current_localtime()",
        "select nextval('s')",
        "values (uuidv7())",
        "from t order by random()",
        "from t where a in (select random())",
        "with x as (select random() as r) from x",
        "select list_transform([1], lambda x: x + random())",
        "from t pivot (sum(random()) for a in (1, 2))",
        "from t tablesample 10%",
        "from query('select random()')",
        "from json_execute_serialized_sql('{}')",
    ],
)
def test_what_may_vary_is_found_wherever_it_stands(query: str) -> None:
    with connect(STREAMING) as con:
        assert len(varying(con, query)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "select t.current_date, 'random()' as said, a as now from t -- now()",
        "select age(date '2026-01-02', date '2026-01-01'), hash(a), md5('x'), error('no') from t",
        "from t tablesample reservoir(10 rows) repeatable (7)",
        "from query_table('t')",
        "from t pivot (sum(a) for a in (1, 2))",
    ],
)
def test_what_follows_from_the_tables_is_let_through(query: str) -> None:
    with connect(STREAMING) as con:
        assert varying(con, query) == []


# --- types


@pytest.mark.parametrize("kind", ["UTINYINT", "INTEGER", "HUGEINT", "DECIMAL(18,3)", "FLOAT", "DOUBLE", "BOOLEAN"])
def test_sql_types_of_numbers(kind: str) -> None:
    assert is_number(kind)


@pytest.mark.parametrize("kind", ["VARCHAR", "INTEGER[]", "DOUBLE[3]", "TIMESTAMP", "INTERVAL", "STRUCT(a INTEGER)"])
def test_sql_types_that_are_no_numbers(kind: str) -> None:
    assert not is_number(kind)
