"""The JSON tables that MLflow, TensorFlow Serving, KServe and Vertex AI have in common: rows or columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve.protocols import BadInputError
from serve.protocols.rows import few_enough, from_columns, from_records, shown
from stages.bundle import Rows, Signature


def from_instances(instances: Any, signature: Signature, most: int) -> Rows:
    """A list of rows: lists, objects, or bare values where the model takes one feature. Raises BadInputError."""
    if not isinstance(instances, list):
        raise BadInputError(f"`instances` is {shown(instances)}; expected a list of rows", status=400)
    return _rows(instances, signature, most)


def from_inputs(inputs: Any, signature: Signature, most: int) -> Rows:
    """An object of columns, each [n], [n, 1] or, for one row, a bare value; or a list of rows. Raises BadInputError."""
    if isinstance(inputs, list):
        return _rows(inputs, signature, most)
    if not isinstance(inputs, dict):
        raise BadInputError(f"`inputs` is {shown(inputs)}; expected an object of columns or a list of rows", status=400)
    if inputs and not any(isinstance(values, list) for values in inputs.values()):
        return from_records([inputs], signature, most)
    return from_columns({name: _column(name, values) for name, values in inputs.items()}, signature, most)


def from_table(names: Sequence[str] | None, data: Sequence[Any], signature: Signature, most: int) -> Rows:
    """A list of lists, whose columns have names or else the order of the signature; others are passed over."""
    if names is None:
        return from_records(data, signature, most)
    few_enough(len(data), most)
    if len(set(names)) < len(names):
        raise BadInputError("two columns have the same name", status=400)
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            raise BadInputError(f"row {number} is {shown(row)}; expected a list of {len(names)} values", status=400)
    known = {column.name for column in signature.columns}
    table = dict(zip(names, zip(*data, strict=True), strict=True))
    taken: dict[str, Sequence[Any]] = {name: values for name, values in table.items() if name in known}
    if not taken:
        raise BadInputError("no column is a feature of the model")
    return from_columns(taken, signature, most)


def _rows(rows: list[Any], signature: Signature, most: int) -> Rows:
    if len(signature.columns) == 1 and rows and not isinstance(rows[0], (list, dict)):
        rows = [[value] for value in rows]
    return from_records(rows, signature, most)


def _column(name: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise BadInputError(f"the column {shown(name)} is {shown(values)}; expected a list", status=400)
    if values and all(isinstance(value, list) and len(value) == 1 for value in values):
        return [value[0] for value in values]
    return values
