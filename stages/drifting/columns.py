"""Which columns changed between two windows: tests on values, missing values and new categories, judged together.

A column has drifted when a test is significant after the correction for all tests of all columns
(Benjamini-Yekutieli, which holds under any dependence) and the change is large enough to matter. The first alone
alarms on every large table, the second alone on every small one.

What more values are missing, a category the reference never had or another unit point to is not the world but what
delivers the data: such a column is broken, and a model trained again on it would learn the fault.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats
from scipy.spatial.distance import jensenshannon

from stages.config import Column, Columns, Drift
from stages.drifting.units import recognise
from stages.drifting.windows import CategoryCounts, WindowCounts

FloatArray = NDArray[np.float64]
Pair = tuple[int, int]

EXPECTED = 5
"""A chi-square test wants at least so many expected rows in each cell; smaller categories are lumped together."""

NAMED = 5
"""New categories and largest changes that a sentence names."""

BINS = 24
OTHERS = "all others"


@dataclass(frozen=True)
class Bar:
    """One bin or category of a column's picture, with its share of the present values on both sides."""

    label: str
    reference: float
    current: float


@dataclass(frozen=True)
class Finding:
    """What was found about one column.

    p is the smallest of its tests, p_corrected the smallest after the correction (1.0 where nothing could be tested).
    distance is the effect on the values: Kolmogorov-Smirnov or Jensen-Shannon (base 2), both in [0, 1]. missing_* are
    shares of all rows. new_categories holds (name, share of the current rows). reason is sentences, empty where
    nothing is to be said; a column that did not drift may have one. broken is the part of it that points to a fault
    in the delivery of the data, empty where nothing does.
    """

    name: str
    kind: str
    p: float
    p_corrected: float
    distance: float
    missing_reference: float
    missing_current: float
    new_categories: tuple[tuple[str, float], ...]
    drifted: bool
    reason: str
    bars: tuple[Bar, ...] = ()
    broken: str = ""


@dataclass(frozen=True)
class _Test:
    """One test: its p value, whether the size of the change matters, how to say so, and whether it is a fault."""

    p: float
    matters: bool
    sentence: str
    fault: bool = False


@dataclass
class _Tested:
    name: str
    kind: str
    rows: Pair
    missing: Pair
    distance: float = 0.0
    tests: list[_Test] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    new: tuple[tuple[str, float], ...] = ()
    bars: tuple[Bar, ...] = ()


def compare_columns(
    reference: pd.DataFrame, current: pd.DataFrame, counts: WindowCounts, columns: Columns, limits: Drift
) -> tuple[Finding, ...]:
    """One finding for each feature column that `limits.ignore` does not list, in the order of the config.

    reference and current hold samples of rows as `sample_rows` returns them; counts cover all rows of both sides.
    The order of the rows does not matter.
    """
    tested = [
        _numeric(name, column, reference, current, counts, limits)
        for name, column in columns.numeric.items()
        if name not in limits.ignore
    ]
    tested += [_categorical(name, counts, limits) for name in columns.categorical if name not in limits.ignore]
    return tuple(_findings(tested, limits.alpha))


def _findings(tested: Sequence[_Tested], alpha: float) -> Iterator[Finding]:
    flat = [test.p for column in tested for test in column.tests]
    corrected = iter(stats.false_discovery_control(flat, method="by") if flat else ())
    for column in tested:
        values = [float(next(corrected)) for _ in column.tests]
        speaking = [test for test, p in zip(column.tests, values, strict=True) if p <= alpha and test.matters]
        yield Finding(
            name=column.name,
            kind=column.kind,
            p=min((test.p for test in column.tests), default=1.0),
            p_corrected=min(values, default=1.0),
            distance=column.distance,
            missing_reference=_share(column.missing[0], column.rows[0]),
            missing_current=_share(column.missing[1], column.rows[1]),
            new_categories=column.new,
            drifted=bool(speaking),
            reason="; ".join([*(test.sentence for test in speaking), *column.notes]),
            bars=column.bars,
            broken="; ".join(test.sentence for test in speaking if test.fault),
        )


