"""Metrics of parts of the test split: a model can be good on the whole and poor where it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stages.config import Evaluate, nearest
from stages.dataset import Split
from stages.errors import ConfigError
from stages.resampling import Interval, draws, interval, units_of
from stages.scoring import Predictions, score_of

VALUES = 20  # a numeric column with more distinct values than this is cut at its quartiles


@dataclass(frozen=True)
class Slice:
    """Rows with one value of a column. A metric that is not defined on them (an AUC of one class) is None."""

    column: str
    value: str
    rows: int
    primary: Interval
    metrics: dict[str, float | None]

    def tree(self) -> dict[str, Any]:
        """As slices.json holds it."""
        limits = {"low": self.primary.low, "high": self.primary.high}
        return {"column": self.column, "value": self.value, "rows": self.rows, **self.metrics, **limits}


def sliced(test: Split, p: Predictions, asked: Evaluate, seed: int) -> tuple[Slice, ...]:
    """Every value with enough rows of every declared column, the largest first within a column."""
    found = []
    for column in asked.slices:
        values = values_of(test, column)
        counts = values.value_counts()
        large = sorted(counts[counts >= asked.smallest_slice].items(), key=lambda item: (-item[1], str(item[0])))
        for value, _ in large:
            rows = np.flatnonzero((values == value).to_numpy())
            time = None if test.time is None else test.time.to_numpy()[rows]
            found.append(_slice(column, str(value), p.take(rows), time, asked, seed))
    return tuple(found)


def values_of(test: Split, column: str) -> pd.Series[Any]:
    """The column as words, from the features, the keys or what is passed through. Raises ConfigError for no column."""
    for frame in (test.X, test.keys, test.extra):
        if column in frame.columns:
            return _words(frame[column].reset_index(drop=True))
    known = [*test.X.columns, *test.keys.columns, *test.extra.columns]
    raise ConfigError(f"evaluate.slices: {column!r} is no column of the data{nearest(column, known)}")


def _words(column: pd.Series[Any]) -> pd.Series[Any]:
    missing = column.isna()
    if pd.api.types.is_float_dtype(column) or pd.api.types.is_integer_dtype(column):
        if column.nunique() > VALUES:
            column = pd.qcut(column, 4, duplicates="drop").astype("object").map(_span)
        else:
            column = column.map(lambda number: f"{number:g}")
    words = pd.Series([str(value) for value in column], dtype="object")
    return words.mask(missing | (words == ""), "missing")


def _span(cut: Any) -> str:
    return f"{cut.left:g} to {cut.right:g}" if isinstance(cut, pd.Interval) else ""


def _slice(column: str, value: str, p: Predictions, time: Any, asked: Evaluate, seed: int) -> Slice:
    scores = {name: score_of(name, p) for name in asked.metrics}
    values = {name: score(p.rows) for name, score in scores.items()}
    units, _ = units_of(time, len(p))
    drawn = draws({asked.primary: scores[asked.primary]}, units, asked.resamples, seed)[asked.primary]
    return Slice(
        column,
        value,
        len(p),
        interval(values[asked.primary], drawn, asked.confidence),
        {name: v if math.isfinite(v) else None for name, v in values.items()},
    )
