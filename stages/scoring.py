"""Metrics by scikit-learn scorer name, from predictions made once, with weights for the rows.

The common scorers are written out here over sorted arrays, because a bootstrap asks for each of them hundreds of times
(scikit-learn sorts and validates anew at every call); the tests hold them against scikit-learn. Any other scorer is
scikit-learn's own, called on the rows repeated by weight. As with scikit-learn's scorers, greater is always better.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.config import nearest
from stages.errors import ConfigError, DataError

Array = npt.NDArray[Any]
Score = Callable[[Array], float]
"""n weights (0 or more) to the metric; NaN where it is not defined, as an AUC of one class."""

FEW_UNITS = 400
"""Up to so many units (the days of a year) a table of their pairs is worth its n x units steps."""


@dataclass(frozen=True)
class Predictions:
    """n rows. Classification: y and labels are codes 0 … k-1, scores n x k; regression: values, and scores n x 1."""

    y: Array
    labels: Array
    scores: Array
    classes: tuple[int | str, ...] | None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def rows(self) -> Array:
        """One weight of 1 a row."""
        return np.ones(len(self.y))

    def take(self, rows: Array) -> Predictions:
        """Some of the rows: a mask or positions."""
        return replace(self, y=self.y[rows], labels=self.labels[rows], scores=self.scores[rows])


def classified(y: Array, labels: Array, scores: Array, classes: Iterable[int | str]) -> Predictions:
    """Labels as codes. A label the model never saw becomes one more class of probability 0 (two classes: DataError)."""
    known = list(classes)
    unseen = sorted(set(np.unique(np.asarray(y, dtype="object"))) - set(known), key=str)
    if unseen and len(known) == 2:
        raise DataError(f"the target holds {unseen[0]!r}, the model knows {known[0]!r} and {known[1]!r}; train again")
    known += unseen
    padded = np.pad(np.asarray(scores, dtype="float64"), ((0, 0), (0, len(unseen))))
    code = {label: position for position, label in enumerate(known)}
    actual, predicted = (np.array([code[label] for label in column.tolist()], dtype="int64") for column in (y, labels))
    return Predictions(actual, predicted, padded, tuple(known))


def regressed(y: Array, values: Array) -> Predictions:
    """Predictions of a regression: n values."""
    values = np.asarray(values, dtype="float64").reshape(-1)
    return Predictions(np.asarray(y, dtype="float64"), values, values.reshape(-1, 1), None)


def grouped(score: Score, units: Array) -> Score:
    """The score as a function of the weights of units, of which all rows of a unit share one; units: n numbers."""
    count = int(units.max()) + 1 if len(units) else 0
    if isinstance(score, _Auc) and count <= min(FEW_UNITS, len(units) // 2):
        return score.summed(units)
    return lambda times: score(times[units])


def score_of(name: str, predictions: Predictions) -> Score:
    """The scorer of that name, ready for any weights. Raises ConfigError where it is unknown or not for this task."""
    kernels = _REGRESSION if predictions.classes is None else _CLASSIFICATION
    if name in kernels and (name not in _TWO_CLASSES or len(predictions.classes or ()) == 2):
        return kernels[name](predictions)
    return _sklearn(name, predictions)


def written_out(name: str, task: str) -> bool:
    """Whether the scorer is one of ours, for the task: binary, multiclass or regression."""
    kernels = _REGRESSION if task == "regression" else _CLASSIFICATION
    return name in kernels and (name not in _TWO_CLASSES or task == "binary")


def unknown_scorer(name: str) -> str | None:
    """That scikit-learn has no scorer of this name, with the nearest that it has."""
    from sklearn.metrics import get_scorer_names

    known = get_scorer_names()
    if name in known:
        return None
    return f"{name!r} is no scikit-learn scorer{nearest(name, known)}; sklearn.metrics.get_scorer_names() lists them"


def _mean(loss: Array) -> Score:
    def score(w: Array) -> float:
        total = w.sum()
        return float(-(loss @ w) / total) if total else math.nan

    return score


def _log_loss(p: Predictions) -> Score:
    share = p.scores[np.arange(len(p)), p.y]
    tiny = np.finfo("float64").eps
    return _mean(-np.log(np.clip(share, tiny, 1 - tiny)))


def _brier(p: Predictions) -> Score:
    actual = np.eye(p.scores.shape[1])[p.y]
    loss = ((p.scores - actual) ** 2).sum(axis=1)
    return _mean(loss / 2 if p.scores.shape[1] == 2 else loss)


def _ranked(scores: Array, positive: Array, by_rank: Callable[[Array, Array], float]) -> Score:
    """by_rank gets the weights of positives and negatives at each distinct score, the lowest score first."""
    order = np.argsort(scores, kind="stable")
    ordered, is_positive = scores[order], positive[order].astype("float64")
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, dtype="int64")

    def score(w: Array) -> float:
        if not len(starts):
            return math.nan
        weight = w[order]
        both = np.add.reduceat(weight, starts)
        good = np.add.reduceat(weight * is_positive, starts)
        return by_rank(good, both - good)

    return score


def _auc_by_rank(good: Array, bad: Array) -> float:
    pairs = good.sum() * bad.sum()
    return float(good @ (np.cumsum(bad) - bad / 2) / pairs) if pairs else math.nan


class _Auc:
    """The area under the ROC curve, of several classes the mean of each against the rest."""

    def __init__(self, p: Predictions) -> None:
        classes = [1] if p.scores.shape[1] == 2 else range(p.scores.shape[1])
        self._classes = [(p.scores[:, k], p.y == k) for k in classes]
        self._scores = [_ranked(scores, positive, _auc_by_rank) for scores, positive in self._classes]

    def __call__(self, w: Array) -> float:
        return float(np.mean([score(w) for score in self._scores]))

    def summed(self, units: Array) -> Score:
        """The same area from u weights of units: all that it needs of the rows is kept in sums over pairs of units."""
        tables = [_pairs(scores, positive, units) for scores, positive in self._classes]

        def score(times: Array) -> float:
            areas = []
            for right, on, off in tables:
                pairs = (times @ on) * (times @ off)
                areas.append(times @ right @ times / pairs if pairs else math.nan)
            return float(np.mean(areas))

        return score


def _pairs(scores: Array, positive: Array, units: Array) -> tuple[Array, Array, Array]:
    """u x u: the pairs of a positive of one unit and a lower negative of another (a tie is half); positives; negatives.

    An area under the curve of weighted units is a quadratic form of these, whatever the weights.
    """
    count = int(units.max()) + 1
    right = np.empty((count, count))
    on, of_on = scores[positive], units[positive]
    for unit in range(count):
        off = np.sort(scores[~positive & (units == unit)])
        below = (np.searchsorted(off, on, "left") + np.searchsorted(off, on, "right")) / 2
        right[:, unit] = np.bincount(of_on, below, count)
    return right, np.bincount(of_on, minlength=count), np.bincount(units[~positive], minlength=count)


def _precision_by_rank(good: Array, bad: Array) -> float:
    hit = np.cumsum(good[::-1])
    seen = hit + np.cumsum(bad[::-1])
    if not len(hit) or not hit[-1]:
        return math.nan
    return float(good[::-1] @ np.divide(hit, seen, out=np.zeros_like(hit), where=seen > 0) / hit[-1])


def _average_precision(p: Predictions) -> Score:
    classes = [1] if p.scores.shape[1] == 2 else range(p.scores.shape[1])
    scores = [_ranked(p.scores[:, k], p.y == k, _precision_by_rank) for k in classes]
    return lambda w: float(np.mean([score(w) for score in scores]))


def _confusion(p: Predictions, of: Callable[[Array], float]) -> Score:
    """of gets the k x k weights, actual by predicted."""
    k = p.scores.shape[1]
    cell = p.y * k + p.labels
    return lambda w: of(np.bincount(cell, weights=w, minlength=k * k).reshape(k, k))


def _accuracy(matrix: Array) -> float:
    return float(np.trace(matrix) / matrix.sum()) if matrix.sum() else math.nan


def _balanced_accuracy(matrix: Array) -> float:
    actual = matrix.sum(axis=1)
    if np.count_nonzero(actual) < 2:
        return math.nan
    return float(np.mean(np.diag(matrix)[actual > 0] / actual[actual > 0]))


def _rates(matrix: Array, kind: str) -> Array:
    """F1, precision or recall of each class; 0 where scikit-learn's zero_division=0 would apply."""
    right, predicted, actual = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    top = 2 * right if kind == "f1" else right
    bottom = {"f1": predicted + actual, "precision": predicted, "recall": actual}[kind]
    return np.asarray(np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0))


