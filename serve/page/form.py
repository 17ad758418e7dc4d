"""The form that tries the model: a field for each feature of the signature, and the row that comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve.protocols import BadInputError
from serve.protocols.rows import from_columns
from serve.runtime import Label
from stages.bundle import Rows, Signature, SignatureColumn

PREFIX = "f:"  # before a feature's name in a form, so that none is taken for a field of ours
OFFERED = 500  # categories that a field offers


@dataclass(frozen=True)
class Field:
    """An input. categories are offered, others may be typed."""

    id: str
    name: str
    value: str
    hint: str
    numeric: bool
    required: bool
    categories: tuple[str, ...]
    wrong: str = ""

    @property
    def key(self) -> str:
        return PREFIX + self.name


def fields_of(signature: Signature, values: Mapping[str, Label | str]) -> list[Field]:
    """The fields in the order of the signature, filled in."""
    return [
        Field(
            id=f"f{place}",
            name=column.name,
            value=str(values.get(column.name, "")),
            hint=hint(column),
            numeric=column.kind == "numeric",
            required=not column.nullable,
            categories=(column.categories or ())[:OFFERED],
        )
        for place, column in enumerate(signature.columns)
    ]


def hint(column: SignatureColumn) -> str:
    """What a person should know of a feature before giving a value."""
    if column.kind == "numeric":
        span = "a number"
        if column.min is not None and column.max is not None:
            span = f"{short(column.min)} to {short(column.max)}"
        said = f"{span} {column.unit}" if column.unit else span
    else:
        known = column.categories or ()
        said = ", ".join(known) if 0 < len(known) <= 6 else f"one of {len(known):,} known values" if known else "text"
    return f"{said}; may be empty" if column.nullable else said


def short(value: float) -> str:
    """A figure as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def filled(form: Mapping[str, str], signature: Signature) -> tuple[list[Field], Rows | None]:
    """The fields with what was typed and what is wrong with it, and the row where nothing is."""
    fields, columns = [], {}
    typed = {column.name: form.get(PREFIX + column.name, "") for column in signature.columns}
    for field, column in zip(fields_of(signature, typed), signature.columns, strict=True):
        value = _value(column, field.value)
        columns[column.name] = [value]
        fields.append(replace(field, wrong=_wrong(column, value, signature)))
    if any(field.wrong for field in fields):
        return fields, None
    return fields, from_columns(columns, signature, 1)


def _value(column: SignatureColumn, text: str) -> float | str | None:
    if not text.strip():
        return None
    if column.kind != "numeric":
        return text
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text


def _wrong(column: SignatureColumn, value: float | str | None, signature: Signature) -> str:
    alone = replace(signature, columns=(column,))
    try:
        from_columns({column.name: [value]}, alone, 1)
    except BadInputError as error:
        return str(error).removeprefix("row 0: ")
    return ""
