"""Permutation importance: how much of the primary metric is lost when a column is shuffled."""

from __future__ import annotations

from collections.abc import Callable

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
    points: Points = []
    for name in X.columns:
        column = pd.Series(X[name].to_numpy()[orders], dtype=X[name].dtype)  # else pandas takes objects for its str
        shuffled = many.assign(**{str(name): column})
        predicted = predict(shuffled, truth)
        parts = [predicted.take(np.arange(k * len(X), (k + 1) * len(X))) for k in range(repeats)]
        losses = np.nan_to_num([base - score_of(metric, part)(part.rows) for part in parts])
        points.append(
            {
                "column": str(name),
                "loss": float(f"{losses.mean():.6g}"),
                "low": float(f"{losses.min():.6g}"),
                "high": float(f"{losses.max():.6g}"),
            }
        )
    return sorted(points, key=lambda point: (-point["loss"], point["column"]))
