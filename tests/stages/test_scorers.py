from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import get_scorer_names

from stages.errors import ConfigError
from stages.scorers import check_metrics, label_problem, metric_problem
from stages.scoring import Predictions, classified, regressed, score_of

RNG = np.random.default_rng(0)


def drawn(task: str) -> Predictions:
    """200 random rows of the task."""
    if task == "regression":
        return regressed(RNG.random(200), RNG.random(200))
    k = 2 if task == "binary" else 3
    scores = RNG.dirichlet(np.ones(k), 200)
    return classified(RNG.integers(0, k, 200), scores.argmax(axis=1), scores, range(k))


FITS: dict[str, tuple[str, ...]] = {
    "roc_auc": ("binary",),
    "f1": ("binary",),
    "jaccard": ("binary",),
    "roc_auc_ovr": ("binary", "multiclass"),
    "accuracy": ("binary", "multiclass"),
    "matthews_corrcoef": ("binary", "multiclass"),
    "d2_log_loss_score": ("binary", "multiclass"),
    "adjusted_rand_score": ("binary", "multiclass"),
    "r2": ("regression",),
    "neg_mean_squared_error": ("regression",),
    "neg_max_error": ("regression",),
    "neg_mean_gamma_deviance": ("regression",),
    "d2_absolute_error_score": ("regression",),
    "f1_samples": (),
}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("name", FITS)
def test_a_metric_is_taken_for_the_tasks_that_it_fits_and_for_no_other(name: str, task: str) -> None:
    problem = metric_problem(name, task)
    assert (problem is None) == (task in FITS[name])
    assert problem is None or f"'{name}' does not fit data.task {task}" in problem


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_scorer_of_scikit_learn_fits_a_task_or_is_told_why_not_before_a_model_is_trained(task: str) -> None:
    data = drawn(task)
    taken = [name for name in get_scorer_names() if metric_problem(name, task) is None]
    assert len(taken) > 10
    for name in taken:
        score_of(name, data)(data.rows)  # does not raise


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "matthews_corrcoef", "jaccard", "f1_macro"])
def test_a_metric_of_labels_can_choose_a_cut(name: str) -> None:
    assert label_problem(name) is None


@pytest.mark.parametrize("name", ["roc_auc", "neg_log_loss", "average_precision", "top_k_accuracy", "rand_score"])
def test_a_metric_of_probabilities_or_without_weights_cannot_choose_a_cut(name: str) -> None:
    assert f"'{name}' cannot choose a cut" in str(label_problem(name))


def test_a_metric_of_numbers_cannot_choose_a_cut() -> None:
    assert "'r2' does not fit data.task binary" in str(label_problem("r2"))


def test_an_unknown_scorer_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"roc_acu.*did you mean 'roc_auc'"):
        check_metrics(["roc_acu"], "binary")
