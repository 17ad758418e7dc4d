from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from stages.errors import ConfigError, DataError
from stages.scoring import Predictions, classified, regressed, score_of

RNG = np.random.default_rng(0)


def binary(n: int = 400, classes: tuple[int, int] | tuple[str, str] = (0, 1)) -> Predictions:
    y = RNG.integers(0, 2, n)
    p = np.clip(0.3 * y + RNG.random(n) * 0.7, 0, 1).round(2)  # rounded: ties
    labels = np.array(classes, dtype="object")
    return classified(labels[y], labels[(p > 0.4).astype(int)], np.column_stack([1 - p, p]), classes)


def multiclass(n: int = 300) -> Predictions:
    y = RNG.integers(0, 3, n)
    scores = RNG.random((n, 3)) + np.eye(3)[y]
    scores /= scores.sum(axis=1, keepdims=True)
    return classified(y, scores.argmax(axis=1), scores, (0, 1, 2))


def weighted(p: Predictions) -> np.ndarray:
    return RNG.integers(0, 4, len(p)).astype("float64")


class KnownValues(RegressorMixin, BaseEstimator):
    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self.classes_ = np.arange(predictions.scores.shape[1])

    def predict(self, X: np.ndarray) -> np.ndarray:  # noqa: ARG002
        return self.predictions.labels


class KnownClasses(ClassifierMixin, BaseEstimator):
    __init__ = KnownValues.__init__
    predict = KnownValues.predict

    def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: ARG002
        return self.predictions.scores


PROPER = ["neg_log_loss", "neg_brier_score", "accuracy", "balanced_accuracy"]
AVERAGED = [f"{kind}_{average}" for kind in ("f1", "precision", "recall") for average in ("macro", "weighted")]


@pytest.mark.parametrize(
    "name",
    ["roc_auc", "roc_auc_ovr", "average_precision", "precision", "recall", "f1", *PROPER, *AVERAGED],
)
@pytest.mark.parametrize("classes", [(0, 1), ("no", "yes")])
def test_two_classes_are_scored_as_scikit_learn_does(name: str, classes: tuple[int, int]) -> None:
    p = binary(classes=classes)
    for w in (p.rows, weighted(p)):
        assert score_of(name, p)(w) == pytest.approx(_reference(name, p, w), abs=1e-12)


@pytest.mark.parametrize(
    "name",
    ["roc_auc_ovr", "average_precision", *PROPER, *AVERAGED],
)
def test_three_classes_are_scored_as_scikit_learn_does(name: str) -> None:
    p = multiclass()
    for w in (p.rows, weighted(p)):
        assert score_of(name, p)(w) == pytest.approx(_reference(name, p, w), abs=1e-12)


@pytest.mark.parametrize(
    "name", ["neg_mean_absolute_error", "neg_mean_squared_error", "neg_root_mean_squared_error", "r2"]
)
def test_values_are_scored_as_scikit_learn_does(name: str) -> None:
    y = RNG.normal(1000, 20, 200)
    p = regressed(y, y + RNG.normal(0, 10, 200))
    for w in (p.rows, weighted(p)):
        assert score_of(name, p)(w) == pytest.approx(_reference(name, p, w), abs=1e-9)


def _reference(name: str, p: Predictions, w: np.ndarray) -> float:
    """scikit-learn's scorer on an estimator that knows the predictions, the rows repeated by weight."""
    rows = np.repeat(np.arange(len(p)), w.astype(int))
    known = (KnownValues if p.classes is None else KnownClasses)(p.take(rows))
    return float(sk.get_scorer(name)(known, np.zeros((len(rows), 1)), p.y[rows]))


@pytest.mark.parametrize("name", ["matthews_corrcoef", "jaccard", "top_k_accuracy", "d2_log_loss_score"])
def test_any_other_scorer_is_scikit_learns_own(name: str) -> None:
    p = binary()
    assert np.isfinite(score_of(name, p)(weighted(p)))
    assert score_of("matthews_corrcoef", p)(p.rows) == pytest.approx(sk.matthews_corrcoef(p.y, p.labels))


def test_a_slice_of_one_class_has_no_auc_but_a_log_loss() -> None:
    p = binary()
    one = p.take(p.y == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("roc_auc", "average_precision", "f1", "balanced_accuracy", "f1_macro", "matthews_corrcoef"):
            assert np.isnan(score_of(name, p.take(p.y == 0))(one.rows)), name
    assert score_of("neg_log_loss", one)(one.rows) < 0


def test_no_rows_have_no_metrics() -> None:
    p = binary().take(np.zeros(400, dtype=bool))
    for name in ("roc_auc", "average_precision", "neg_log_loss", "f1", "accuracy"):
        assert np.isnan(score_of(name, p)(p.rows))


def test_a_class_the_model_never_saw_counts_against_it() -> None:
    p = classified(np.array(["a", "b", "d"]), np.array(["a", "b", "c"]), np.eye(3), ("a", "b", "c"))
    assert p.classes == ("a", "b", "c", "d")
    assert score_of("accuracy", p)(p.rows) == pytest.approx(2 / 3)
    assert score_of("neg_log_loss", p)(p.rows) < -10


def test_a_third_label_for_a_model_of_two_is_named() -> None:
    with pytest.raises(DataError, match="'maybe'"):
        classified(np.array(["no", "maybe"]), np.array(["no", "no"]), np.ones((2, 2)) / 2, ("no", "yes"))


def test_an_unknown_scorer_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"roc_acu.*did you mean 'roc_auc'"):
        score_of("roc_acu", binary())


def test_a_scorer_of_another_task_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'roc_auc' does not fit a regression"):
        score_of("roc_auc", regressed(np.arange(9.0) / 2, np.arange(9.0)))
    with pytest.raises(ConfigError, match=r"'f1' does not fit 3 classes"):
        score_of("f1", multiclass())
