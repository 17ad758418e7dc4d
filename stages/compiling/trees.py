"""Fitted tree ensembles of three libraries as one plain structure that ONNX evaluates alike.

Sums are bit-equal to the libraries': one node holds all trees and adds leaf values in tree order, in
the ensemble's own precision, and a starting value is a tree of one leaf in front.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import numpy_helper

from stages.compiling.graph import Graph, UnsupportedError

LEQ, LT = 0, 1  # a row goes left where value <= threshold, or value < threshold
LIGHTGBM_ZERO = float(np.float32(1e-35))
MOST_NODES = 5_000_000  # about 150 MB of graph; ONNX ends at 2 GB


@dataclass(frozen=True)
class Tree:
    """Arrays over nodes; `left` is -1 at a leaf, whose value is added to score `target`."""

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    target: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Trees whose leaf values add up to `targets` scores.

    `inputs` and `sums` are the precisions in which features are compared and leaf values added.
    """

    trees: tuple[Tree, ...]
    targets: int
    inputs: type[np.generic] = np.float64
    sums: type[np.generic] = np.float64
    mode: int = LEQ


def leaf(value: float, target: int) -> Tree:
    """Make a tree that adds `value` to every row."""
    none = np.array([-1])
    zero = np.array([0])
    return Tree(zero, np.array([0.0]), none, none, zero, np.array([value]), target)


def forest(estimator: Any) -> Ensemble:
    """Read a scikit-learn forest or one tree: float32 features, float64 thresholds."""
    targets = len(estimator.classes_) if hasattr(estimator, "classes_") else 1
    trees = []
    for member in getattr(estimator, "estimators_", [estimator]):
        tree = member.tree_
        shape = (tree.feature, tree.threshold, tree.children_left, tree.children_right)
        for target in range(targets):
            values = tree.value[:, 0, target]
            trees.append(Tree(*shape, tree.missing_go_to_left, values, target))
    return Ensemble(tuple(trees), targets, inputs=np.float32)


def histogram(estimator: Any) -> Ensemble:
    """Read scikit-learn's HistGradientBoosting: all in float64, starting at the baseline."""
    if getattr(estimator, "is_categorical_", None) is not None and any(estimator.is_categorical_):
        raise UnsupportedError("HistGradientBoosting with categorical_features is not compiled; leave it at None.")
    baseline = np.ravel(estimator._baseline_prediction)
    trees = [leaf(float(value), target) for target, value in enumerate(baseline)]
    for iteration in estimator._predictors:
        for target, predictor in enumerate(iteration):
            nodes = predictor.nodes
            left = np.where(nodes["is_leaf"] == 1, -1, nodes["left"].astype(np.int64))
            trees.append(
                Tree(
                    nodes["feature_idx"],
                    nodes["num_threshold"],
                    left,
                    nodes["right"].astype(np.int64),
                    nodes["missing_go_to_left"],
                    nodes["value"],
                    target,
                )
            )
    return Ensemble(tuple(trees), len(baseline))


def lightgbm(estimator: Any, *, sparse: bool) -> Ensemble:
    """Read LightGBM's text model, which holds every double to 17 digits.

    `sparse` says whether the model is given sparse matrices: in dense ones LightGBM reads a number
    within 1e-35 of zero as zero.
    """
    header, *sections = estimator.booster_.model_to_string().split("\nTree=")
    if "\naverage_output" in header:
        raise UnsupportedError("LightGBM with boosting_type='rf' is not compiled.")
    targets = int(_fields(header)["num_tree_per_iteration"])
    trees = []
    for place, section in enumerate(sections):
        trees.append(_lightgbm_tree(_fields(section.split("\n\n")[0]), place % targets, sparse))
    return Ensemble(tuple(trees), targets)


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _lightgbm_tree(fields: dict[str, str], target: int, sparse: bool) -> Tree:
    if fields.get("is_linear", "0") != "0":
        raise UnsupportedError("LightGBM with linear_tree is not compiled.")
    leaves = np.array(fields["leaf_value"].split(), dtype=np.float64)
    if len(leaves) == 1:
        return leaf(float(leaves[0]), target)
    decision = np.array(fields["decision_type"].split(), dtype=np.int64)
    if np.any(decision & 1):
        raise UnsupportedError("LightGBM with categorical_feature is not compiled; encode the column instead.")
    missing = (decision >> 2) & 3
    if np.any(missing == 1):
        raise UnsupportedError("LightGBM with zero_as_missing is not compiled.")
    inner = len(decision)
    threshold = np.array(fields["threshold"].split(), dtype=np.float64)
    # a model that saw no missing value reads a missing one as 0
    missing_left = np.where(missing == 2, decision & 2, threshold >= 0) != 0
    if not sparse:  # all numbers beside zero go the way of zero
        below = (threshold >= -LIGHTGBM_ZERO) & (threshold < 0)
        threshold[below] = np.nextafter(-LIGHTGBM_ZERO, -np.inf)
        threshold[(threshold >= 0) & (threshold < LIGHTGBM_ZERO)] = LIGHTGBM_ZERO

    def child(key: str) -> np.ndarray:
        ids = np.array(fields[key].split(), dtype=np.int64)
        return np.concatenate([np.where(ids < 0, inner - 1 - ids, ids), np.full(len(leaves), -1)])

    def padded(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, np.zeros(len(leaves), dtype=values.dtype)])

    return Tree(
        padded(np.array(fields["split_feature"].split(), dtype=np.int64)),
        padded(threshold),
        child("left_child"),
        child("right_child"),
        padded(missing_left),
        np.concatenate([np.zeros(inner), leaves]),
        target,
    )


