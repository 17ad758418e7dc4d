"""CSV as a body: with a header, or as SageMaker sends it without."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from serve.protocols import BadInputError
from serve.protocols.tables import from_table
from stages.bundle import Rows, Signature

_WORDS = {"true": 1.0, "false": 0.0}


def from_csv(body: bytes, signature: Signature, most: int) -> tuple[Rows, bool]:
    """The rows, and whether a header named them. It is one where any of its fields is a feature's name.

    An empty field is missing. Raises BadInputError.
    """
    try:
        reader = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        records = [record for record in reader if record]
    except UnicodeDecodeError:
        raise BadInputError("the body is not UTF-8", status=400) from None
    except csv.Error as error:
        raise BadInputError(f"the body is not CSV: {error}", status=400) from None
    kinds = {column.name: column.kind for column in signature.columns}
    headed = bool(records) and any(name in kinds for name in records[0])
    names = records.pop(0) if headed else [*kinds]
    numeric = [kinds.get(name) == "numeric" for name in names]
    data = [_values(record, numeric) for record in records]
    return from_table(names if headed else None, data, signature, most), headed


def to_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Lines of fields."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _values(record: list[str], numeric: list[bool]) -> list[Any]:
    if len(record) != len(numeric):
        return record  # refused for its length
    return [_number(text) if number else text for text, number in zip(record, numeric, strict=True)]


def _number(text: str) -> float | str:
    """A number, "" where missing, or the text itself, which is refused."""
    bare = text.strip()
    if not bare.isascii() or "_" in bare:  # what Python takes for digits beyond what other readers do
        return text
    try:
        return float(bare)
    except ValueError:
        return bare and _WORDS.get(bare.lower(), text)
