from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stages.config import Evaluate
from stages.dataset import Split
from stages.errors import ConfigError
from stages.reporting.slices import sliced, values_of
from stages.scoring import Predictions, classified

N = 400
RNG = np.random.default_rng(0)


def asked(*slices: str) -> Evaluate:
    return Evaluate.model_validate(
        {
            "metrics": ["roc_auc", "neg_log_loss"],
            "primary": "roc_auc",
            "resamples": 20,
            "confidence": 0.95,
            "slices": slices,
            "smallest_slice": 50,
            "importance": {"rows": 10, "repeats": 1},
            "gate": {"champion": None, "margin": 0.1},
        }
    )


def data() -> tuple[Split, Predictions]:
    y = RNG.integers(0, 2, N)
    place = np.array(["A"] * 200 + ["B"] * 170 + ["C"] * 30, dtype="object")
    y[place == "B"] = 0
    p = np.clip(0.3 * y + 0.7 * RNG.random(N), 0, 1)
    X = pd.DataFrame({"place": pd.Series(place, dtype="object"), "age": RNG.random(N)})
    extra = pd.DataFrame({"shift": [1.0, np.nan] * (N // 2)})
    split = Split(X, y, None, pd.DataFrame(index=X.index), extra)
    return split, classified(y, (p > 0.5).astype(int), np.column_stack([1 - p, p]), (0, 1))


def test_every_value_with_enough_rows_is_a_slice_the_largest_first() -> None:
    split, predictions = data()
    found = sliced(split, predictions, asked("place"), seed=1)
    assert [(part.value, part.rows) for part in found] == [("A", 200), ("B", 170)]


def test_a_slice_of_one_class_has_null_for_auc_and_no_crash() -> None:
    split, predictions = data()
    b = sliced(split, predictions, asked("place"), seed=1)[1].tree()
    assert b["roc_auc"] is None
    assert b["low"] is None
    assert b["neg_log_loss"] < 0


def test_numbers_are_cut_at_quartiles_and_missing_is_a_value() -> None:
    split, _ = data()
    assert values_of(split, "age").nunique() == 4
    assert set(values_of(split, "shift")) == {"1", "missing"}


def test_a_slice_that_is_no_column_is_named() -> None:
    split, predictions = data()
    with pytest.raises(ConfigError, match=r"'plcae' is no column of the data \(did you mean 'place'\?\)"):
        sliced(split, predictions, asked("plcae"), seed=1)