def xgboost(learner: dict[str, Any], starts: np.ndarray, rounds: int | None) -> Ensemble:
    """Read the trees of an XGBoost model: all in float32, `<`, starting at the margins `starts`."""
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise UnsupportedError(f"XGBoost with booster='{booster['name']}' is not compiled.")
    model = booster["model"]
    until = model["iteration_indptr"][rounds] if rounds is not None else len(model["trees"])
    trees = [leaf(float(value), target) for target, value in enumerate(starts)]
    for raw, target in zip(model["trees"][:until], model["tree_info"][:until], strict=True):
        if any(raw["split_type"]):
            raise UnsupportedError("XGBoost with enable_categorical is not compiled.")
        if raw["tree_param"]["size_leaf_vector"] not in ("0", "1"):
            raise UnsupportedError("XGBoost with vector leaves is not compiled.")
        values = np.array(raw["split_conditions"], dtype=np.float32)
        trees.append(
            Tree(
                np.array(raw["split_indices"]),
                values,
                np.array(raw["left_children"]),
                np.array(raw["right_children"]),
                np.array(raw["default_left"]),
                values,  # at a leaf, XGBoost keeps its value in the same array
                target,
            )
        )
    return Ensemble(tuple(trees), len(starts), inputs=np.float32, sums=np.float32, mode=LT)


def xgboost_learner(estimator: Any) -> dict[str, Any]:
    """Return the `learner` part of XGBoost's own JSON model."""
    learner: dict[str, Any] = json.loads(estimator.get_booster().save_raw("json"))["learner"]
    return learner


def thresholds(estimator: Any) -> np.ndarray:
    """Give each distinct (feature, threshold) of a tree model once, sorted: [k, 2], maybe empty.

    :raises UnsupportedError: where the trees cannot be read.
    """
    family = f"{type(estimator).__module__}.{type(estimator).__name__}"
    if family.startswith("xgboost.") and hasattr(estimator, "get_booster"):
        read = xgboost(xgboost_learner(estimator), np.zeros(1), None)
    elif family.startswith("lightgbm.") and hasattr(estimator, "booster_"):
        read = lightgbm(estimator, sparse=True)
    elif hasattr(estimator, "_predictors"):
        read = histogram(estimator)
    elif hasattr(estimator, "tree_") or hasattr(estimator, "estimators_"):
        read = forest(estimator)
    else:
        return np.empty((0, 2))
    pairs = [np.column_stack([tree.feature, tree.threshold])[tree.left >= 0] for tree in read.trees]
    found = np.unique(np.concatenate(pairs), axis=0)
    return np.asarray(found[np.isfinite(found[:, 1])])


def add_ensemble(graph: Graph, ensemble: Ensemble, features: str) -> str:
    """Add the trees behind `features` (float64 [n, k]); gives [n, targets] of `ensemble.sums`."""
    if sum(len(tree.left) for tree in ensemble.trees) > MOST_NODES:
        raise UnsupportedError(f"The trees have more than {MOST_NODES:,} nodes: too large a graph.")
    dtype = ensemble.sums
    if ensemble.inputs is not np.float64:
        features = graph.cast(features, ensemble.inputs)
    if ensemble.inputs is not dtype:
        features = graph.cast(features, dtype)
    parts = _flat(ensemble.trees)
    count = len(parts["nodes_featureids"])
    return graph.add(
        "TreeEnsemble",
        features,
        domain="ai.onnx.ml",
        aggregate_function=1,  # sum
        n_targets=ensemble.targets,
        post_transform=0,
        nodes_modes=numpy_helper.from_array(np.full(count, ensemble.mode, np.uint8), "modes"),
        nodes_splits=numpy_helper.from_array(parts.pop("splits").astype(dtype), "splits"),
        leaf_weights=numpy_helper.from_array(parts.pop("weights").astype(dtype), "weights"),
        **{name: values.astype(np.int64).tolist() for name, values in parts.items()},
    )


def _flat(trees: tuple[Tree, ...]) -> dict[str, np.ndarray]:
    """Count inner nodes and leaves through all trees, as ONNX wants them."""
    columns: dict[str, list[np.ndarray]] = {}
    nodes = leaves = 0
    for tree in trees:
        at_leaf = tree.left < 0
        inner, ends = np.flatnonzero(~at_leaf), np.flatnonzero(at_leaf)
        place = np.empty(len(tree.left), dtype=np.int64)
        place[inner] = nodes + np.arange(len(inner))
        place[ends] = leaves + np.arange(len(ends))
        if len(inner):
            left, right = tree.left[inner], tree.right[inner]
        else:  # a root has to be a node: one whose two sides are the same leaf
            inner = left = right = np.array([0])
        rows = {
            "tree_roots": np.array([nodes]),
            "nodes_featureids": np.where(at_leaf[inner], 0, tree.feature[inner]),
            "splits": tree.threshold[inner],
            "nodes_truenodeids": place[left],
            "nodes_trueleafs": at_leaf[left],
            "nodes_falsenodeids": place[right],
            "nodes_falseleafs": at_leaf[right],
            "nodes_missing_value_tracks_true": tree.missing_left[inner] != 0,
            "weights": tree.value[ends],
            "leaf_targetids": np.full(len(ends), tree.target),
        }
        for name, values in rows.items():
            columns.setdefault(name, []).append(values)
        nodes += len(inner)
        leaves += len(ends)
    return {name: np.concatenate(values) for name, values in columns.items()}