def _of_positive(kind: str) -> Callable[[Predictions], Score]:
    def of(matrix: Array) -> float:
        return float(_rates(matrix, kind)[1]) if matrix[1].sum() else math.nan

    return lambda p: _confusion(p, of)


def _averaged(kind: str, average: str) -> Callable[[Predictions], Score]:
    def of(matrix: Array) -> float:
        actual = matrix.sum(axis=1)
        present = (actual + matrix.sum(axis=0)) > 0
        if np.count_nonzero(actual) < 2:
            return math.nan
        rates = _rates(matrix, kind)
        return float(rates @ actual / actual.sum()) if average == "weighted" else float(rates[present].mean())

    return lambda p: _confusion(p, of)


def _squared(p: Predictions) -> Array:
    return np.asarray((p.y - p.labels) ** 2)


def _root_mean_squared(p: Predictions) -> Score:
    mean = _mean(_squared(p))
    return lambda w: -math.sqrt(-mean(w))


def _r2(p: Predictions) -> Score:
    centred, residual = p.y - p.y.mean(), _squared(p)

    def score(w: Array) -> float:
        total = centred**2 @ w - (centred @ w) ** 2 / w.sum() if w.sum() else 0.0
        return float(1 - residual @ w / total) if total > 0 and np.count_nonzero(w) > 1 else math.nan

    return score


