"""What a model makes of two windows: its scores, and where the truth is known its calibration and performance.

The reference must be rows that the model was not fitted on, else every comparison is with a flattered model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stages.resampling import defined, draws, units_of
from stages.scoring import Predictions, classified, regressed, score_of

FloatArray = NDArray[np.float64]

RESAMPLES = 500
"""They give a standard error to 3 %, whatever the confidence. Limits read off the draws themselves would want thousands
for an alpha of 0.01, and with few days be too narrow all the same: Student's t knows how few they are."""

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
    """A figure on both sides, current minus reference, and the confidence interval of that difference (Welch's).

    Infinite limits: a side has too few days or rows to say.
    """

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


def calibration_gaps(reference: Behaviour, current: Behaviour, confidence: float) -> tuple[Change, ...]:
    """Mean of predicted minus observed, for each class (binary: the positive one); () without labels.

    For regression the unit is the standard deviation of the reference's observed values. The confidence holds for
    all classes together.
    """
    if reference.observed is None or current.observed is None:
        return ()
    names, old, new = _scored(reference, current)
    sides = (reference, current)
    residuals = [scores - _truth(side, len(names)) for side, scores in zip(sides, (old, new), strict=True)]
    if reference.classes is None:
        spread = float(np.std(reference.observed.astype(np.float64))) or 1.0
        residuals = [residual / spread for residual in residuals]
    means, errors = zip(*(_mean(side, residual) for side, residual in zip(sides, residuals, strict=True)), strict=True)
    beyond = (1 - confidence) / 2 / len(names)
    freedom = (_freedom(reference), _freedom(current))
    return tuple(
        _change(name, (means[0][k], means[1][k]), (errors[0][k], errors[1][k]), freedom, beyond)
        for k, name in enumerate(names)
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
    values, errors = [], []
    for place, side in enumerate((reference, current)):
        score = score_of(scorer, _predictions(side))
        values.append(score(np.ones(len(side.scores))))
        sound = defined(draws({scorer: score}, _units(side), RESAMPLES, seed + place)[scorer])
        # the bootstrap draws as if the units were all there is, which is short by this factor
        short = (1 + 1 / _freedom(side)) ** 0.5 if _freedom(side) else inf
        errors.append(inf if sound is None else float(np.std(sound)) * short)
    if not np.all(np.isfinite(values)):
        return None
    freedom = (_freedom(reference), _freedom(current))
    return _change(scorer, (values[0], values[1]), (errors[0], errors[1]), freedom, (1 - confidence) / 2)


def _change(
    name: str, values: tuple[float, float], errors: tuple[float, float], freedom: tuple[int, int], beyond: float
) -> Change:
    """Welch's interval of the difference: standard errors of both sides, their degrees of freedom, `beyond` a tail."""
    old, new = values
    error = float(np.hypot(*errors))
    half = inf if not isfinite(error) else 0.0
    if 0 < error < inf:
        common = error**4 / sum(e**4 / n for e, n in zip(errors, freedom, strict=True))
        half = float(stats.t.ppf(1 - beyond, common)) * error
    change = float(new - old)
    return Change(name, float(old), float(new), change, change - half, change + half)


def _mean(side: Behaviour, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean of each column over the rows and its standard error, the units being what was drawn."""
    units, freedom = _units(side), _freedom(side)
    means = values.mean(axis=0)
    # what each unit adds to the mean beyond its share
    parts = np.column_stack([np.bincount(units, column) for column in (values - means).T]) / len(values)
    errors = np.sqrt((parts**2).sum(axis=0) * (1 + 1 / freedom)) if freedom else np.full(len(means), inf)
    return means, errors


def _units(side: Behaviour) -> NDArray[np.int64]:
    return units_of(side.time, len(side.scores))[0]


def _freedom(side: Behaviour) -> int:
    return int(_units(side).max())


def _predictions(side: Behaviour) -> Predictions:
    if side.classes is None:
        return regressed(np.asarray(side.observed), side.predicted)
    return classified(np.asarray(side.observed), side.predicted, side.scores, side.classes)


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
