"""Whether a scikit-learn scorer fits the task: told by `configure`, before anything is trained, and by `evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from stages.errors import ConfigError
from stages.scoring import Predictions, classified, regressed, replaying, unknown_scorer, written_out

_SUCH_AS = {
    "binary": ("roc_auc", "neg_log_loss", "balanced_accuracy", "f1"),
    "multiclass": ("roc_auc_ovr", "neg_log_loss", "balanced_accuracy", "f1_macro"),
    "regression": ("neg_root_mean_squared_error", "neg_mean_absolute_error", "r2"),
}
_OF_SCORES = ("roc_auc", "roc_auc_ovr", "average_precision", "neg_log_loss", "neg_brier_score")


def check_metrics(names: Iterable[str], task: str) -> None:
    """Raise ConfigError for the first name that is no scikit-learn scorer of the task."""
    for name in names:
        problem = metric_problem(name, task)
        if problem:
            raise ConfigError(f"evaluate.metrics: {problem}")


def metric_problem(name: str, task: str) -> str | None:
    """Why the scorer cannot be used for the task (binary, multiclass, regression): it is tried on a few rows.

    A metric of numbers computes on the codes of classes too; so what can score numbers is not for classes.
    """
    if written_out(name, task):
        return None  # scikit-learn takes most of a second to load, and a compiled model needs none of it
    unknown = unknown_scorer(name)
    if unknown:
        return unknown
    numbers = _works(name, _tried("regression"))
    if numbers if task == "regression" else _works(name, _tried(task)) and not numbers:
        return None
    return f"{name!r} does not fit data.task {task}; take another scorer, such as {', '.join(_SUCH_AS[task])}"


def label_problem(name: str) -> str | None:
    """Why the scorer cannot choose the cut of a binary model: it must compare labels, and take weights of the rows."""
    if name not in _OF_SCORES and written_out(name, "binary"):
        return None
    problem = metric_problem(name, "binary")
    if problem or _works(name, _tried("binary"), labels_only=True):
        return problem
    return f"{name!r} cannot choose a cut, it does not compare labels; try f1 or balanced_accuracy, or null for 0.5"


def _tried(task: str) -> Predictions:
    """Twelve rows of the task: right and wrong, every class there, numbers positive and not whole."""
    rows = np.arange(12)
    if task == "regression":
        return regressed(rows / 4 + 0.6, rows[::-1] / 5 + 0.3)
    k = 2 if task == "binary" else 3
    y = rows % k
    labels = (y + (rows % 4 == 0)) % k
    scores = np.where(labels[:, None] == np.arange(k), 0.8, 0.2 / (k - 1))
    return classified(y, labels, scores, range(k))


def _works(name: str, p: Predictions, labels_only: bool = False) -> bool:
    from sklearn.metrics import get_scorer

    weights = {"sample_weight": p.rows} if labels_only else {}
    try:
        with warnings.catch_warnings():
            # a clustering score of numbers only warns
            warnings.simplefilter("error" if p.classes is None else "ignore")
            get_scorer(name)(replaying(p, labels_only), np.arange(len(p)).reshape(-1, 1), p.y, **weights)
    except (ValueError, AttributeError, TypeError, Warning):
        return False
    return True
