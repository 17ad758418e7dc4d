"""Can a classifier tell two windows apart? It sees joint changes that no single column shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from stages.config import Columns

Places = NDArray[np.int64]

ROWS = 10_000
FEWEST = 50
"""Rows a side below which the area says nothing."""

DAYS = 10
FOLDS = 3

_CODES = 250


def domain_auc(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    columns: Columns,
    ignore: tuple[str, ...],
    seed: int,
    times: tuple[pd.Series, pd.Series] | None = None,
) -> float | None:
    """Area under the ROC curve of a small boosted model, cross-fitted; 0.5: the windows look alike.

    At most `ROWS` rows a side are used. None where a side has fewer than `FEWEST` rows or no column is left.
    times: the moments of the rows of both sides. Whole days then stay in one fold, where each side has `DAYS` of
    them: rows of one day share its weather, and a model that has seen the day would know the window by it.
    """
    numeric = [name for name in columns.numeric if name not in ignore]
    categorical = [name for name in columns.categorical if name not in ignore]
    if min(len(reference), len(current)) < FEWEST or not numeric + categorical:
        return None
    generator = np.random.default_rng(seed)
    places = [_some(len(side), generator) for side in (reference, current)]
    both = pd.concat([side.iloc[at] for side, at in zip((reference, current), places, strict=True)], ignore_index=True)
    y = np.repeat([0, 1], [len(at) for at in places])
    days = None if times is None else [_days(side.iloc[at]) for side, at in zip(times, places, strict=True)]
    numbers = [column for name in numeric if (column := _finite(both[name])) is not None]
    X = np.column_stack([*numbers, *(_codes(both[name]) for name in categorical), np.zeros(len(y))])
    is_category = [False] * len(numbers) + [True] * len(categorical) + [False]
    scores = np.zeros(len(y))
    for train, test in _folds(X, y, days, seed):
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=8,
            min_samples_leaf=20,
            categorical_features=is_category,
            early_stopping=False,
            random_state=seed,
        )
        scores[test] = model.fit(X[train], y[train]).predict_proba(X[test])[:, 1]
    return float(roc_auc_score(y, scores))


def _some(rows: int, generator: np.random.Generator) -> Places:
    return np.arange(rows) if rows <= ROWS else np.sort(generator.choice(rows, ROWS, replace=False))


def _days(times: pd.Series) -> Places:
    return times.to_numpy().astype("datetime64[D]").astype(np.int64)


def _folds(X: NDArray[np.float64], y: Places, days: list[Places] | None, seed: int) -> list[tuple[Places, Places]]:
    if days is None or min(len(np.unique(side)) for side in days) < DAYS:
        return list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, y))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return list(folds.split(X, y, groups=np.concatenate(days)))


def _finite(values: pd.Series) -> NDArray[np.float64] | None:
    """The column with NaN for what is not finite; None where so few are left that a fold may lack them."""
    array = values.to_numpy(dtype=np.float64)
    finite = np.isfinite(array)
    return np.where(finite, array, np.nan) if finite.sum() >= FEWEST else None


def _codes(values: pd.Series) -> NDArray[np.float64]:
    """Categories as numbers by how often they occur; those beyond the first `_CODES` share one."""
    counts = values.value_counts()
    ranked = sorted(counts.index, key=lambda value: (-int(counts[value]), str(value)))
    places = {value: min(place, _CODES) for place, value in enumerate(ranked)}
    return values.map(places).to_numpy(dtype=np.float64)
