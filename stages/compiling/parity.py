"""Rows that try a compiled graph hard, and how far it is from scikit-learn on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from stages.bundle import Rows, session
from stages.bundle import run_graph as run_session
from stages.compiling.graph import Graph
from stages.compiling.transforms import column_block
from stages.compiling.trees import thresholds

TOLERANCE = 1e-6
CHUNK = 10_000  # rows scored at once; bounds the memory of a wide one-hot block
LARGE = (2.0**24 + 1, 2.0**53 - 1, 1e15, 1e30, -1e30)  # from 3.4e38 on, a forest raises
EXTREMES = (0.0, -0.0, -1.0, 1.0, 1e-30, -1e-30, 5e-324, *LARGE)


@dataclass(frozen=True)
class Parity:
    """How a graph compares with scikit-learn.

    A label is the one that serving derives from the scores: binary, whether the second class's
    probability exceeds the threshold; multiclass, the greatest probability. `max_difference` is
    absolute for probabilities, and relative to max(1, |value|) for regression.
    """

    rows: int
    labels_different: int
    max_difference: float
    exact: bool

    def __str__(self) -> str:
        """Say it in one line."""
        verdict = "exact" if self.exact else "not exact"
        return (
            f"{verdict}: {self.labels_different} labels differ on {self.rows:,} rows, "
            f"scores by at most {self.max_difference:.1e}"
        )


def parity(pipeline: Pipeline, graph: bytes, X: pd.DataFrame, *, threshold: float = 0.5) -> Parity:
    """Score `X` with both; `threshold` is the binary label rule's. One thread, CPU."""
    if not len(X):
        return Parity(0, 0, 0.0, exact=False)  # nothing was proven
    expected = _expected(pipeline, X)
    scores = run_graph(graph, X)
    if scores.shape != expected.shape:
        return Parity(len(X), len(X), float("inf"), exact=False)
    with np.errstate(invalid="ignore"):
        difference = np.abs(scores - expected)
    difference[(scores == expected) | (np.isnan(scores) & np.isnan(expected))] = 0.0
    labels_different = 0
    if hasattr(pipeline, "classes_"):
        labels = _labels(scores, threshold) != _labels(expected, threshold)
        labels_different = int(np.sum(labels))
    else:
        difference /= np.maximum(1.0, np.abs(expected))
    furthest = float(np.max(np.where(np.isnan(difference), np.inf, difference)))
    exact = labels_different == 0 and furthest <= TOLERANCE
    return Parity(len(X), labels_different, furthest, exact)


def _labels(scores: np.ndarray, threshold: float) -> np.ndarray:
    if scores.shape[1] == 2:
        return np.asarray(scores[:, 1] > threshold)
    return np.asarray(np.argmax(scores, axis=1))


def _expected(pipeline: Pipeline, X: pd.DataFrame) -> np.ndarray:
    answer = pipeline.predict_proba if hasattr(pipeline, "classes_") else pipeline.predict
    with warnings.catch_warnings():  # an unseen category is the point here, not news
        warnings.simplefilter("ignore")
        values = np.asarray(answer(X), dtype=np.float64)
    return values.reshape(len(X), -1)


def run_graph(graph: bytes, X: pd.DataFrame) -> np.ndarray:
    """Score `X` with a serialized graph on one thread; gives float64 [n, width]."""
    columns = [(column, pd.api.types.is_numeric_dtype(X[column])) for column in X.columns]
    rows = Rows(
        X[[name for name, number in columns if number]].to_numpy(np.float64),
        X[[name for name, number in columns if not number]].to_numpy(object),
    )
    opened = session(graph)
    return np.concatenate([run_session(opened, rows[start : start + CHUNK]) for start in range(0, len(X), CHUNK)])


