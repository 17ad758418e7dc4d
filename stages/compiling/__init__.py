"""A fitted pipeline as an ONNX graph that answers as scikit-learn does, and the proof on rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from stages.compiling import trees
from stages.compiling.graph import Graph, UnsupportedError
from stages.compiling.parity import Parity, check_rows, parity
from stages.compiling.transforms import column_block, kind, transformed

__all__ = ["Compiled", "NotCompiled", "Parity", "check_rows", "compile_pipeline", "parity"]


@dataclass(frozen=True)
class Compiled:
    """A serialized ONNX model.

    Inputs: `numeric`, double [n, numeric columns] with NaN for missing, and `text`, string [n, categorical
    columns] with "" for missing; one without columns is not there. Output: `scores`, [n, n_classes] probabilities in
    the order of the pipeline's classes_, or [n, 1] values; double, but float for XGBoost, which computes
    in it.
    """

    graph: bytes


@dataclass(frozen=True)
class NotCompiled:
    """The pipeline stays with scikit-learn; `reason` is one sentence for a person."""

    reason: str


@dataclass(frozen=True)
class Scores:
    """A tensor of scores, its width, and its precision."""

    tensor: str
    width: int
    dtype: type[np.generic] = np.float64


def compile_pipeline(pipeline: Pipeline, X: pd.DataFrame) -> Compiled | NotCompiled:
    """Compile a fitted `Pipeline([features, …, model])`; `X` gives names and kinds of columns only.

    The same fitted pipeline gives the same bytes. Never raises for a pipeline it cannot compile.
    """
    try:
        return Compiled(_graph(pipeline, X))
    except UnsupportedError as error:
        return NotCompiled(str(error))
    except Exception as error:
        # an estimator's insides are not ours; whatever is odd there, scikit-learn still serves it
        return NotCompiled(f"The pipeline could not be read: {type(error).__name__}: {error}")


def _graph(pipeline: Pipeline, X: pd.DataFrame) -> bytes:
    if not isinstance(pipeline, Pipeline) or len(pipeline.steps) < 2:
        raise UnsupportedError("The model is not a Pipeline of a features and a model step.")
    columns = {column: not pd.api.types.is_numeric_dtype(X[column]) for column in X.columns}
    if not all(isinstance(column, str) for column in columns):
        raise UnsupportedError("Feature columns need names that are text.")
    estimator = pipeline.steps[-1][1]
    head = _HEADS.get(kind(estimator))
    if head is None:
        raise UnsupportedError(f"{type(estimator).__name__} is not compiled.")
    if len(getattr(estimator, "classes_", [0, 1])) < 2 and "Dummy" not in kind(estimator):
        raise UnsupportedError("The model was fitted on a single class.")
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise UnsupportedError("The model has more than one target.")
    graph = Graph(columns)
    scores = head(graph, pipeline, estimator)
    return graph.serialize(scores.tensor, scores.width, scores.dtype)


def _features(graph: Graph, pipeline: Pipeline) -> str:
    """Add all steps before the model; gives one tensor, float64 [n, features]."""
    block = column_block(graph, pipeline.steps[0][1])
    for _, step in pipeline.steps[1:-1]:
        block = transformed(graph, step, block)
    return block.tensors[0]


def _constant(graph: Graph, _: Pipeline, estimator: Any) -> Scores:
    if estimator.strategy in ("stratified", "uniform"):
        raise UnsupportedError(f"DummyClassifier with strategy={estimator.strategy} is random.")
    classifies = hasattr(estimator, "predict_proba")
    answer = estimator.predict_proba if classifies else estimator.predict
    values = np.asarray(answer(np.zeros((1, 1))), dtype=np.float64).reshape(1, -1)
    shape = graph.add("Concat", graph.rows(), graph.constant([1], np.int64), axis=0)
    tensor = graph.add("Expand", graph.constant(values), shape)
    return Scores(tensor, values.shape[1])


def _decision(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    weights = np.atleast_2d(estimator.coef_).T
    if weights.shape[1] > 1 and not hasattr(estimator, "classes_"):
        raise UnsupportedError("The model has more than one target.")
    product = graph.add("MatMul", _features(graph, pipeline), graph.constant(weights))
    intercept = np.ravel(estimator.intercept_)
    return Scores(graph.add("Add", product, graph.constant(intercept)), weights.shape[1])


def _logistic(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    return _probabilities(graph, _decision(graph, pipeline, estimator))


def _forest(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    ensemble = trees.forest(estimator)
    tensor = trees.add_ensemble(graph, ensemble, _features(graph, pipeline))
    if hasattr(estimator, "estimators_"):
        tensor = graph.add("Div", tensor, graph.constant(float(len(estimator.estimators_))))
    return Scores(tensor, ensemble.targets)


def _histogram(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    ensemble = trees.histogram(estimator)
    scores = Scores(trees.add_ensemble(graph, ensemble, _features(graph, pipeline)), ensemble.targets)
    link = {"log_loss": "probability", "poisson": "exp", "gamma": "exp"}
    return _linked(graph, scores, link.get(estimator.loss, "identity"))


def _lightgbm(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    text = estimator.booster_.model_to_string()
    objective = text.split("\nobjective=", 1)[1].split("\n", 1)[0] if "\nobjective=" in text else ""
    name, *options = objective.split()
    if name not in _LIGHTGBM_LINKS or set(options) & {"sqrt"}:
        raise UnsupportedError(f"LightGBM with objective='{objective}' is not compiled.")
    if name == "binary" and "sigmoid:1" not in options:
        raise UnsupportedError("LightGBM with another sigmoid than 1 is not compiled.")
    ensemble = trees.lightgbm(estimator, sparse=pipeline.steps[0][1].sparse_output_)
    scores = Scores(trees.add_ensemble(graph, ensemble, _features(graph, pipeline)), ensemble.targets)
    return _linked(graph, scores, _LIGHTGBM_LINKS[name])


def _xgboost(graph: Graph, pipeline: Pipeline, estimator: Any) -> Scores:
    learner = trees.xgboost_learner(estimator)
    objective = learner["objective"]["name"]
    link = _XGBOOST_LINKS.get(objective)
    if link is None:
        raise UnsupportedError(f"XGBoost with objective='{objective}' is not compiled.")
    if not np.isnan(estimator.missing):
        raise UnsupportedError("XGBoost with missing=… is compiled for nan only.")
    if learner["learner_model_param"]["num_target"] not in ("0", "1"):
        raise UnsupportedError("The model has more than one target.")
    base = json_floats(learner["learner_model_param"]["base_score"])
    classes = max(1, int(learner["learner_model_param"]["num_class"]))
    base = np.broadcast_to(base, classes) if len(base) == 1 else base
    if link == "probability" and classes == 1:
        base = -np.log(np.float32(1) / base - np.float32(1))
    elif link == "exp":
        base = np.log(base)
    rounds = getattr(estimator, "best_iteration", None)  # there after early stopping only
    ensemble = trees.xgboost(learner, base, None if rounds is None else rounds + 1)
    features = _features(graph, pipeline)
    if pipeline.steps[0][1].sparse_output_:
        features = _zeros_missing(graph, features)
    scores = Scores(trees.add_ensemble(graph, ensemble, features), ensemble.targets, np.float32)
    return _linked(graph, scores, link)


def json_floats(text: str) -> np.ndarray:
    """Parse "5E-1" or "[5E-1,2E-1]" into float32 [k]."""
    return np.array(text.strip("[]").split(","), dtype=np.float32)


def _zeros_missing(graph: Graph, features: str) -> str:
    # what a sparse matrix leaves out is missing to XGBoost, and it leaves out every zero
    zero = graph.add("Equal", features, graph.constant(0.0))
    return graph.add("Where", zero, graph.constant(np.nan), features)


def _linked(graph: Graph, scores: Scores, link: str) -> Scores:
    if link == "probability":
        return _probabilities(graph, scores)
    if link == "exp":
        return Scores(graph.add("Exp", scores.tensor), scores.width, scores.dtype)
    return scores


def _probabilities(graph: Graph, scores: Scores) -> Scores:
    if scores.width > 1:
        return Scores(graph.add("Softmax", scores.tensor, axis=1), scores.width, scores.dtype)
    # written out: onnxruntime's Sigmoid is a rounding further from the libraries' 1/(1+exp(-x))
    one = graph.constant(1.0, scores.dtype)
    inverse = graph.add("Exp", graph.add("Neg", scores.tensor))
    positive = graph.add("Div", one, graph.add("Add", one, inverse))
    negative = graph.add("Sub", one, positive)
    return Scores(graph.join([negative, positive]), 2, scores.dtype)


_LINEAR = ("LinearRegression", "Ridge", "Lasso", "ElasticNet")
_IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
_LIGHTGBM_LINKS = {
    **dict.fromkeys(_IDENTITY, "identity"),
    **dict.fromkeys(("poisson", "gamma", "tweedie"), "exp"),
    **dict.fromkeys(("binary", "multiclass"), "probability"),
}
_XGBOOST_LINKS = {
    **dict.fromkeys(("binary:logistic", "multi:softprob"), "probability"),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), "exp"),
    **dict.fromkeys(
        ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:quantileerror"),
        "identity",
    ),
}
_HEADS: dict[str, Callable[[Graph, Pipeline, Any], Scores]] = {
    **{f"sklearn.Dummy{task}": _constant for task in ("Classifier", "Regressor")},
    **{f"sklearn.RandomForest{task}": _forest for task in ("Classifier", "Regressor")},
    **{f"sklearn.ExtraTrees{task}": _forest for task in ("Classifier", "Regressor")},
    **{f"sklearn.DecisionTree{task}": _forest for task in ("Classifier", "Regressor")},
    **{f"sklearn.HistGradientBoosting{task}": _histogram for task in ("Classifier", "Regressor")},
    **{f"lightgbm.LGBM{task}": _lightgbm for task in ("Classifier", "Regressor")},
    **{f"xgboost.XGB{task}": _xgboost for task in ("Classifier", "Regressor")},
    "sklearn.LogisticRegression": _logistic,
    **{f"sklearn.{name}": _decision for name in _LINEAR},
}