def _numeric(
    name: str, column: Column, reference: pd.DataFrame, current: pd.DataFrame, counts: WindowCounts, limits: Drift
) -> _Tested:
    found = _Tested(name, "numeric", counts.rows, counts.missing[name])
    _look_at_missing(found, limits)
    old, new = _present(reference[name]), _present(current[name])
    if min(len(old), len(new)) == 0:
        return found
    if old[0] == old[-1] and new[0] == new[-1] and old[0] == new[0]:
        found.notes.append(f"constant: {old[0]:.6g} in both windows")
    with warnings.catch_warnings():
        # with ties the exact p can fail; scipy says so and approximates
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        # the approximation divides by zero on one row a side and is fine long before the exact one gets slow
        result = stats.ks_2samp(old, new, method="exact" if len(old) + len(new) <= 1000 else "asymp")
    found.distance = float(result.statistic)
    found.bars = _histogram(old, new)
    sentence = f"values moved: median {_median(old)} → {_median(new)} (distance {found.distance:.2f})"
    matters = found.distance >= limits.effect
    conversion = recognise(old[np.isfinite(old)], new[np.isfinite(new)], column.unit) if matters else None
    sentence += f"; looks like a change of unit: {conversion}" if conversion else ""
    found.tests.append(_Test(_probability(result.pvalue), matters, sentence, fault=conversion is not None))
    return found


def _categorical(name: str, counts: WindowCounts, limits: Drift) -> _Tested:
    found = _Tested(name, "categorical", counts.rows, counts.missing[name])
    _look_at_missing(found, limits)
    categories = counts.categories[name]
    table = _contingency(categories)
    totals = table.sum(axis=1)
    if min(totals) == 0:
        return found
    if categories.distinct == 1:
        found.notes.append(f"constant: {categories.values[0]!r} in both windows")
    # what is too small to test is lumped for the distance too: many rare categories differ by chance alone
    table = _lumped(table)
    found.distance = _jensen_shannon(table / totals[:, None])
    found.bars = _category_bars(categories, totals)
    moved = ", ".join(
        f"{bar.label} {bar.reference:.1%} → {bar.current:.1%}"
        for bar in sorted(found.bars, key=lambda bar: -abs(bar.current - bar.reference))[:3]
    )
    sentence = f"shares moved: {moved} (distance {found.distance:.2f})"
    found.tests.append(_Test(_chi2(table), found.distance >= limits.effect, sentence))
    _look_at_new(found, categories, totals, limits)
    return found


def _look_at_missing(found: _Tested, limits: Drift) -> None:
    rows, missing = found.rows, found.missing
    if min(rows) == 0:
        found.notes.append(f"no rows in the {'reference' if rows[0] == 0 else 'current'} window")
        return
    empty = tuple(total == lacking for total, lacking in zip(rows, missing, strict=True))
    if all(empty):
        found.notes.append("all values are missing in both windows")
        return
    before, after = _share(missing[0], rows[0]), _share(missing[1], rows[1])
    sentence = f"missing values {before:.1%} → {after:.1%}"
    if any(empty):
        found.notes.append(f"all values are missing in the {'reference' if empty[0] else 'current'} window")
    table = np.array([missing, (rows[0] - missing[0], rows[1] - missing[1])], dtype=np.float64).T
    found.tests.append(_Test(_chi2(table), abs(after - before) >= limits.missing, sentence, fault=after > before))


