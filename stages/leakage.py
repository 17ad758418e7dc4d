"""Features that a prediction could not have had: values from after the moment, and values that give the target away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stages.config import KnownLate
from stages.errors import DataError
from stages.tables import Connection, SqlError, columns_of, first_line, identifier, is_number, literal

if TYPE_CHECKING:
    from stages.telling import Task

__all__ = ["KnownLate", "Leak", "find_late_columns", "find_telling_columns"]

COMPARED = 20_000  # rows a cut at most: the newest before it, where what is not known yet matters most


@dataclass(frozen=True)
class Leak:
    """One feature and why; `figure` is the number of rows that differ, or the score of the feature alone."""

    column: str
    kind: Literal["not known in time", "tells the target"]
    figure: float
    detail: str


@dataclass(frozen=True)
class _Cut:
    """A moment, and the rows to compare: those predicted after `since` and not after `at`."""

    at: datetime
    since: datetime

    def holds(self, time: str) -> str:
        """The SQL condition on the time column."""
        return f"{time} > {_moment(self.since)} and {time} <= {_moment(self.at)}"


@dataclass(frozen=True)
class _Asked:
    """A query and what is asked of it: see `find_late_columns`."""

    query: str
    known: Mapping[str, Sequence[KnownLate]]
    time: str
    keys: Sequence[str]
    features: Sequence[str]

    def shown(self, types: Mapping[str, str]) -> str:
        """Time, keys and features by position, as text or as doubles: what pandas holds without surprises."""
        named = [f"cast({identifier(name)} as varchar) as k{n}" for n, name in enumerate([self.time, *self.keys])]
        for n, name in enumerate(self.features):
            named.append(f"cast({identifier(name)} as {'double' if is_number(types[name]) else 'varchar'}) as f{n}")
        return ", ".join(named)


def find_late_columns(
    con: Connection,
    query: str,
    known: Mapping[str, Sequence[KnownLate]],
    *,
    time: str,
    keys: Sequence[str],
    features: Sequence[str],
    cuts: int = 2,
    lookback_hours: int = 48,
    rows: str | None = None,
) -> list[Leak]:
    """Features of `query` that hold what was not known when the prediction was made, each once, in their order.

    The query runs again on tables in which every late value is hidden whose moment comes after a cut; no feature of a
    row predicted up to the cut may change. A value without a moment counts as known after every cut. Where hiding makes
    rows vanish (`where dep_time is not null`) the query runs once more with the column's largest value in its place.

    `known` is by table, the tables are tables or views of the current schema of `con`, which is left as it was.
    `rows`, a relation that holds what the query yields, saves running it in full; else the cost is one run, and in
    either case one run for each cut. Raises DataError for a declaration that does not fit its table.
    """
    if not any(known.values()):
        return []
    cursor = con.cursor()  # its temporary views hide the tables from nobody else, and go when it closes
    try:
        asked = _Asked(query, known, time, keys, features)
        source = f"(\n{query}\n)"
        shown = asked.shown(columns_of(cursor, source))
        seen = rows
        if seen is None:
            cursor.execute(f"create temp table pinwerk_seen as select {identifier(time)}, {shown} from {source}")
            seen = "pinwerk_seen"
            shown = f"* exclude ({identifier(time)})"
        leaks: dict[str, Leak] = {}
        for cut in _cuts(cursor, seen, identifier(time), cuts, timedelta(hours=lookback_hours)):
            for leak in _differing(cursor, asked, cut, seen, shown):
                if leak.column not in leaks or leak.figure > leaks[leak.column].figure:
                    leaks[leak.column] = leak
    finally:
        cursor.close()
    return [leaks[name] for name in features if name in leaks]


def find_telling_columns(
    X: pd.DataFrame, y: np.ndarray, task: Task, *, limit: float = 0.99, sample: int = 20_000, seed: int
) -> list[Leak]:
    """Features that alone all but tell the target: their score, from 0 to 1, is at least `limit`.

    The score is cross-fitted on at most `sample` rows: AUC, its mean over the classes, or R². A single informative
    column is no leak: petal width tells iris with .99, which is why the limit is the caller's.
    """
    from stages.telling import MEASURES, score_alone

    scores = score_alone(X, y, task, sample=sample, seed=seed)
    return [
        Leak(name, "tells the target", score, f"alone it reaches {MEASURES[task]} {score:.3f} (limit {limit:g})")
        for name, score in scores.items()
        if score >= limit
    ]


def _cuts(cursor: Connection, rows: str, time: str, count: int, lookback: timedelta) -> list[_Cut]:
    """The end of the busiest hour in each of `count` stretches of equally many rows."""
    found = cursor.execute(
        f"""
        with hours as (
          select date_trunc('hour', {time}) as hour, max({time}) as latest, count(*) as n
          from {rows} where {time} is not null group by 1
        ),
        parted as (
          select *, least({count - 1}, floor({count} * (sum(n) over (order by hour) - n) / sum(n) over ())) as part
          from hours
        )
        select cast(latest as timestamp) from parted
        qualify row_number() over (partition by part order by n desc, hour) = 1 order by 1
        """
    ).fetchall()
    cuts = []
    for (at,) in found:
        whole = _Cut(at, at - lookback)
        oldest = cursor.execute(
            f"select cast({time} as timestamp) from {rows} where {whole.holds(time)} "
            f"order by 1 desc limit 1 offset {COMPARED}"
        ).fetchone()
        cuts.append(_Cut(at, oldest[0]) if oldest else whole)
    return cuts


def _differing(cursor: Connection, asked: _Asked, cut: _Cut, seen: str, shown: str) -> list[Leak]:
    """The features that differ for this cut."""
    window = f"where {cut.holds(identifier(asked.time))}"
    full = cursor.execute(f"select {shown} from {seen} {window}").df()
    typed = asked.shown(columns_of(cursor, f"(\n{asked.query}\n)"))
    leaks: list[Leak] = []
    for stand_in in (False, True):
        views = _hide(cursor, asked.known, cut.at, stand_in=stand_in)
        try:
            then = cursor.execute(f"select {typed} from (\n{asked.query}\n) {window}").df()
        finally:
            for view in views:
                cursor.execute(f"drop view temp.{view}")
        both, vanished = _matched(full, then, len(asked.keys) + 1)
        found = (_compared(both, name, asked.features, cut, stand_in=stand_in) for name in asked.features)
        leaks += [leak for leak in found if leak is not None]
        if not vanished:
            break
    return leaks


def _hide(cursor: Connection, known: Mapping[str, Sequence[KnownLate]], at: datetime, *, stand_in: bool) -> list[str]:
    """Put temporary views before the tables, without what came to be known after `at`; their names, quoted."""
    row = cursor.execute("select current_catalog(), current_schema()").fetchone()
    assert row is not None
    schema = ".".join(identifier(part) for part in row)
    views: list[str] = []
    for table, groups in known.items():
        view = f"{schema}.{identifier(table)}"
        for n, group in enumerate(groups):
            view = _hidden(view if n == 0 else f"({view})", group, at, f"pinwerk_known_{n}", stand_in=stand_in)
        try:
            cursor.execute(f"create temp view {identifier(table)} as {view}")
            views.append(identifier(table))
            cursor.execute(f"from temp.{identifier(table)} limit 0")
        except SqlError as error:
            for made in views:
                cursor.execute(f"drop view temp.{made}")
            raise DataError(
                f"tables.{table}.known_late: {first_line(error)}; `columns` are columns of the table and `at` is an "
                f"SQL expression over them that yields a UTC timestamp: {'; '.join(group.at for group in groups)}"
            ) from None
    return views


def _hidden(source: str, group: KnownLate, at: datetime, flag: str, *, stand_in: bool) -> str:
    """`source` with the group's columns hidden, or stood in for, where their moment is after `at`."""
    names = [identifier(name) for name in group.columns]
    flagged = f"select *, coalesce(({group.at}) <= {_moment(at)}, false) as {flag} from {source}"
    hidden = ", ".join(f"case when {flag} then {name} end as {name}" for name in names)
    if not stand_in:
        return f"select * exclude ({flag}) replace ({hidden}) from ({flagged})"
    largest = ", ".join(
        f"case when {flag} or {name} is null then {name} else (select max({name}) from {source}) end as {name}"
        for name in names
    )
    return f"select * exclude ({flag}) replace ({largest}) from ({flagged})"