_TWO_CLASSES = {"roc_auc", "f1", "precision", "recall"}
_CLASSIFICATION: dict[str, Callable[[Predictions], Score]] = {
    "roc_auc": _Auc,
    "roc_auc_ovr": _Auc,
    "average_precision": _average_precision,
    "neg_log_loss": _log_loss,
    "neg_brier_score": _brier,
    "accuracy": lambda p: _confusion(p, _accuracy),
    "balanced_accuracy": lambda p: _confusion(p, _balanced_accuracy),
    **{kind: _of_positive(kind) for kind in ("f1", "precision", "recall")},
    **{
        f"{kind}_{average}": _averaged(kind, average)
        for kind in ("f1", "precision", "recall")
        for average in ("macro", "weighted")
    },
}
_REGRESSION: dict[str, Callable[[Predictions], Score]] = {
    "neg_mean_absolute_error": lambda p: _mean(np.abs(p.y - p.labels)),
    "neg_mean_squared_error": lambda p: _mean(_squared(p)),
    "neg_root_mean_squared_error": _root_mean_squared,
    "r2": _r2,
}


def _sklearn(name: str, p: Predictions) -> Score:
    """scikit-learn's own scorer, on an estimator that looks the predictions up: X is the row's number."""
    from sklearn.exceptions import UndefinedMetricWarning
    from sklearn.metrics import get_scorer

    unknown = unknown_scorer(name)
    if unknown:
        raise ConfigError(f"evaluate.metrics: {unknown}")
    scorer, estimator = get_scorer(name), replaying(p)

    def score(w: Array) -> float:
        rows = np.repeat(np.arange(len(p)), w.astype("int64"))
        if p.classes is not None and len(np.unique(p.y[rows])) < 2:
            return math.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            return float(scorer(estimator, rows.reshape(-1, 1), p.y[rows]))

    try:
        score(p.rows)
    except (ValueError, AttributeError, TypeError) as error:
        kind = "a regression" if p.classes is None else f"{len(p.classes)} classes"
        raise ConfigError(f"evaluate.metrics: {name!r} does not fit {kind} ({error}); take another scorer") from None
    return score


def replaying(p: Predictions, labels_only: bool = False) -> Any:
    """An estimator that says what was predicted of each row, X being its number; labels_only: no probabilities."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Replay(BaseEstimator):  # type: ignore[misc]
        classes_ = np.arange(p.scores.shape[1])

        def predict(self, X: Array) -> Array:
            return np.asarray(p.labels[X[:, 0]])

    if p.classes is None:
        return type("ReplayRegressor", (RegressorMixin, Replay), {})()
    if labels_only:
        return type("ReplayLabels", (ClassifierMixin, Replay), {})()

    class ReplayClassifier(ClassifierMixin, Replay):  # type: ignore[misc]
        def predict_proba(self, X: Array) -> Array:
            return np.asarray(p.scores[X[:, 0]])

    return ReplayClassifier()
