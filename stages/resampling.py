"""Bootstrap: confidence intervals of metrics, and of their differences between models on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.scoring import Score, grouped

Array = npt.NDArray[Any]
FEWEST_DAYS = 8
"""With fewer days than this a bootstrap over days says little: rows are drawn, and the report says so."""

FEWEST, TAIL = 1000, 20
"""Resamples behind a figure that decides, and how many of them lie beyond each of its limits, at the least."""

DEFINED = 0.95
"""The share of the resamples on which a figure must be defined to have limits: those without it are not like the others
(few rows, one class alone), so limits of what is left would be too narrow."""


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence limits. No value: it is not defined; no limits: not on enough of the resamples."""

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


def enough(confidence: float, asked: int = 0) -> int:
    """Resamples for limits that decide: at least `asked`, `FEWEST`, and `TAIL` beyond each limit."""
    return max(asked, FEWEST, math.ceil(round(TAIL / ((1 - confidence) / 2), 6)))


def draws(scores: Mapping[str, Score], units: Array, resamples: int, seed: int) -> dict[str, Array]:
    """Each score on each resample (NaN where undefined): as many units as there are, drawn with replacement.

    The resamples are the same for all scores, so they pair; fewer resamples are the first ones of more.
    """
    generator = np.random.default_rng(seed)
    count = int(units.max()) + 1 if len(units) else 0
    by_unit = {name: grouped(score, units) for name, score in scores.items()}
    drawn = {name: np.full(resamples, math.nan) for name in scores}
    for place in range(resamples if count else 0):
        times = np.bincount(generator.integers(count, size=count), minlength=count).astype("float64")
        for name, score in by_unit.items():
            drawn[name][place] = score(times)
    return drawn


def defined(drawn: Array) -> Array | None:
    """The draws that are defined; None where they are fewer than `DEFINED` of all, and say nothing."""
    sound = drawn[np.isfinite(drawn)]
    return sound if len(sound) and len(sound) >= DEFINED * len(drawn) else None


def interval(value: float, drawn: Array, confidence: float) -> Interval:
    """The percentile interval; without limits where the figure is not defined on enough of the resamples."""
    if not np.isfinite(value):
        return Interval(None, None, None)
    sound = defined(drawn)
    if sound is None:
        return Interval(value, None, None)
    low, high = np.quantile(sound, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
