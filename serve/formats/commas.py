"""CSV: UTF-8 with a header, fields parted by commas (RFC 4180)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from serve.formats.columns import TOGETHER, Tell, added, fields, missing, places_of
from serve.protocols import BadInputError
from serve.protocols.rows import shown
from serve.runtime import Predictor
from stages.bundle import Array, Rows, Signature, SignatureColumn

RECORD = 1_000_000  # characters of one record


def scored_csv(file: BinaryIO, predictor: Predictor, tell: Tell) -> Iterator[bytes]:
    """UTF-8 with a header, fields parted by commas (RFC 4180); an empty field is missing. A chunk for each batch.

    Raises BadInputError naming line and column.
    """
    lines = _Lines(file)
    try:
        reader = csv.reader(lines, strict=True)
        header = next(reader, None)
        if not header:
            raise BadInputError("the file is empty; expected a line with the names of the columns", 400)
        places = places_of(header, predictor.signature)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*header, *added(predictor.signature)])
        for numbers, records in _batches(reader, lines, len(header)):
            rows = _csv_rows(records, numbers, places, predictor.signature)
            answers = predictor.answers(rows)
            tell(rows, answers)
            writer.writerows(
                [*record, *ours] for record, ours in zip(records, fields(answers, predictor.signature), strict=True)
            )
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
        if out.tell():  # no row: the header alone
            yield out.getvalue().encode()
    except csv.Error as error:
        raise BadInputError(f"line {lines.number}: not CSV ({error})", 400) from None
    except UnicodeDecodeError:
        raise BadInputError(f"line {lines.number + 1} or close behind it is not UTF-8", 400) from None


class _Lines:
    """The lines of a file for csv.reader, which by itself would read a record of any length."""

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self.number = 0
        self.held = 0  # characters since the last record was whole; whoever reads records sets it to 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(RECORD)
        if not line:
            raise StopIteration
        self.number += 1
        self.held += len(line)
        if self.held >= RECORD:
            raise BadInputError(f"line {self.number}: a record of more than {RECORD:,} characters", 413)
        return line


def _batches(reader: Any, lines: _Lines, width: int) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Records with the numbers of their last lines. Empty lines are passed over."""
    numbers: list[int] = []
    records: list[list[str]] = []
    for record in reader:
        lines.held = 0
        if not record:
            continue
        if len(record) != width:
            raise BadInputError(f"line {lines.number}: {len(record)} fields, the header has {width}")
        numbers.append(lines.number)
        records.append(record)
        if len(records) == TOGETHER:
            yield numbers, records
            numbers, records = [], []
    if records:
        yield numbers, records


def _csv_rows(records: list[list[str]], lines: list[int], places: dict[str, int], signature: Signature) -> Rows:
    columns = list(zip(*records, strict=True))
    numeric = np.empty((len(records), len(signature.numeric)), dtype="float64")
    text = np.empty((len(records), len(signature.text)), dtype="object")
    for column in signature.columns:
        texts = columns[places[column.name]]
        if column.kind == "numeric":
            numeric[:, signature.numeric.index(column.name)] = _numbers(column, texts, lines)
        else:
            if not column.nullable and "" in texts:
                raise missing(column, f"line {lines[texts.index('')]}")
            text[:, signature.text.index(column.name)] = texts
    return Rows(numeric, text)


def _numbers(column: SignatureColumn, texts: Sequence[str], lines: list[int]) -> Array:
    try:
        values = np.fromiter(map(float, texts), dtype="float64", count=len(texts))
    except ValueError:
        values = None
    together = "".join(texts)
    if values is not None and np.isfinite(values).all() and together.isascii() and "_" not in together:
        return values
    return np.array([_number(column, text, line) for text, line in zip(texts, lines, strict=True)], dtype="float64")


def _number(column: SignatureColumn, text: str, line: int) -> float:
    bare = text.strip().lower()
    try:
        # Python reads 1_000 and the digits of every script as well; other readers of the file would not
        value = math.nan if not bare else float(bare) if bare.isascii() and "_" not in bare else math.inf
    except ValueError:
        value = {"true": 1.0, "false": 0.0}.get(bare, math.inf)
    if math.isinf(value):
        raise BadInputError(f"line {line}: {column.name} is {shown(text)}; expected a number, or nothing where missing")
    if math.isnan(value) and not column.nullable:
        raise missing(column, f"line {line}")
    return value
