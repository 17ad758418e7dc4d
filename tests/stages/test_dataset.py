"""A split is read as the types that a pipeline is promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.config import Column, Columns, Task
from stages.dataset import read_split
from stages.errors import DataError

BINARY = Task(name="binary", estimator="Classifier", primary="f1", metrics=("f1",))
REGRESSION = Task(name="regression", estimator="Regressor", primary="r2", metrics=("r2",))
COLUMNS = Columns(
    target="target",
    time="at",
    key=("id", "colour"),
    numeric={"size": Column(), "count": Column()},
    categorical={"colour": Column(), "shape": Column()},
    passthrough=("note",),
)
FRAME = {
    "note": ["x", None, "z"],
    "shape": pa.array(["round", None, "flat"], pa.string()),
    "colour": ["red", "", "Łódź"],
    "size": [1.5, None, float("nan")],
    "count": pa.array([1, None, 3], pa.float64()),
    "target": [1, 0, 1],
    "at": pa.array([0, 1, 2], pa.timestamp("us")),
    "id": [10, 11, 12],
    "other": [0, 0, 0],
}


def write(folder: Path, **changed: object) -> None:
    pq.write_table(pa.table({**FRAME, **changed}), folder / "train.parquet")


def test_features_come_in_the_config_s_order_and_kinds(tmp_path: Path) -> None:
    write(tmp_path)
    split = read_split(COLUMNS, BINARY, "train", tmp_path)
    assert list(split.X) == ["size", "count", "colour", "shape"]
    assert split.X.columns.dtype == object
    assert [str(kind) for kind in split.X.dtypes] == ["float64", "float64", "object", "object"]
    assert np.isnan(split.X["size"].to_numpy()).tolist() == [False, True, True]
    assert split.X["shape"].tolist() == ["round", "", "flat"]
    assert split.X["colour"].tolist() == ["red", "", "Łódź"]
    assert all(type(word) is str for name in ("colour", "shape") for word in split.X[name])
    assert split.X.index.equals(pd.RangeIndex(3))


def test_target_time_keys_and_the_rest_stand_beside_the_features(tmp_path: Path) -> None:
    write(tmp_path)
    split = read_split(COLUMNS, BINARY, "train", tmp_path)
    assert (split.y.dtype, split.y.tolist()) == (np.dtype("int64"), [1, 0, 1])
    assert split.time is not None
    assert str(split.time.dtype) == "datetime64[us]"
    assert split.keys.to_numpy().tolist() == [[10, "red"], [11, ""], [12, "Łódź"]]
    assert list(split.extra) == ["note"]
    assert len(split) == 3


def test_labels_of_text_are_python_strings_and_values_are_floats(tmp_path: Path) -> None:
    write(tmp_path, target=["no", "yes", "no"])
    y = read_split(COLUMNS, BINARY, "train", tmp_path).y
    assert y.dtype == object
    assert [type(label) for label in y] == [str] * 3
    write(tmp_path)
    assert read_split(COLUMNS, REGRESSION, "train", tmp_path).y.dtype == np.dtype("float64")


def test_labels_that_are_not_known_yet_leave_the_kind_of_the_others_alone(tmp_path: Path) -> None:
    for target, task, given in (
        ([1, None, 0], BINARY, [1, 0]),
        (["no", None, "yes"], BINARY, ["no", "yes"]),
        ([True, None, False], BINARY, [1, 0]),
        ([1.5, None, 2.5], REGRESSION, [1.5, 2.5]),
    ):
        write(tmp_path, target=target)
        split = read_split(COLUMNS, task, "train", tmp_path)
        assert split.known is not None
        assert split.known.tolist() == [True, False, True]
        assert split.y[split.known].tolist() == given
        assert type(split.y[split.known].tolist()[0]) is type(given[0])
    write(tmp_path)
    assert read_split(COLUMNS, BINARY, "train", tmp_path).known is None


@pytest.mark.parametrize("target", [pa.int64(), pa.string()])
def test_an_empty_split_has_every_column_and_kind(tmp_path: Path, target: pa.DataType) -> None:
    empty = pa.table(FRAME).slice(0, 0)
    at = empty.column_names.index("target")
    pq.write_table(empty.set_column(at, "target", pa.array([], target)), tmp_path / "train.parquet")
    split = read_split(COLUMNS, BINARY, "train", tmp_path)
    assert split.X.shape == (0, 4)
    assert [str(kind) for kind in split.X.dtypes] == ["float64", "float64", "object", "object"]
    assert split.y.shape == (0,)


def test_words_of_many_row_groups_come_in_their_order(tmp_path: Path) -> None:
    words = [f"w{i * 7919 % 1000}" for i in range(5000)]
    table = pa.table({name: pa.chunked_array([pa.array(v)]).take([0] * 5000) for name, v in FRAME.items()})
    table = table.set_column(table.column_names.index("shape"), "shape", pa.array(words))
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=700)
    assert read_split(COLUMNS, BINARY, "train", tmp_path).X["shape"].tolist() == words


def test_a_file_that_is_missing_damaged_or_lacks_a_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.parquet: there is no such file; run `dvc repro prepare`"):
        read_split(COLUMNS, BINARY, "train", tmp_path)
    pq.write_table(pa.table(FRAME).drop_columns(["at", "size"]), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: no column at, size"):
        read_split(COLUMNS, BINARY, "train", tmp_path)
    write(tmp_path)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"train.parquet: not a whole Parquet file .*`dvc repro -f prepare`"):
        read_split(COLUMNS, BINARY, "train", tmp_path)
