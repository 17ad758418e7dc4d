"""Fit the pipeline that conf/ describes on the train split and write the model bundle."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from stages.bundle import (
    MODEL,
    Array,
    Signature,
    SignatureColumn,
    signature_tree,
    sklearn_scores,
)
from stages.card import card
from stages.compiling import Compiled, check_rows, compile_pipeline, parity
from stages.config import Config, listed_code, listed_params, load_config, nearest, read_params, slice_of
from stages.dataset import Split, read_split
from stages.errors import ConfigError, ModelError, run_stage
from stages.files import PREPARED, replacing, write_json
from stages.fitted import dump_pipeline
from stages.nodes import build, build_pipeline
from stages.progress import working
from stages.provenance import provenance
from stages.versions import pinned

CHECKED = 200  # rows in check.json, scored again by whoever loads the bundle
PARITY_ROWS = 5000


def main() -> None:
    started = time.perf_counter()
    config, versions = load_config("train"), pinned()
    columns, task = config.data.columns, config.data.task
    train, validation = (read_split(columns, task, name) for name in ("train", "validation"))
    with working(f"train: fitting {config.model['_target_'].rsplit('.', 1)[-1]} on {len(train):,} rows"):
        pipeline = fit(config, train)
    signature = describe(config, pipeline, train, validation)
    params = slice_of(read_params(), listed_params("train"))
    origin = provenance(params, [PREPARED], listed_code("train"), versions)
    compiled = write_bundle(MODEL, pipeline, signature, origin, train)
    print(f"train: {config.model['_target_']} in {time.perf_counter() - started:.1f} s, {compiled} → {MODEL}")


def fit(config: Config, train: Split) -> Pipeline:
    """The fitted pipeline; with train.search, the best of the search. Raises ModelError where scikit-learn does."""
    pipeline = build_pipeline(config.features, config.model, config.train.targets)
    pipeline.set_output(transform="default")
    try:
        if config.train.search is None:
            return pipeline.fit(train.X, train.y)
        search = build({**config.train.search, "estimator": pipeline}, config.train.targets)
        search.fit(train.X, train.y)
    except (ValueError, TypeError) as error:
        numbers = "Invalid classes" in str(error)  # XGBoost
        hint = "; let the query name the classes 0, 1, …, or take another model" if numbers else ""
        raise ModelError(f"model: {config.model['_target_']} could not be fitted: {error}{hint}") from error
    print(f"train: best of {len(search.cv_results_['params'])}: {search.best_params_}, {search.best_score_:.4f}")
    return search.best_estimator_


def describe(config: Config, pipeline: Pipeline, train: Split, validation: Split) -> Signature:
    """What the model takes and gives, with the threshold that is best on validation."""
    columns = config.data.columns
    described = [_column(name, columns.numeric[name], train.X[name]) for name in columns.numeric]
    described += [_column(name, columns.categorical[name], train.X[name]) for name in columns.categorical]
    task = config.data.task
    classes = None if task.name == "regression" else tuple(label for label in pipeline.classes_.tolist())
    signature = Signature(task.name, columns.target, classes, None, tuple(described))
    if task.name != "binary" or config.train.threshold is None:
        return signature
    assert classes is not None
    probability = sklearn_scores(pipeline, validation.X)[:, 1]
    threshold = best_threshold(config.train.threshold, probability, validation.y == classes[1])
    return Signature(task.name, columns.target, classes, threshold, tuple(described))


def _column(name: str, contract: Any, values: pd.Series[Any]) -> SignatureColumn:
    if values.dtype == "object":
        return SignatureColumn(
            name, "categorical", contract.nullable, contract.unit, categories=tuple(sorted({*values} - {""}))
        )
    low, high = (float(values.min()), float(values.max()))
    return SignatureColumn(name, "numeric", contract.nullable, contract.unit, low, high)


def best_threshold(metric: str, probability: Array, positive: Array) -> float:
    """The cut on the positive class's probability with the best metric, of 100 quantiles of it over all rows and 100
    over the positive ones, which may all be among the highest 1 in 1,000.

    It lies between two probabilities of these rows, with as few digits as fit there: one equal to a probability would
    hang on its last bit, and a fixed number of decimals would leave no cut where all probabilities are small. A row is
    called positive iff its probability is above the cut. Raises ConfigError for a metric that is not a scikit-learn
    scorer of labels that takes weights.
    """
    from sklearn.exceptions import UndefinedMetricWarning
    from sklearn.metrics import get_scorer, get_scorer_names

    try:
        scorer = get_scorer(metric)
    except ValueError:
        known = nearest(metric, get_scorer_names())
        raise ConfigError(f"train.threshold: {metric!r} is not the name of a scikit-learn scorer{known}") from None
    sides = [probability, probability[positive]] if positive.any() else [probability]
    levels = np.linspace(0.005, 0.995, 100)
    cuts = np.unique([np.quantile(side, levels, method="lower") for side in sides])
    counts = confusion_counts(probability, positive, cuts)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # a cut that leaves nothing positive scores 0
            # any metric of labels is a function of four counts: four rows with weights stand for all rows
            values = [scorer(_Said(), _TOLD, _TRUE, sample_weight=weights) for weights in counts]
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"train.threshold: {metric!r} cannot choose a cut, it does not compare labels ({error}); try f1 or "
            "balanced_accuracy, or null for 0.5"
        ) from None
    best = float(cuts[int(np.argmax(values))])
    above = probability[probability > best]
    return _between(best, float(above.min())) if len(above) else best


def _between(low: float, high: float) -> float:
    """About the middle, with as few digits as lie strictly between; low where no number does."""
    tried = (float(f"{(low + high) / 2:.{digits}g}") for digits in range(1, 18))
    return next((cut for cut in tried if low < cut < high), low)


def confusion_counts(probability: Array, positive: Array, cuts: Array) -> Array:
    """n cuts x (true negatives, false positives, false negatives, true positives)."""
    on, off = np.sort(probability[positive]), np.sort(probability[~positive])
    tn, fn = np.searchsorted(off, cuts, side="right"), np.searchsorted(on, cuts, side="right")
    return np.column_stack([tn, len(off) - tn, fn, len(on) - fn]).astype("float64")


_TOLD = np.array([[0], [1], [0], [1]])
_TRUE = np.array([0, 0, 1, 1])


class _Said(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that repeats the label it is given: what scores it is a scorer, by its public call."""

    classes_ = np.array([0, 1])

    def predict(self, X: Array) -> Array:
        return X[:, 0]

    def __sklearn_is_fitted__(self) -> bool:
        return True


