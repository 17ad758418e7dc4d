"""Permutation importance: how much of the primary metric is lost when a column is shuffled."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from stages.reporting.curves import Points
from stages.scoring import Array, Predictions, score_of


def permutation_importance(
    X: pd.DataFrame,
    predict: Callable[[pd.DataFrame, Array], Predictions],
    y: Array,
    metric: str,
    repeats: int,
    seed: int,
) -> Points:
    """For each column the mean, least and greatest loss of the metric over the repeats; the most important first.

    A column that another one can stand in for loses little, though the model uses it. All repeats of a column are
    predicted in one call. Undefined losses (one class alone) count as 0.
    """
    generator = np.random.default_rng(seed)
    whole = predict(X, y)
    base = score_of(metric, whole)(whole.rows)
    orders = np.concatenate([generator.permutation(len(X)) for _ in range(repeats)])
    many, truth = pd.concat([X] * repeats, ignore_index=True), np.tile(y, repeats)

    def lost(name: str) -> dict[str, str | float]:
        column = pd.Series(X[name].to_numpy()[orders], dtype=X[name].dtype)  # else pandas takes objects for its str
        predicted = predict(many.assign(**{name: column}), truth)
        parts = [predicted.take(np.arange(k * len(X), (k + 1) * len(X))) for k in range(repeats)]
        losses = np.nan_to_num([base - score_of(metric, part)(part.rows) for part in parts])
        figures = {"loss": losses.mean(), "low": losses.min(), "high": losses.max()}
        return {"column": name, **{key: float(f"{figure:.6g}") for key, figure in figures.items()}}

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the graph is computed outside of Python's lock
        points: Points = list(pool.map(lost, map(str, X.columns)))
    return sorted(points, key=lambda point: (-point["loss"], point["column"]))
