"""Read a prepared split as features X and target y."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stages.config import Columns, Task
from stages.errors import DataError
from stages.files import PREPARED

SplitName = Literal["train", "validation", "test", "current"]


@dataclass(frozen=True)
class Split:
    """n rows. X: features (numeric float64, missing NaN; categorical str objects, missing ""). y: labels or values.

    known says which rows have a label; None: all of them. y holds 0, "" or NaN for the others, of `current` alone.
    """

    X: pd.DataFrame
    y: npt.NDArray[Any]
    time: pd.Series[Any] | None
    keys: pd.DataFrame
    extra: pd.DataFrame
    known: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.X)


def read_split(columns: Columns, task: Task, name: SplitName, folder: Path = PREPARED) -> Split:
    """One split, in the order of time (or of a hash of the row); it may have no rows.

    Raises DataError where the file is missing, not whole or not of these columns.
    """
    path = folder / f"{name}.parquet"
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; run `dvc repro prepare`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({error}); run `dvc repro -f prepare`") from None
    named = (*columns.features, columns.target, columns.time, *columns.key, *columns.passthrough)
    absent = sorted({name for name in named if name is not None} - set(table.column_names))
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; run `dvc repro prepare`")
    return split_of(table, columns, task)


def split_of(table: pa.Table, columns: Columns, task: Task) -> Split:
    """The rows of an Arrow table as features, target, time, keys and the rest."""
    others = [name for name in table.column_names if name not in columns.features]
    frame = table.select(others).to_pandas()
    features: dict[str, Any] = {name: _numbers(table[name]) for name in columns.numeric}
    features |= {name: _words(table[name]) for name in columns.categorical}
    y, known = _target(table[columns.target], task)
    return Split(
        X=pd.DataFrame(features, columns=pd.Index([*columns.features], dtype="object")),
        y=y,
        time=frame[columns.time] if columns.time else None,
        keys=_taken(table, frame, columns.key),
        extra=_taken(table, frame, columns.passthrough),
        known=known,
    )


def _taken(table: pa.Table, frame: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Columns of any role; a feature may be a key as well."""
    return pd.DataFrame(
        {name: frame[name] if name in frame else table[name].to_pandas() for name in names}, index=frame.index
    )


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_pandas(), dtype="float64")


def _words(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Python strings, missing as ""; each distinct word is made once."""
    coded = column.combine_chunks().cast("string").fill_null("").dictionary_encode()
    words = np.array([*coded.dictionary.to_pylist(), ""], dtype="object")
    return pd.Series(words[coded.indices.to_numpy()], dtype="object")


def _target(column: pa.ChunkedArray, task: Task) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    known = None if column.null_count == 0 else np.asarray(column.is_valid())
    if task.name == "regression":
        return _numbers(column), known
    if pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        return column.cast("int64").fill_null(0).to_numpy(), known
    return _words(column).to_numpy(dtype="object"), known