def write_bundle(path: Path, pipeline: Pipeline, signature: Signature, origin: dict[str, Any], train: Split) -> str:
    """Write the bundle folder in one step; a sentence on the compiled graph."""
    with replacing(path) as folder:
        graph, said = compile_exactly(pipeline, signature, train)
        if graph is not None:
            (folder / "model.onnx").write_bytes(graph)
        dump_pipeline(pipeline, folder / "pipeline.skops")
        write_json(folder / "signature.json", signature_tree(signature))
        write_json(folder / "provenance.json", {**origin, "compiled": said})
        write_json(folder / "check.json", checks(pipeline, signature, train.X))
        (folder / "card.md").write_text(card(signature, origin, said, train), encoding="utf-8")
    return said


def compile_exactly(pipeline: Pipeline, signature: Signature, train: Split) -> tuple[bytes | None, str]:
    """The compiled graph where it agrees with scikit-learn on hard rows, and a sentence that says so or why not."""
    compiled = compile_pipeline(pipeline, train.X)
    if not isinstance(compiled, Compiled):
        return None, f"not compiled: {compiled.reason}"
    rows = check_rows(pipeline, train.X, rows=PARITY_ROWS)
    threshold = 0.5 if signature.threshold is None else signature.threshold
    proof = parity(pipeline, compiled.graph, rows, threshold=threshold)
    if not proof.exact:
        return None, f"not compiled: the graph is {proof}"
    return compiled.graph, f"compiled, {proof}"


def checks(pipeline: Pipeline, signature: Signature, X: pd.DataFrame) -> dict[str, Any]:
    """Rows and the scores that scikit-learn gives them, for whoever loads the bundle to try. Missing: null.

    The bundle goes where the data may not: each column is shuffled by itself, so that no row is one of the data.
    """
    random = np.random.default_rng(0)
    mixed = pd.DataFrame({name: random.permutation(X[name].to_numpy()) for name in X.columns})
    rows = check_rows(pipeline, mixed, rows=CHECKED)
    inputs = {name: [_plain(value) for value in rows[name].tolist()] for name in (*signature.numeric, *signature.text)}
    return {"inputs": inputs, "scores": sklearn_scores(pipeline, rows).tolist()}


def _plain(value: float | str) -> float | str | None:
    return None if value != value else value


if __name__ == "__main__":
    run_stage(main)
