from __future__ import annotations

import numpy as np
import pandas as pd

from stages.reporting.importance import permutation_importance
from stages.scoring import Array, Predictions, regressed


def test_what_the_model_uses_is_important_and_the_rest_is_not() -> None:
    generator = np.random.default_rng(0)
    X = pd.DataFrame({"noise": generator.normal(size=200), "signal": generator.normal(size=200)})
    word = pd.Series(["a", "b"] * 100, dtype="object")
    X["word"] = word
    y = 3 * X["signal"].to_numpy() + (word == "b").to_numpy()

    def predict(X: pd.DataFrame, y: Array) -> Predictions:
        assert X["word"].dtype == "object"
        return regressed(y, 3 * X["signal"].to_numpy() + (X["word"] == "b").to_numpy())

    points = permutation_importance(X, predict, y, "neg_root_mean_squared_error", repeats=3, seed=1)
    assert [point["column"] for point in points] == ["signal", "word", "noise"]
    assert points[-1] == {"column": "noise", "loss": 0.0, "low": 0.0, "high": 0.0}
    assert points[0]["low"] <= points[0]["loss"] <= points[0]["high"]
    assert points == permutation_importance(X, predict, y, "neg_root_mean_squared_error", repeats=3, seed=1)
