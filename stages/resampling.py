"""Bootstrap: confidence intervals of metrics, and of their differences between models on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.scoring import Score

Array = npt.NDArray[Any]
FEWEST_DAYS = 8
"""With fewer days than this a bootstrap over days says little: rows are drawn, and the report says so."""


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence limits; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None

    def tree(self) -> dict[str, float | None]:
        """As JSON holds it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def units_of(time: Array | None, rows: int) -> tuple[Array, str]:
    """The drawing unit of each row as a number from 0, and its name: "days" (datetime64) or "rows"."""
    if time is not None and rows:
        days, units = np.unique(np.asarray(time).astype("datetime64[D]"), return_inverse=True)
        if len(days) >= FEWEST_DAYS:
            return units.astype("int64"), "days"
    return np.arange(rows), "rows"


def weights(units: Array, resamples: int, seed: int) -> Iterator[Array]:
    """For each resample, how often each row was drawn: as many units as there are, with replacement."""
    generator = np.random.default_rng(seed)
    count = int(units.max()) + 1 if len(units) else 0
    for _ in range(resamples):
        drawn = np.bincount(generator.integers(count, size=count), minlength=count) if count else np.empty(0)
        yield drawn.astype("float64")[units]


def draws(scores: Mapping[str, Score], units: Array, resamples: int, seed: int) -> dict[str, Array]:
    """Each score on each resample (NaN where undefined). The resamples are the same for all scores, so they pair."""
    drawn: dict[str, list[float]] = {name: [] for name in scores}
    for weight in weights(units, resamples, seed):
        for name, score in scores.items():
            drawn[name].append(score(weight))
    return {name: np.array(values) for name, values in drawn.items()}


def interval(value: float, drawn: Array, confidence: float) -> Interval:
    """The percentile interval. Resamples where the score is undefined count as not drawn."""
    if not np.isfinite(value):
        return Interval(None, None, None)
    sound = drawn[np.isfinite(drawn)]
    if not len(sound):
        return Interval(value, None, None)
    low, high = np.quantile(sound, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
