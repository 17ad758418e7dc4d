"""The bundle as MLflow's python_function: what `mlflow models serve` and `mlflow.pyfunc.load_model` call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from stages.bundle import Model, checked_rows, decide, open_bundle

EXAMPLES = 3  # rows of the example


class Answering:
    """A bundle behind MLflow's interface."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """n rows with the column `prediction` and, for a classification, `probability_CLASS` for each class."""
        signature = self.model.signature
        X = pd.DataFrame({c.name: _column(frame.get(c.name), c.kind, len(frame)) for c in signature.columns})
        scores = self.model.scores(X)
        answer = {"prediction": decide(scores, signature)}
        for number, label in enumerate(signature.classes or ()):
            answer[f"probability_{label}"] = scores[:, number]
        return pd.DataFrame(answer, index=frame.index)


def _column(values: pd.Series[Any] | None, kind: str, rows: int) -> pd.Series[Any]:
    """A feature in the bundle's kind; an absent column is all missing."""
    if kind == "numeric":
        numbers = [float("nan")] * rows if values is None else values.to_numpy(dtype="float64", na_value=float("nan"))
        return pd.Series(numbers, dtype="float64")
    words = [""] * rows if values is None else ["" if pd.isna(word) else str(word) for word in values]
    return pd.Series(words, dtype="object")


def example(model: Model) -> pd.DataFrame:
    """A few of the rows that the bundle is checked with, as a client would send them."""
    rows, _ = checked_rows(model.path, model.signature)
    return rows[:EXAMPLES].frame(model.signature).replace("", None)


def _load_pyfunc(path: str) -> Answering:
    """MLflow's entry point."""
    return Answering(open_bundle(Path(path)))