def check_rows(pipeline: Pipeline, X: pd.DataFrame, *, rows: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Make `rows` rows in the shape of `X`, which needs at least one row, that try a graph hard.

    Real rows; missing numbers; unseen and missing categories; extreme numbers, one a row; for trees,
    values at a threshold and one double or one float step beside it. A kind of row that the pipeline
    itself rejects (a missing value behind no imputer) is left out, and real rows take its place.
    """
    random = np.random.default_rng(seed)
    share = max(1, rows // 8)
    makers: list[tuple[Callable[..., None], int]] = [
        (_forget, share),
        (_rename, share),
        (_stretch, share),
        (_near_thresholds(pipeline, X), rows // 2),
    ]
    made: list[pd.DataFrame] = []
    for make, count in makers:
        part = _draw(X, count, random)
        make(part, random)
        if _accepted(pipeline, part):
            made.append(part)
    left = max(0, rows - sum(map(len, made)))
    return pd.concat([_draw(X, left, random), *made], ignore_index=True).iloc[:rows]


def _draw(X: pd.DataFrame, count: int, random: np.random.Generator) -> pd.DataFrame:
    replace = count > len(X)
    chosen = random.choice(len(X), size=count, replace=replace)
    return X.iloc[chosen].reset_index(drop=True)


def _accepted(pipeline: Pipeline, part: pd.DataFrame) -> bool:
    try:
        expected = _expected(pipeline, part)
    except ValueError:
        return False
    return bool(np.all(np.isfinite(expected)))


def _numeric(part: pd.DataFrame) -> list[str]:
    return [c for c in part.columns if pd.api.types.is_numeric_dtype(part[c])]


def _put(part: pd.DataFrame, column: str, where: np.ndarray, values: Any) -> None:
    content = part[column].to_numpy(copy=True)
    content[where] = values
    part[column] = pd.Series(content, index=part.index, dtype=part[column].dtype)


def _forget(part: pd.DataFrame, random: np.random.Generator) -> None:
    share = random.choice([0.1, 0.5, 1.0], size=len(part))
    for column in _numeric(part):
        _put(part, column, random.random(len(part)) < share, np.nan)


def _rename(part: pd.DataFrame, random: np.random.Generator) -> None:
    for column in part.columns.difference(_numeric(part), sort=False):
        real = part[column].to_numpy(copy=True)
        near = [f"{text} " for text in real[:20]] + [str(text).swapcase() for text in real[:20]]
        odd = np.array(["", "unseen", "\u00fcnseen", "0", "nan", "None", *near], dtype=object)
        where = random.random(len(part)) < 0.6
        _put(part, column, where, random.choice(odd, size=int(where.sum())))


def _stretch(part: pd.DataFrame, random: np.random.Generator) -> None:
    columns = _numeric(part)
    if not columns:
        return
    chosen = random.integers(len(columns), size=len(part))
    values = random.choice(np.array(EXTREMES), size=len(part))
    for place, column in enumerate(columns):
        _put(part, column, chosen == place, values[chosen == place])


def _near_thresholds(pipeline: Pipeline, X: pd.DataFrame) -> Callable[..., None]:
    points = _column_thresholds(pipeline, X)

    def make(part: pd.DataFrame, random: np.random.Generator) -> None:
        for column, values in points.items():
            beside = _beside(random.choice(values, size=len(part)), random)
            where = random.random(len(part)) < 0.5
            _put(part, column, where, beside[where])

    return make


def _column_thresholds(pipeline: Pipeline, X: pd.DataFrame) -> dict[str, np.ndarray]:
    columns = {column: not pd.api.types.is_numeric_dtype(X[column]) for column in X.columns}
    try:
        (_, features), *between, (_, estimator) = pipeline.steps
        origins = column_block(Graph(columns), features).origins if not between else ()
        found = thresholds(estimator)
    except Exception:
        # check rows are written for a pipeline that is not compiled as well, whatever it holds
        return {}
    points: dict[str, list[float]] = {}
    for feature, threshold in found:
        origin = origins[int(feature)] if int(feature) < len(origins) else None
        if origin is not None:
            points.setdefault(origin, []).append(float(threshold))
    return {column: np.array(values) for column, values in points.items()}


def _beside(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Move each value by nothing, a double step, a float step, or half of one."""
    single = values.astype(np.float32)
    up, down = (np.nextafter(single, np.float32(end)) for end in (np.inf, -np.inf))
    moved = [values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)]
    moved += [side.astype(np.float64) for side in (single, up, down)]
    moved += [(single.astype(np.float64) + side.astype(np.float64)) / 2 for side in (up, down)]
    return np.asarray(np.choose(random.integers(len(moved), size=len(values)), moved))