def _look_at_new(found: _Tested, categories: CategoryCounts, totals: FloatArray, limits: Drift) -> None:
    """The values that only the current window has; rare ones are ordinary where there are many rare ones.

    The test asks for each value how likely it is that all its rows fall into the current window by chance, and
    corrects for the number of values, since it looks at just those of which that is true.
    """
    if categories.new_values == 0:
        return
    present = int(totals[1])
    found.new = tuple((value, n / present) for value, n in categories.new)
    named = ", ".join(f"{value!r} ({_small(share)})" for value, share in found.new[:NAMED])
    more = f" and {categories.new_values - NAMED} more" if categories.new_values > NAMED else ""
    sentence = f"new categories: {named}{more}"
    whole = int(totals.sum())
    rows = categories.new[0][1]
    chance = special.gammaln([present + 1, present - rows + 1, whole + 1, whole - rows + 1])
    p = float(np.exp(chance[0] - chance[1] - chance[2] + chance[3]))
    share = categories.new_rows / present
    matters = share >= limits.new
    found.tests.append(_Test(_probability(min(1.0, p * categories.distinct)), matters, sentence, fault=True))
    if not matters:
        found.notes.append(sentence)


def _contingency(categories: CategoryCounts) -> FloatArray:
    """Rows by category, (2, categories): the largest ones, then all the others as one."""
    rows = [(*categories.reference, categories.others[0]), (*categories.current, categories.others[1])]
    return np.array(rows, dtype=np.float64)


def _lumped(table: FloatArray) -> FloatArray:
    """The table with the columns of too few expected rows summed into one."""
    totals = table.sum(axis=1)
    pooled = table.sum(axis=0)
    enough = pooled * totals.min() / totals.sum() >= EXPECTED
    if enough.all():
        return table
    rest = table[:, ~enough].sum(axis=1, keepdims=True)
    return np.concatenate([table[:, enough], rest], axis=1)


def _chi2(table: FloatArray) -> float:
    """The p value of independence; 1.0 where there is nothing to compare."""
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or min(table.sum(axis=1)) == 0:
        return 1.0
    expected = stats.contingency.expected_freq(table)
    if table.shape == (2, 2) and expected.min() < EXPECTED:
        return _probability(stats.fisher_exact(table.astype(np.int64)).pvalue)
    return _probability(stats.chi2_contingency(table).pvalue)


def _jensen_shannon(shares: FloatArray) -> float:
    distance = float(jensenshannon(shares[0], shares[1], base=2))
    # rounding can put the divergence of equal shares below zero, whose root is NaN
    return distance if np.isfinite(distance) else 0.0


def _present(values: pd.Series) -> FloatArray:
    array = values.to_numpy(dtype=np.float64)
    return np.sort(array[~np.isnan(array)])


def _histogram(old: FloatArray, new: FloatArray) -> tuple[Bar, ...]:
    """Equal bins between the 1st and 99th percentile of both sides; the first and the last also hold what is beyond."""
    both = np.concatenate([np.quantile(side, [0.01, 0.99], method="nearest") for side in (old, new)])
    both = both[np.isfinite(both)]
    if len(both) == 0:
        return ()
    low, high = float(both.min()), float(both.max())
    if low == high:
        return (Bar(f"{low:.6g}", 1.0, 1.0),)
    edges = np.linspace(low, high, BINS + 1)
    sides = [np.histogram(np.clip(side, low, high), edges)[0] / len(side) for side in (old, new)]
    labels = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
    return tuple(Bar(label, float(a), float(b)) for label, a, b in zip(labels, *sides, strict=True))


def _category_bars(categories: CategoryCounts, totals: FloatArray) -> tuple[Bar, ...]:
    rows = zip(categories.values, categories.reference, categories.current, strict=True)
    bars = [Bar(value, before / totals[0], after / totals[1]) for value, before, after in rows]
    rest = (1 - sum(bar.reference for bar in bars[:BINS]), 1 - sum(bar.current for bar in bars[:BINS]))
    others = [Bar(OTHERS, *rest)] if categories.distinct > BINS else []
    return tuple(bars[:BINS] + others)


def _probability(p: float) -> float:
    return float(min(1.0, max(0.0, p))) if np.isfinite(p) else 1.0


def _median(ordered: FloatArray) -> str:
    return f"{ordered[len(ordered) // 2]:.4g}"


def _small(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "under 0.1%"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
