"""How well each feature alone tells the target, out of fold: the figures behind the leakage check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

Task = Literal["binary", "multiclass", "regression"]
MEASURES: dict[Task, str] = {"binary": "AUC", "multiclass": "a mean AUC over the classes of", "regression": "R²"}


def score_alone(X: pd.DataFrame, y: np.ndarray, task: Task, *, sample: int, seed: int) -> dict[str, float]:
    """By column, from 0 (tells nothing) to 1 (tells it exactly): AUC, mean one-against-rest AUC, or R².

    Two folds, each predicted by what the other holds: a tree for a numeric column, the target's mean for a category.
    A numeric column is also scored by its order alone, which a tree of few leaves only approximates.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(X))[:sample]
    truth = _as_matrix(y[chosen], task)
    folds = list(_folds(truth, task, rng))
    scores = {}
    for name in X.columns:
        values = X[name].iloc[chosen]
        if pd.api.types.is_numeric_dtype(values):
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            held_out = np.mean([_score(truth[b], _by_tree(numbers[a], truth[a], numbers[b]), task) for a, b in folds])
            scores[str(name)] = max(float(held_out), _by_order(numbers, truth, task))
        else:
            codes = pd.factorize(values)[0] + 1  # a missing category is 0
            scores[str(name)] = float(
                np.mean([_score(truth[b], _by_mean(codes[a], truth[a], codes[b]), task) for a, b in folds])
            )
    return scores


def _as_matrix(y: np.ndarray, task: Task) -> np.ndarray:
    """(n, 1) for regression and binary, one column of 0 and 1 a class else."""
    if task == "regression":
        return np.asarray(y, dtype=np.float64)[:, None]
    classes = np.unique(y)
    if task == "binary":
        classes = classes[-1:]
    return np.asarray(np.asarray(y)[:, None] == classes[None, :], dtype=np.float64)


def _folds(truth: np.ndarray, task: Task, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two halves both ways, each with its share of every class (of low and high values in regression)."""
    order = np.arange(len(truth))
    rank = truth[:, 0] if task == "regression" else truth @ np.arange(1, truth.shape[1] + 1)
    order = order[np.lexsort((rng.random(len(truth)), rank))]
    half = np.zeros(len(truth), dtype=bool)
    pairs = len(truth) // 2
    half[order[2 * np.arange(pairs) + rng.integers(0, 2, pairs)]] = True
    yield np.flatnonzero(half), np.flatnonzero(~half)
    yield np.flatnonzero(~half), np.flatnonzero(half)


def _by_tree(known: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.tree import DecisionTreeRegressor

    # on targets of 0 and 1 the mean of a leaf is the share of the class, for every class at once
    tree = DecisionTreeRegressor(max_depth=8, min_samples_leaf=max(2, len(known) // 1000), random_state=0)
    tree.fit(_finite(known)[:, None], truth)
    return np.asarray(tree.predict(_finite(asked)[:, None])).reshape(len(asked), -1)


def _by_mean(known: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    size = int(max(known.max(initial=0), asked.max(initial=0))) + 1
    count = np.bincount(known, minlength=size)[:, None]
    total = np.column_stack([np.bincount(known, weights=column, minlength=size) for column in truth.T])
    mean = truth.mean(axis=0, keepdims=True)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), mean)[asked])


def _by_order(numbers: np.ndarray, truth: np.ndarray, task: Task) -> float:
    """How well the order of the values tells the target's order, either way round; several classes have none."""
    if task == "multiclass":
        return 0.0
    there = np.isfinite(numbers)
    if there.mean() < 0.5 or len(np.unique(numbers[there])) < 2 or len(np.unique(truth[there])) < 2:
        return 0.0
    if task == "binary":
        area = _areas(truth[there], numbers[there][:, None])
        return float(max(area, 1 - area) * there.mean() + 0.5 * (1 - there.mean()))
    from scipy.stats import spearmanr

    return float(spearmanr(numbers[there], truth[there, 0]).statistic ** 2 * there.mean())


def _score(truth: np.ndarray, predicted: np.ndarray, task: Task) -> float:
    if task != "regression":
        return _areas(truth, predicted)
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 0.0 if spread == 0 else max(0.0, 1 - float(((truth - predicted) ** 2).sum()) / spread)


def _areas(truth: np.ndarray, predicted: np.ndarray) -> float:
    """The mean over the columns of the area under the ROC curve; a column of one value says nothing and counts .5."""
    from scipy.stats import rankdata

    positives = truth.sum(axis=0)
    negatives = len(truth) - positives
    ranks = (rankdata(predicted, axis=0) * truth).sum(axis=0)
    both = (positives > 0) & (negatives > 0)
    area = np.full(truth.shape[1], 0.5)
    above = ranks - positives * (positives + 1) / 2
    area[both] = above[both] / (positives * negatives)[both]
    return float(area.mean())


def _finite(numbers: np.ndarray) -> np.ndarray:
    """Missing stays missing, which a tree splits on; the infinities become the largest numbers of float32."""
    return np.asarray(np.clip(numbers, -3e38, 3e38))
