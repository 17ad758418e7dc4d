from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.reporting.curves import CURVE, NAMES, curves
from stages.scoring import Predictions, classified, regressed

RNG = np.random.default_rng(0)


def binary(n: int = 3000) -> Predictions:
    p = RNG.random(n)
    y = (RNG.random(n) < p).astype(int)
    return classified(y, (p > 0.5).astype(int), np.column_stack([1 - p, p]), (0, 1))


def test_every_plot_is_there_for_every_task_and_empty_where_it_does_not_apply() -> None:
    found = curves(binary(), 0)
    assert set(found) == set(NAMES)
    assert found["residuals"] == []
    values = curves(regressed(RNG.random(50), RNG.random(50)), 0)
    assert values["roc"] == values["confusion"] == []
    assert sum(point["rows"] for point in values["residuals"]) == 50


def test_the_area_under_the_points_is_the_auc() -> None:
    p = binary()
    points = curves(p, 0)["roc"]
    assert len(points) <= CURVE + 2
    x, y = ([point[name] for point in points] for name in ("false_positive_rate", "true_positive_rate"))
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(p.y, p.scores[:, 1]), abs=0.002)


def test_what_is_calibrated_lies_on_the_diagonal() -> None:
    points = curves(binary(), 0)["calibration"]
    assert len(points) == 10
    assert sum(point["low"] <= point["predicted"] <= point["high"] for point in points) >= 8
    assert sum(point["rows"] for point in points) == 3000


def test_a_constant_score_is_one_point_of_the_calibration() -> None:
    flat = classified(np.array([0, 1] * 20), np.zeros(40, dtype=int), np.full((40, 2), 0.5), (0, 1))
    assert len(curves(flat, 0)["calibration"]) == 1


def test_several_classes_have_a_curve_each() -> None:
    y = RNG.integers(0, 3, 300)
    scores = RNG.dirichlet([1, 1, 1], 300)
    found = curves(classified(y, scores.argmax(axis=1), scores, (0, 1, 2)), 0)
    assert {point["class"] for point in found["roc"]} == {"0", "1", "2"}
    assert len(found["confusion"]) == 9
    assert sum(point["rows"] for point in found["confusion"]) == 300


def test_a_class_without_rows_has_no_curve() -> None:
    p = binary()
    assert curves(p.take(p.y == 1), 0)["roc"] == []
    assert curves(p.take(p.y == 5), 0)["confusion"] == []
