"""What the plots show, as lists of points: for DVC, for the PNGs and for the report alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.scoring import Predictions

Array = npt.NDArray[Any]
Points = list[dict[str, Any]]
CURVE, BINS, POINTS = 200, 10, 2000  # points a curve, bins of the calibration, dots of a scatter
NAMES = ("roc", "precision_recall", "calibration", "confusion", "scores", "residuals", "predicted_actual", "importance")
"""Every one is written for every task: DVC complains about a plot without a file, not about one without points."""


def curves(p: Predictions, seed: int) -> dict[str, Points]:
    """The points of every plot but importance; [] where a plot is not for this task (or there are no rows)."""
    empty: dict[str, Points] = {name: [] for name in NAMES}
    if not len(p):
        return empty
    if p.classes is None:
        return {
            **empty,
            "calibration": _deciles(p),
            "residuals": _residuals(p),
            "predicted_actual": _scatter(p, seed),
        }
    return {
        **empty,
        "roc": _each_class(p, _roc),
        "precision_recall": _each_class(p, _precision_recall),
        "calibration": _each_class(p, _calibration),
        "confusion": _confusion(p),
        "scores": _scores(p),
    }


def _each_class(p: Predictions, of: Any) -> Points:
    """One curve for the positive class of two, else one a class against the rest; a class without rows has none."""
    assert p.classes is not None
    points: Points = []
    for code in [1] if len(p.classes) == 2 else range(len(p.classes)):
        actual = p.y == code
        if actual.any() and not actual.all():
            points += [{**point, "class": str(p.classes[code])} for point in of(actual, p.scores[:, code])]
    return points


def _cumulated(actual: Array, score: Array) -> tuple[Array, Array]:
    """True and false positives at each distinct score, the highest first."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])
    hits = np.cumsum(actual[order])[last]
    return hits, last + 1 - hits


def _thinned(x: Array) -> Array:
    """Positions of at most CURVE points, spread evenly over x (ascending), both ends among them."""
    wanted = np.searchsorted(x, np.linspace(x[0], x[-1], CURVE))
    return np.unique(np.r_[0, np.minimum(wanted, len(x) - 1), len(x) - 1])


def _roc(actual: Array, score: Array) -> Points:
    hits, alarms = _cumulated(actual, score)
    fpr, tpr = np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]]
    kept = _thinned(fpr + tpr)
    return _points(false_positive_rate=fpr[kept], true_positive_rate=tpr[kept])


def _precision_recall(actual: Array, score: Array) -> Points:
    hits, alarms = _cumulated(actual, score)
    recall, precision = hits / hits[-1], hits / (hits + alarms)
    kept = _thinned(recall)
    return _points(recall=recall[kept], precision=precision[kept])


def _bins(values: Array) -> list[Array]:
    """Row numbers in up to BINS bins of about the same size, fewer for few rows; equal values stay together."""
    wanted = min(BINS, max(3, len(values) // 15))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, wanted + 1)[1:-1]))
    number = np.searchsorted(edges, values, side="left")
    return [np.flatnonzero(number == k) for k in range(len(edges) + 1) if (number == k).any()]


def _calibration(actual: Array, score: Array) -> Points:
    """Mean probability against observed share, with Wilson's 95 % limits."""
    points: Points = []
    for rows in _bins(score):
        n, share = len(rows), float(actual[rows].mean())
        centre, z2 = share + 1.96**2 / (2 * n), 1.96**2 / n
        half = 1.96 * np.sqrt(share * (1 - share) / n + z2 / (4 * n))
        limits = [float((centre - half) / (1 + z2)), float((centre + half) / (1 + z2))]
        points.append(_point(predicted=score[rows].mean(), observed=share, low=limits[0], high=limits[1], rows=n))
    return points


def _deciles(p: Predictions) -> Points:
    points: Points = []
    for rows in _bins(p.labels):
        n, mean, half = len(rows), p.y[rows].mean(), 1.96 * p.y[rows].std() / np.sqrt(len(rows))
        point = _point(predicted=p.labels[rows].mean(), observed=mean, low=mean - half, high=mean + half, rows=n)
        points.append({**point, "class": "mean"})
    return points


def _confusion(p: Predictions) -> Points:
    assert p.classes is not None
    k = len(p.classes)
    matrix = np.bincount(p.y * k + p.labels, minlength=k * k).reshape(k, k)
    return [
        {"actual": str(p.classes[i]), "predicted": str(p.classes[j]), "rows": int(matrix[i, j])}
        for i in range(k)
        for j in range(k)
    ]


def _scores(p: Predictions) -> Points:
    """By actual class, the share of its rows at each score: of the positive class of two, else of the right class."""
    assert p.classes is not None
    edges = np.linspace(0, 1, 41 if len(p) >= 1000 else 11)
    points: Points = []
    for code, name in enumerate(p.classes):
        rows = p.y == code
        if not rows.any():
            continue
        shown = p.scores[rows, 1 if len(p.classes) == 2 else code]
        share = np.histogram(np.clip(shown, 0, 1), edges)[0] / rows.sum()
        points += [{**point, "class": str(name)} for point in _points(score=(edges[1:] + edges[:-1]) / 2, share=share)]
    return points


def _residuals(p: Predictions) -> Points:
    """Actual minus predicted: how many rows at each size."""
    counts, edges = np.histogram(p.y - p.labels, bins=min(40, max(8, len(p) // 8)))
    middles = _points(residual=(edges[1:] + edges[:-1]) / 2)
    return [{**point, "rows": int(n)} for point, n in zip(middles, counts, strict=True)]


def _scatter(p: Predictions, seed: int) -> Points:
    rows = np.sort(np.random.default_rng(seed).permutation(len(p))[:POINTS])
    return _points(predicted=p.labels[rows], actual=p.y[rows])


def _point(**values: Any) -> dict[str, Any]:
    return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in values.items()}


def _points(**columns: Array) -> Points:
    names = list(columns)
    return [_point(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]
