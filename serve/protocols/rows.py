"""Rows from decoded values: by name or by position, checked against the signature. What all protocols share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np

from serve.protocols import BadInputError
from stages.bundle import Array, Rows, Signature, SignatureColumn

_NO_TEXT = np.empty((1, 0), dtype="object")
_NUMBERS = {float, int, bool}


def from_numbers(values: list[float], signature: Signature) -> Rows | None:
    """One row of a model that takes numbers only, fast; None where it is not for that."""
    if signature.text or len(values) != len(signature.columns):
        return None
    numeric = np.array([values], dtype="float64")
    return Rows(numeric, _NO_TEXT) if math.isfinite(math.fsum(values)) else None


def from_records(records: Sequence[Any], signature: Signature, most: int, extra: bool = False) -> Rows:
    """Rows given as {name: value} or as [value, …] in the order of the signature; null or "" is missing, as is a name
    that is left out. extra: pass over names that the model does not take.

    Raises BadInputError naming row, feature and value.
    """
    few_enough(len(records), most)
    names = [column.name for column in signature.columns]
    taken = frozenset(names)
    table = [
        _listed(number, record, signature, names, None if extra else taken) for number, record in enumerate(records)
    ]
    return from_columns(dict(zip(names, zip(*table, strict=True), strict=True)), signature, most)


def from_columns(columns: Mapping[str, Sequence[Any] | Array], signature: Signature, most: int) -> Rows:
    """Rows given as equally long {name: [value, …]}, lists or vectors.

    Raises BadInputError naming row, feature and value.
    """
    known = {column.name for column in signature.columns}
    unknown = sorted(str(name) for name in columns if name not in known)
    if unknown:
        raise BadInputError(f"unknown feature {shown(unknown[0])}; the model takes {_names(signature.columns)}")
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise BadInputError(f"the columns differ in length: {', '.join(map(str, sorted(lengths)))}")
    count = lengths.pop() if lengths else 0
    few_enough(count, most)
    absent = [None] * count
    numeric = np.empty((count, len(signature.numeric)), dtype="float64")
    text = np.empty((count, len(signature.text)), dtype="object")
    by_name = {column.name: column for column in signature.columns}
    for place, name in enumerate(signature.numeric):
        numeric[:, place] = _numbers(by_name[name], columns.get(name, absent))
    for place, name in enumerate(signature.text):
        text[:, place] = _texts(by_name[name], columns.get(name, absent))
    return Rows(numeric, text)


def few_enough(count: int, most: int) -> None:
    """Raise BadInputError for no row or too many."""
    if count == 0:
        raise BadInputError("there is no row in it")
    if count > most:
        raise BadInputError(f"{count:,} rows; at most {most:,} in one request", status=413)


def shown(value: object) -> str:
    """A client's value in a message, cut to a readable length."""
    text = repr(value[:61]) if isinstance(value, (str, bytes)) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(
    number: int, record: Any, signature: Signature, names: list[str], known: frozenset[str] | None
) -> list[Any]:
    if isinstance(record, dict):
        if known is not None and not record.keys() <= known:
            unknown = min(name for name in record if name not in known)
            said = f"the model takes {_names(signature.columns)}"
            raise BadInputError(f"row {number}: unknown feature {shown(unknown)}; {said}")
        return [record.get(name) for name in names]
    if isinstance(record, (list, tuple)):
        if len(record) != len(names):
            said = f"the model takes {len(names)}: {_names(signature.columns)}"
            raise BadInputError(f"row {number}: {len(record)} values, {said}")
        return list(record)
    raise BadInputError(f"row {number} is {shown(record)}; expected an object of features, or a list of their values")


def _names(columns: Sequence[SignatureColumn]) -> str:
    names = ", ".join(column.name for column in columns)
    return names if len(names) <= 1000 else f"{names[:997]}..."


def _numbers(column: SignatureColumn, values: Sequence[Any] | Array) -> Array | list[float]:
    numbers = _at_once(values, column.nullable)
    if numbers is not None and (np.isfinite(numbers).all() or (column.nullable and not np.isinf(numbers).any())):
        return numbers
    return [_number(row, column, value) for row, value in enumerate(_plain(values))]


def _at_once(values: Sequence[Any] | Array, nullable: bool) -> Array | None:
    """Values that are all numbers, or missing where that may be, as numpy makes them; None where others are there."""
    if isinstance(values, np.ndarray):
        return values.astype("float64") if values.dtype.kind in "biuf" else None
    kinds = set(map(type, values))
    if not kinds <= _NUMBERS and not (nullable and kinds <= _NUMBERS | {NoneType}):
        return None
    try:
        return np.array(values, dtype="float64")
    except OverflowError:
        return None


def _plain(values: Sequence[Any] | Array) -> Sequence[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values


def _number(row: int, column: SignatureColumn, value: Any) -> float:
    kind = type(value)
    if kind is float or kind is int or kind is bool:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        if number != number and column.nullable:
            return number
    elif (value is None or value == "") and column.nullable:
        return math.nan
    raise BadInputError(f"row {row}: {_wrong(column, value, 'a number')}")


def _texts(column: SignatureColumn, values: Sequence[Any] | Array) -> list[str]:
    return [_text(row, column, value) for row, value in enumerate(_plain(values))]


def _text(row: int, column: SignatureColumn, value: Any) -> str:
    if isinstance(value, str) and value:
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadInputError(f"row {row}: {column.name} holds half a surrogate pair; expected text")
        return value
    if (value is None or value == "" or value != value) and column.nullable:
        return ""
    raise BadInputError(f"row {row}: {_wrong(column, value, 'text')}")


def _wrong(column: SignatureColumn, value: Any, expected: str) -> str:
    if value is None or value == "" or value != value:
        return f"{column.name} is missing; this feature is always given"
    return f"{column.name} is {shown(value)}; expected {expected}"
