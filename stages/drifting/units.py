"""Recognises that a column came to be measured in another unit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

CLOSE = 0.05
"""The largest Kolmogorov-Smirnov distance that may remain once the values are converted."""

UNKNOWN = 1.4
"""A factor that is in no table counts from here on (or below its inverse): a smaller one may be a true change."""

TIMES = "\u00d7"

_POINTS = 4000


@dataclass(frozen=True)
class Conversion:
    """A value in `old` is factor * value + offset in `new`; the names are empty where the units are not known."""

    old: str
    new: str
    factor: float
    offset: float = 0.0

    def apply(self, values: FloatArray) -> FloatArray:
        return self.factor * values + self.offset

    def inverse(self) -> Conversion:
        return Conversion(self.new, self.old, 1 / self.factor, -self.offset / self.factor)

    def __str__(self) -> str:
        offset = f" {'+' if self.offset > 0 else '-'} {abs(self.offset):.4g}" if self.offset else ""
        return f"{TIMES} {self.factor:.4g}{offset}" + (f" ({self.old} → {self.new})" if self.new else "")


# Where a factor belongs to several pairs the first one is named, unless the declared unit says which.
_PAIRS = (
    Conversion("miles", "kilometres", 1.609344),
    Conversion("miles", "metres", 1609.344),
    Conversion("mph", "km/h", 1.609344),
    Conversion("nautical miles", "kilometres", 1.852),
    Conversion("knots", "km/h", 1.852),
    Conversion("knots", "mph", 1.150779),
    Conversion("mph", "m/s", 0.44704),
    Conversion("knots", "m/s", 0.514444),
    Conversion("m/s", "km/h", 3.6),
    Conversion("feet", "metres", 0.3048),
    Conversion("yards", "metres", 0.9144),
    Conversion("inches", "centimetres", 2.54),
    Conversion("inches", "millimetres", 25.4),
    Conversion("feet", "inches", 12),
    Conversion("pounds", "kilograms", 0.45359237),
    Conversion("ounces", "grams", 28.349523),
    Conversion("US gallons", "litres", 3.785412),
    Conversion("acres", "hectares", 0.404686),
    Conversion("square feet", "square metres", 0.092903),
    Conversion("inHg", "hPa", 33.86389),
    Conversion("psi", "kPa", 6.894757),
    Conversion("calories", "joules", 4.184),
    Conversion("°F", "°C", 1 / 1.8, -32 / 1.8),
    Conversion("°C", "K", 1, 273.15),
    Conversion("°F", "K", 1 / 1.8, 273.15 - 32 / 1.8),
    Conversion("radians", "degrees", 57.29578),
    Conversion("days", "hours", 24),
    Conversion("days", "weeks", 1 / 7),
    Conversion("hours", "minutes", 60),
    Conversion("hours", "seconds", 3600),
    Conversion("days", "minutes", 1440),
    Conversion("days", "seconds", 86400),
    Conversion("ones", "dozens", 1 / 12),
    Conversion("ones", "tens", 0.1),
    Conversion("fractions", "percent", 100),
    Conversion("ones", "thousands", 1e-3),
    Conversion("ones", "millions", 1e-6),
    Conversion("values", "values with the sign turned", -1),
)

_SAME = (
    {"fractions", "fraction", "share", "shares"},
    {"percent", "%"},
    {"miles", "mile", "mi"},
    {"kilometres", "kilometers", "km"},
    {"metres", "meters", "m"},
    {"feet", "foot", "ft"},
    {"inches", "inch", "in"},
    {"mph", "miles/h", "miles per hour"},
    {"km/h", "kmh", "kph"},
    {"pounds", "lb", "lbs"},
    {"kilograms", "kg"},
    {"°f", "f", "degf", "fahrenheit", "degrees fahrenheit"},
    {"°c", "c", "degc", "celsius", "degrees celsius"},
    {"k", "kelvin"},
    {"minutes", "minute", "min"},
    {"hours", "hour", "h"},
    {"seconds", "second", "s"},
    {"knots", "knot", "kt", "kn"},
    {"hpa", "millibar", "mbar", "mb"},
)


def recognise(reference: FloatArray, current: FloatArray, unit: str | None = None) -> Conversion | None:
    """The conversion that turns the reference's values into the current ones, or None where there is none.

    Both arrays hold values without NaN, in any order. unit is the declared unit of the reference: only a conversion
    out of it is then named, another is given as its bare figures.
    """
    if min(len(reference), len(current)) == 0:
        return None
    old, new = _thinned(reference), _thinned(current)
    whole = bool(np.all(new == np.round(new)))
    before = _distance(old, new)
    close = min(max(CLOSE, 1.36 * (1 / len(old) + 1 / len(new)) ** 0.5), before / 3)
    fitting: list[tuple[int, float, int, Conversion]] = []
    for place, conversion in enumerate(_candidates(old, new, unit)):
        converted = conversion.apply(old)
        left = min(_distance(converted, new), _distance(np.round(converted), new) if whole else 1.0)
        if left <= close:
            # a name is preferred to a bare factor, then the nearest, and of equals the first in the table
            fitting.append((0 if conversion.new else 1, round(left, 3), place, conversion))
    return min(fitting, key=lambda fit: fit[:3])[3] if fitting else None


def _candidates(old: FloatArray, new: FloatArray, unit: str | None) -> Iterator[Conversion]:
    for pair in (*_PAIRS, *(pair.inverse() for pair in _PAIRS)):
        if unit is not None and _is(unit, pair.old):
            yield pair
        elif pair.offset or not 1 / UNKNOWN < pair.factor < UNKNOWN:
            yield pair if unit is None or pair.factor == -1 else Conversion("", "", pair.factor, pair.offset)
    quantiles = np.linspace(0.05, 0.95, 19)
    before, after = np.quantile(old, quantiles), np.quantile(new, quantiles)
    some = np.abs(before) > 1e-12
    if some.any():
        factor = float(np.median(after[some] / before[some]))
        if factor > 0 and not 1 / UNKNOWN < factor < UNKNOWN:
            yield Conversion("", "", factor)


def _thinned(values: FloatArray) -> FloatArray:
    ordered: FloatArray = np.sort(values)
    if len(ordered) <= _POINTS:
        return ordered
    places = np.linspace(0, len(ordered) - 1, _POINTS).round().astype(int)
    thinned: FloatArray = ordered[places]
    return thinned


def _distance(a: FloatArray, b: FloatArray) -> float:
    a, b, both = np.sort(a), np.sort(b), np.concatenate([a, b])
    shares = np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)
    return float(np.max(np.abs(shares)))


def _is(declared: str, name: str) -> bool:
    declared, name = declared.strip().lower(), name.lower()
    return declared == name or any(declared in same and name in same for same in _SAME)
