"""Rows to show people what a model takes: made of the check rows of its bundle, which are nobody's data."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from serve.runtime import Label, Predictor
from stages.bundle import Array, Rows, Signature

DIGITS = 4  # of a number in an example


def usual_rows(predictor: Predictor) -> Rows:
    """The check rows whose values all were seen in training; the others try a model hard and are like no real row."""
    signature, rows = predictor.signature, predictor.checked
    if rows is None:
        return Rows(np.empty((0, len(signature.numeric))), np.empty((0, len(signature.text)), dtype="object"))
    fine = np.ones(len(rows), dtype=bool)
    for column in signature.columns:
        if column.kind == "numeric":
            values = rows.numeric[:, signature.numeric.index(column.name)]
            low, high = _limits(column.min, column.max)
            fine &= ((values >= low) & (values <= high)) | (np.isnan(values) & column.nullable)
        elif column.categories:
            known = {*column.categories, ""} if column.nullable else set(column.categories)
            fine &= np.array([text in known for text in rows.text[:, signature.text.index(column.name)]], dtype=bool)
    return Rows(rows.numeric[fine], rows.text[fine])


def typical_row(predictor: Predictor) -> dict[str, Label]:
    """A value for every feature: the middle of the usual ones, or the most frequent category."""
    signature, rows = predictor.signature, usual_rows(predictor)
    return {
        column.name: _middle(rows.numeric[:, signature.numeric.index(column.name)], column.min, column.max)
        if column.kind == "numeric"
        else _most_frequent(rows, column.name, signature)
        for column in signature.columns
    }


def _limits(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


def _middle(values: Array, low: float | None, high: float | None) -> float | int:
    there = np.sort(values[~np.isnan(values)])
    first, last = _limits(low, high)
    value = float(there[(len(there) - 1) // 2]) if len(there) else (first if math.isfinite(first) else 0.0)
    short = min(max(float(f"{value:.{DIGITS}g}"), first), last)
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def _most_frequent(rows: Rows, name: str, signature: Signature) -> str:
    texts = Counter(text for text in rows.text[:, signature.text.index(name)] if text)
    if texts:
        return str(texts.most_common(1)[0][0])
    known = next(column.categories for column in signature.columns if column.name == name)
    return known[0] if known else "text"
