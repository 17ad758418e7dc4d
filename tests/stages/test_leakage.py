"""What the leakage check catches by name, and what it is silent on."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from stages.errors import DataError
from stages.leakage import KnownLate, Leak, find_late_columns, find_telling_columns
from stages.telling import Task

KNOWN = {"orders": [KnownLate(columns=("paid", "late_by"), at="ordered_at + to_hours(late_by)")]}
HONEST = """
select o.id, o.ordered_at, o.amount, o.paid > 50 as good,
  (select count(*) from orders p
   where p.shop = o.shop and p.ordered_at + to_hours(p.late_by) <= o.ordered_at) as paid_before
from orders o
"""
LOOKS_AHEAD = HONEST.replace("p.ordered_at + to_hours(p.late_by) <=", "p.late_by is not null and p.ordered_at <=")


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute(
            """
            create table raw_orders as
            select i as id, timestamp '2026-01-01' + to_minutes(i * 20) as ordered_at, i % 3 as shop,
              i * 37 % 100 as amount, case when i % 11 <> 0 then i * 53 % 100 end as paid, 1 + i * 29 % 30 as late_by
            from range(1500) t(i)
            """
        )
        con.execute("create view orders as from raw_orders")
        yield con


def late(con: duckdb.DuckDBPyConnection, query: str, *features: str, rows: str | None = None) -> list[Leak]:
    return find_late_columns(con, query, KNOWN, time="ordered_at", keys=["id"], features=features, rows=rows)


def test_a_window_over_what_was_known_is_no_leak(con: duckdb.DuckDBPyConnection) -> None:
    assert late(con, HONEST, "amount", "paid_before") == []


def test_a_window_over_the_wrong_moment_is_named_with_an_example(con: duckdb.DuckDBPyConnection) -> None:
    (leak,) = late(con, LOOKS_AHEAD, "amount", "paid_before")
    assert (leak.column, leak.kind) == ("paid_before", "not known in time")
    assert leak.figure > 0
    assert "was known" in leak.detail
    assert "2026-01-" in leak.detail


def test_a_late_column_used_as_a_feature_is_named(con: duckdb.DuckDBPyConnection) -> None:
    query = HONEST.replace("o.amount,", "o.amount, o.paid,")
    assert [leak.column for leak in late(con, query, "amount", "paid", "paid_before")] == ["paid"]


def test_a_filter_on_the_late_column_does_not_hide_it(con: duckdb.DuckDBPyConnection) -> None:
    query = "select id, ordered_at, amount, paid, paid is null as unpaid from orders where paid is not null"
    assert [leak.column for leak in late(con, query, "amount", "paid")] == ["paid"]


def test_that_a_value_is_missing_is_a_leak_too(con: duckdb.DuckDBPyConnection) -> None:
    query = "select id, ordered_at, amount, paid is null as unpaid from orders"
    assert [leak.column for leak in late(con, query, "amount", "unpaid")] == ["unpaid"]


def test_a_value_without_a_moment_is_known_after_every_cut(con: duckdb.DuckDBPyConnection) -> None:
    never = {"orders": [KnownLate(columns=("amount",), at="cast(null as timestamp)")]}
    found = find_late_columns(con, HONEST, never, time="ordered_at", keys=["id"], features=["amount"], cuts=1)
    assert [leak.column for leak in found] == ["amount"]


def test_rows_that_were_computed_before_give_the_same_verdict(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"create table prepared as {LOOKS_AHEAD}")
    assert late(con, LOOKS_AHEAD, "paid_before", rows="prepared") == late(con, LOOKS_AHEAD, "paid_before")


def test_rows_without_a_key_are_compared_by_their_time(con: duckdb.DuckDBPyConnection) -> None:
    query = HONEST.replace("o.amount,", "o.amount, o.paid,")
    found = find_late_columns(con, query, KNOWN, time="ordered_at", keys=[], features=["amount", "paid"])
    assert [leak.column for leak in found] == ["paid"]


def test_the_connection_is_left_as_it_was(con: duckdb.DuckDBPyConnection) -> None:
    before = con.execute("select count(paid), count(*) from orders").fetchall()
    tables = con.execute("show all tables").fetchall()
    late(con, LOOKS_AHEAD, "paid_before")
    assert con.execute("select count(paid), count(*) from orders").fetchall() == before
    assert con.execute("show all tables").fetchall() == tables


@pytest.mark.parametrize(
    "wrong",
    [KnownLate(columns=("payed",), at="ordered_at"), KnownLate(columns=("paid",), at="ordered_at + to_hours(delay)")],
)
def test_a_declaration_that_does_not_fit_the_table_is_an_error_that_names_it(
    con: duckdb.DuckDBPyConnection, wrong: KnownLate
) -> None:
    with pytest.raises(DataError, match=r"tables\.orders\.known_late"):
        find_late_columns(con, HONEST, {"orders": [wrong]}, time="ordered_at", keys=["id"], features=["amount"])


@pytest.mark.parametrize(
    ("load", "task"),
    [
        (load_breast_cancer, "binary"),
        (load_wine, "multiclass"),
        (load_iris, "multiclass"),
        (load_diabetes, "regression"),
    ],
)
def test_real_tables_without_a_leak_are_not_accused(load: object, task: Task) -> None:
    table = load(as_frame=True)  # type: ignore[operator]
    assert find_telling_columns(table.data, table.target.to_numpy(), task, seed=0) == []


def table(task: Task, rows: int = 4000) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(1)
    hidden = rng.lognormal(size=rows) * 100
    y = hidden if task == "regression" else np.digitize(hidden, [100] if task == "binary" else [60, 150])
    X = pd.DataFrame({f"noise_{n}": rng.normal(size=rows) for n in range(3)})
    X["useful"] = hidden * rng.lognormal(sigma=0.5, size=rows)
    X["shop"] = np.asarray(["a", "b", "", "c"], dtype=object)[rng.integers(0, 4, rows)]
    X["customer"] = pd.Series([f"c{n}" for n in range(rows)], dtype=object)
    return X, y


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_gives_the_target_away_is_named_and_nothing_else(task: Task) -> None:
    X, y = table(task)
    spread = float(np.std(y))
    X["copy"] = y.astype(np.float64)
    X["nearly"] = y + np.random.default_rng(2).normal(scale=0.02 * spread, size=len(y))
    X["rank"] = np.argsort(np.argsort(y, kind="stable"), kind="stable").astype(np.float64)
    said = np.digitize(y, np.quantile(y, np.linspace(0, 1, 200))) if task == "regression" else y
    names = ["copy", "nearly", "rank"]
    if task != "regression":
        X["said"] = pd.Series([f"group {n}" for n in said], dtype=object)
        names.append("said")
    found = find_telling_columns(X, y, task, seed=0)
    assert [leak.column for leak in found] == names
    assert all(leak.kind == "tells the target" and leak.figure >= 0.99 for leak in found)


def test_classes_may_be_text_and_a_missing_value_may_be_the_leak() -> None:
    X, y = table("binary")
    X["closed_on"] = np.where(y == 1, np.nan, 7.0)
    found = find_telling_columns(X, np.where(y == 1, "yes", "no").astype(object), "binary", seed=0)
    assert [leak.column for leak in found] == ["closed_on"]


def test_the_same_seed_gives_the_same_figures() -> None:
    X, y = table("binary")
    assert find_telling_columns(X, y, "binary", limit=0.5, seed=3) == find_telling_columns(
        X, y, "binary", limit=0.5, seed=3
    )
