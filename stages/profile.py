"""What a split looks like: counts, missing values, quantiles, categories. Plain JSON for reports and people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.config import Data
from stages.tables import Connection, identifier, literal

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
VALUES = 8_000_000  # numbers held in memory at once: 64 MB
TOP = 20  # categories listed; the rest are counted


def profile(con: Connection, data: Data, path: Path) -> dict[str, Any]:
    """Rows, the span of time, the target and every feature of a Parquet file. All figures are exact."""
    con.execute(f"create or replace view profiled as from read_parquet({literal(str(path))})")
    rows = _one(con, "count(*)")
    regression = data.task.name == "regression"
    numeric = _numeric(con, [*data.columns.numeric, *([data.columns.target] if regression else [])], rows)
    columns: dict[str, Any] = {name: numeric[name] for name in data.columns.numeric}
    columns |= {name: _categorical(con, name) for name in data.columns.categorical}
    found: dict[str, Any] = {"rows": rows}
    if data.columns.time is not None and rows:
        moment = identifier(data.columns.time)
        found |= {"from": str(_one(con, f"min({moment})")), "to": str(_one(con, f"max({moment})"))}
    if regression:
        found["target"] = numeric[data.columns.target]
    else:
        found["target"] = {"classes": _categorical(con, data.columns.target, top=1000)["categories"]}
    return {**found, "columns": columns}


def _numeric(con: Connection, names: Sequence[str], rows: int) -> dict[str, dict[str, Any]]:
    """The figures of each column. Exact quantiles hold a column in memory: as many in one scan as VALUES allows."""
    asked = ", ".join(str(q) for q in QUANTILES)
    width = max(1, VALUES // max(1, rows))
    found: dict[str, dict[str, Any]] = {}
    for chunk in (names[start : start + width] for start in range(0, len(names), width)):
        figures = ", ".join(
            f"count(*) - count({c}), avg({c}), stddev_samp({c}), quantile_cont({c}, [{asked}])"
            for c in (identifier(name) for name in chunk)
        )
        row = con.execute(f"select {figures} from profiled").fetchone()
        assert row is not None
        for n, name in enumerate(chunk):
            missing, mean, deviation, cuts = row[4 * n : 4 * n + 4]
            quantiles = dict(zip((f"{q:g}" for q in QUANTILES), cuts or [None] * len(QUANTILES), strict=True))
            found[name] = {
                "missing": missing, "mean": _rounded(mean), "deviation": _rounded(deviation), "quantiles": quantiles
            }  # fmt: skip
    return found


def _categorical(con: Connection, name: str, top: int = TOP) -> dict[str, Any]:
    column = identifier(name)
    row = con.execute(
        f"with counted as (select {column} as word, count(*) as n from profiled group by 1) "
        "select coalesce(sum(n) filter (word is null), 0), count(word), "
        f"list({{'word': cast(word as varchar), 'n': n}} order by n desc, word) filter (word is not null)[:{top}] "
        "from counted"
    ).fetchone()
    assert row is not None
    categories = {entry["word"]: entry["n"] for entry in row[2] or ()}
    return {"missing": int(row[0]), "distinct": row[1], "categories": categories}


def _one(con: Connection, expression: str) -> Any:
    row = con.execute(f"select {expression} from profiled").fetchone()
    assert row is not None
    return row[0]


def _rounded(value: float | None) -> float | None:
    """To 9 significant digits: a parallel sum of floats differs in the last ones from run to run."""
    return None if value is None else float(f"{value:.9g}")
