"""A verified bundle as something that answers. Where it is compiled, without pandas and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.bundle import Model, SignatureColumn, decide, find_bundle, open_bundle
from stages.errors import ModelError, PinwerkError
from stages.files import read_json

TOLERANCE = 1e-6
Value = float | str
Inputs = dict[str, npt.NDArray[Any]]


class BadInputError(PinwerkError):
    """What a client sent does not fit the signature."""


@dataclass(frozen=True)
class Predictor:
    """A model that passed its own check rows, and the md5 that names it."""

    model: Model
    md5: str

    def answer(self, rows: Sequence[Mapping[str, Any] | Sequence[Any]]) -> list[dict[str, Any]]:
        """One answer a row: the prediction and, for a class, its probability and that of every class."""
        signature = self.model.signature
        scores = self.model.scores_of(inputs(signature.columns, rows))
        predictions = decide(scores, signature).tolist()
        if signature.classes is None:
            return [{"prediction": value} for value in predictions]
        names = [str(name) for name in signature.classes]
        return [
            {
                "prediction": label,
                "probability": row[signature.classes.index(label)],
                "probabilities": dict(zip(names, row, strict=True)),
            }
            for label, row in zip(predictions, scores.tolist(), strict=True)
        ]


def load(md5: str) -> Predictor:
    """The bundle with this md5, verified byte by byte and tried on its own check rows. Raises ModelError."""
    path = find_bundle(md5)
    if path is None:
        raise ModelError(
            f"the model {md5} is neither in data/model nor in DVC's cache; run `dvc pull` or `dvc checkout`"
        )
    model = open_bundle(path)
    _checked(model, path)
    return Predictor(model, md5)


def _checked(model: Model, path: Path) -> None:
    check = read_json(path / "check.json")
    columns = model.signature.columns
    got = model.scores_of({c.name: _column(c, check["inputs"][c.name]) for c in columns})
    expected = np.array(check["scores"], dtype="float64")
    furthest = float(np.max(np.abs(got - expected) / np.maximum(1.0, np.abs(expected)))) if len(expected) else math.inf
    if not furthest <= TOLERANCE:
        raise ModelError(f"{path}: its scores are off by {furthest:.1e} on its own check rows; it is not served")


def inputs(columns: Sequence[SignatureColumn], rows: Sequence[Mapping[str, Any] | Sequence[Any]]) -> Inputs:
    """Rows, by name or by position, as one n x 1 array a column. Raises BadInputError naming row, feature and value."""
    names = [column.name for column in columns]
    table = [_values(number, row, columns, names) for number, row in enumerate(rows)]
    return {column.name: _column(column, [row[i] for row in table]) for i, column in enumerate(columns)}


def _values(
    number: int, row: Mapping[str, Any] | Sequence[Any], columns: Sequence[SignatureColumn], names: list[str]
) -> list[Value | None]:
    if isinstance(row, Mapping):
        unknown = sorted(set(row) - set(names))
        if unknown:
            raise BadInputError(f"row {number}: unknown feature {unknown[0]!r}; the model takes {', '.join(names)}")
        given = [row.get(name) for name in names]
    else:
        given = list(row)
        if len(given) != len(columns):
            raise BadInputError(
                f"row {number}: {len(given)} features, the model takes {len(columns)}: {', '.join(names)}"
            )
    return [_value(number, column, value) for column, value in zip(columns, given, strict=True)]


def _value(number: int, column: SignatureColumn, value: Any) -> Value | None:
    if value is None or value == "":
        if not column.nullable:
            raise BadInputError(f"row {number}: {column.name} is missing; this feature is always given")
        return None
    if column.kind == "categorical":
        if isinstance(value, str):
            return value
        raise BadInputError(f"row {number}: {column.name} is {_shown(value)}; expected text")
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    except OverflowError:
        pass
    raise BadInputError(f"row {number}: {column.name} is {_shown(value)}; expected a number")


def _shown(value: object) -> str:
    """A client's value in a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _column(column: SignatureColumn, values: Sequence[Value | None]) -> npt.NDArray[Any]:
    if column.kind == "categorical":
        return np.array(["" if value is None else value for value in values], dtype="object").reshape(-1, 1)
    return np.array([math.nan if value is None else value for value in values], dtype="float64").reshape(-1, 1)
