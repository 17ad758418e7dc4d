"""JSON by name, read straight into the types of a signature: what most clients send, twenty times faster than by hand.

Whatever does not fit is None here and read again by serve.protocols.rows, which says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from stages.bundle import Rows, Signature, SignatureColumn

KEPT = 8  # signatures: those of the live variants, and of what they replaced


class Reader:
    """For one signature, and rows in which every feature is given once, be it null.

    A name has one colon, and each is there, so as many colons as names tell that none is given twice.
    """

    def __init__(self, signature: Signature) -> None:
        numeric = [column for column in signature.columns if column.kind == "numeric"]
        text = [column for column in signature.columns if column.kind == "categorical"]
        self._names = len(signature.columns)
        self._width = len(numeric)
        self._given = [not column.nullable for column in text]
        columns = [*numeric, *text]
        row = msgspec.defstruct(
            "Row",
            [(f"f{n}", _kind(column)) for n, column in enumerate(columns)],
            rename={f"f{n}": column.name for n, column in enumerate(columns)},
            forbid_unknown_fields=True,
        )
        one = msgspec.defstruct("One", [("features", row)], forbid_unknown_fields=True)
        self._one: Any = msgspec.json.Decoder(one)
        self._many = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def one(self, body: bytes) -> Rows | None:
        """`{"features": {name: value}}`."""
        if body.count(b":") != self._names + 1:
            return None
        try:
            return self._rows([self._one.decode(body).features])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
            return None

    def many(self, body: bytes, most: int) -> Rows | None:
        """`[{name: value}, …]`."""
        try:
            found = self._many.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError):
            return None
        whole = 0 < len(found) <= most and body.count(b":") == self._names * len(found)
        return self._rows(found) if whole else None

    def _rows(self, found: Sequence[Any]) -> Rows | None:
        table = [msgspec.structs.astuple(row) for row in found]
        numeric = np.array([row[: self._width] for row in table], dtype="float64")
        words = [["" if word is None else word for word in row[self._width :]] for row in table]
        for row in words:
            for word, given in zip(row, self._given, strict=True):
                if not word.isascii() or (given and not word):
                    return None
        text = np.empty((len(words), len(self._given)), dtype="object")
        text[:] = words
        return Rows(numeric, text)


def _kind(column: SignatureColumn) -> Any:
    kind: Any = float if column.kind == "numeric" else str
    return kind | None if column.nullable else kind


_kept: dict[int, tuple[Signature, Reader]] = {}


def reader_of(signature: Signature) -> Reader:
    """The reader of a signature, found by identity: to hash one takes longer than to read a row. Safe in threads."""
    global _kept
    found = _kept.get(id(signature))
    if found is not None:
        return found[1]
    reader = Reader(signature)
    kept = dict(list(_kept.items())[-(KEPT - 1) :])
    _kept = {**kept, id(signature): (signature, reader)}  # one assignment: threads see the one or the other
    return reader
