"""What a model makes of two windows: its scores, and where the truth is known its calibration and performance.

The reference must be rows that the model was not fitted on, else every comparison is with a flattered model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stages.resampling import units_of, weights
from stages.scoring import Predictions, classified, regressed, score_of

FloatArray = NDArray[np.float64]

RESAMPLES = 200
BINS = 10


@dataclass(frozen=True)
class Behaviour:
    """The model on one window, row by row.

    classes is None for regression. scores is (rows, classes), for regression (rows, 1). observed is None where the
    truth is not known; predicted and observed hold labels or values. time (datetime64) gives the day of each row, since
    what happens on one day happens to many rows: resamples draw whole days. None where the data have no time.
    """

    classes: tuple[int | str, ...] | None
    scores: FloatArray
    predicted: NDArray[np.generic]
    observed: NDArray[np.generic] | None
    time: NDArray[np.datetime64] | None


@dataclass(frozen=True)
class Change:
    """A figure on both sides, current minus reference, and the bootstrap interval of that difference."""

    name: str
    reference: float
    current: float
    change: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """The interval excludes no change."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class ScoreShift:
    name: str
    distance: float
    p: float


def score_shifts(reference: Behaviour, current: Behaviour) -> tuple[ScoreShift, ...]:
    """Two-sample Kolmogorov-Smirnov for each class (binary: the positive one), p corrected for their number."""
    names, old, new = _scored(reference, current)
    results = [stats.ks_2samp(old[:, k], new[:, k], method="asymp") for k in range(len(names))]
    return tuple(
        ScoreShift(name, float(result.statistic), float(min(1.0, result.pvalue * len(names))))
        for name, result in zip(names, results, strict=True)
    )


def calibration_gaps(reference: Behaviour, current: Behaviour, confidence: float, seed: int) -> tuple[Change, ...]:
    """Mean of predicted minus observed, for each class (binary: the positive one); () without labels.

    For regression the unit is the standard deviation of the reference's observed values. The confidence holds for
    all classes together.
    """
    if reference.observed is None or current.observed is None:
        return ()
    names, old, new = _scored(reference, current)
    residuals = [scores - _truth(side, len(names)) for side, scores in ((reference, old), (current, new))]
    if reference.classes is None:
        spread = float(np.std(reference.observed.astype(np.float64))) or 1.0
        residuals = [residual / spread for residual in residuals]
    drawn = [
        np.array([w @ residual / max(w.sum(), 1) for w in _weights(side, seed + place)])
        for place, (side, residual) in enumerate(zip((reference, current), residuals, strict=True))
    ]
    tail = (1 - confidence) / 2 / len(names)
    low, high = np.quantile(drawn[1] - drawn[0], [tail, 1 - tail], axis=0)
    means = [residual.mean(axis=0) for residual in residuals]
    return tuple(
        Change(name, float(a), float(b), float(b - a), float(lo), float(hi))
        for name, a, b, lo, hi in zip(names, means[0], means[1], low, high, strict=True)
    )


def calibration_error(behaviour: Behaviour) -> float | None:
    """Expected calibration error over ten bins of equally many rows, the mean over the classes; None without it."""
    if behaviour.classes is None or behaviour.observed is None:
        return None
    _, scores, _ = _scored(behaviour, behaviour)
    truth = _truth(behaviour, scores.shape[1])
    return float(np.mean([_binned_error(scores[:, k], truth[:, k]) for k in range(scores.shape[1])]))


def performance(reference: Behaviour, current: Behaviour, scorer: str, confidence: float, seed: int) -> Change | None:
    """The scikit-learn scorer on both windows, higher is better; None without labels or where it is not defined."""
    if reference.observed is None or current.observed is None:
        return None
    values, drawn = [], []
    for place, side in enumerate((reference, current)):
        score = score_of(scorer, _predictions(side))
        values.append(score(np.ones(len(side.scores))))
        drawn.append(np.array([score(w) for w in _weights(side, seed + place)]))
    if not np.all(np.isfinite(values)):
        return None
    differences = drawn[1] - drawn[0]
    differences = differences[np.isfinite(differences)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(differences, [tail, 1 - tail]) if len(differences) else (-np.inf, np.inf)
    return Change(scorer, values[0], values[1], values[1] - values[0], float(low), float(high))


def _predictions(side: Behaviour) -> Predictions:
    if side.classes is None:
        return regressed(np.asarray(side.observed), side.predicted)
    return classified(np.asarray(side.observed), side.predicted, side.scores, side.classes)


def _weights(side: Behaviour, seed: int) -> Iterator[FloatArray]:
    units, _ = units_of(side.time, len(side.scores))
    return weights(units, RESAMPLES, seed)


def _scored(reference: Behaviour, current: Behaviour) -> tuple[list[str], FloatArray, FloatArray]:
    """The score columns worth a look, with their names: the second class of two says all about both."""
    if reference.classes is None:
        return ["the prediction"], reference.scores, current.scores
    names = [f"class {label}" for label in reference.classes]
    start = 1 if len(names) == 2 else 0
    return names[start:], reference.scores[:, start:], current.scores[:, start:]


def _truth(side: Behaviour, width: int) -> FloatArray:
    observed = np.asarray(side.observed)
    if side.classes is None:
        return observed.astype(np.float64).reshape(-1, 1)
    labels = list(side.classes)[-width:]
    return np.column_stack([observed == label for label in labels]).astype(np.float64)


def _binned_error(scores: FloatArray, truth: FloatArray) -> float:
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    return float(sum(abs(scores[rows].sum() - truth[rows].sum()) for rows in bins) / max(len(order), 1))


def in_units_of_target(scorer: str) -> bool:
    """The metric grows with the unit of the target, so that a fixed minimum means nothing and a share does."""
    return scorer.startswith("neg_") and ("error" in scorer or "deviance" in scorer)