def _matched(full: pd.DataFrame, then: pd.DataFrame, keys: int) -> tuple[pd.DataFrame, bool]:
    """Rows of the same time and key side by side (f0 and f0_then, …), and whether any row of `full` has no partner.

    Rows that share time and key are paired in the order of their values, and left out where their number differs.
    """
    by = [f"k{n}" for n in range(keys)]
    parts = []
    for frame in (full, then):
        ordered = frame.sort_values(list(frame.columns), kind="stable")
        groups = ordered.groupby(by, dropna=False, sort=False)
        parts.append(ordered.assign(nth=groups.cumcount(), size=groups[by[0]].transform("size")))
    both = parts[0].merge(parts[1], on=[*by, "nth", "size"], suffixes=("", "_then"))
    return both, len(both) < len(full)


def _compared(both: pd.DataFrame, name: str, features: Sequence[str], cut: _Cut, *, stand_in: bool) -> Leak | None:
    column = f"f{features.index(name)}"
    seen, then = both[column], both[f"{column}_then"]
    same = (seen.isna() & then.isna()) | (seen == then)
    if pd.api.types.is_float_dtype(seen) and pd.api.types.is_float_dtype(then):
        # sums of fractions differ in their last bits with the number of threads
        same |= pd.Series(np.isclose(seen, then, rtol=1e-9, atol=1e-12), index=both.index)
    differs = both[~same]
    if differs.empty:
        return None
    first = differs.sort_values("k0", kind="stable").iloc[-1]
    then_known = "nothing" if stand_in else _said(first[f"{column}_then"])
    detail = (
        f"{len(differs):,} of {len(both):,} rows predicted up to {cut.at} UTC hold what came to be known later, "
        f"such as {_said(first[column])} at {first['k0']}, where {then_known} was known"
    )
    return Leak(name, "not known in time", float(len(differs)), detail)


def _said(value: Any) -> str:
    if pd.isna(value):
        return "nothing"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _moment(at: datetime) -> str:
    return f"timestamp {literal(at.isoformat(sep=' '))}"
