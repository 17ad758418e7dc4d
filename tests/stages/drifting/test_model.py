from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.drifting.model import (
    Behaviour,
    calibration_error,
    calibration_gaps,
    in_units_of_target,
    performance,
    score_shifts,
)


def binary(rows: int, seed: int, shift: float = 0.0, noise: bool = False, days: int | None = None) -> Behaviour:
    """Well calibrated where shift is 0: shift is added to what is predicted, noise makes the labels random."""
    generator = np.random.default_rng(seed)
    p = generator.uniform(0.05, 0.8, rows)
    observed = (generator.random(rows) < (p.mean() if noise else p)).astype(np.int64)
    said = np.clip(p + shift, 0, 1)
    time = None if days is None else np.datetime64("2013-01-01") + np.arange(rows) % days
    return Behaviour((0, 1), np.column_stack([1 - said, said]), (said > 0.5).astype(np.int64), observed, time)


def regression(rows: int, seed: int, shift: float = 0.0) -> Behaviour:
    generator = np.random.default_rng(seed)
    value = generator.normal(100, 20, rows)
    return Behaviour(None, value[:, None] + shift, value + shift, value + generator.normal(0, 5, rows), None)


def multiclass(rows: int, seed: int, shift: float = 0.0) -> Behaviour:
    generator = np.random.default_rng(seed)
    p = generator.dirichlet([2, 2, 2], rows)
    classes = ("red", "green", "blue")
    observed = np.array([generator.choice(3, p=row) for row in p])
    said = p + np.array([shift, -shift / 2, -shift / 2])
    said = np.clip(said, 1e-6, None)
    said /= said.sum(axis=1, keepdims=True)
    labels = np.array(classes, dtype=object)
    return Behaviour(classes, said, labels[said.argmax(axis=1)], labels[observed], None)


def test_equal_behaviour_has_intervals_around_no_change() -> None:
    old, new = binary(4000, 1), binary(4000, 2)
    (gap,) = calibration_gaps(old, new, 0.99)
    change = performance(old, new, "roc_auc", 0.99, 0)
    assert gap.low < 0 < gap.high
    assert change is not None
    assert change.low < 0 < change.high
    assert score_shifts(old, new)[0].p > 0.01


def test_a_model_that_promises_too_much_shows_a_gap_of_that_size() -> None:
    (gap,) = calibration_gaps(binary(4000, 1), binary(4000, 2, shift=0.1), 0.99)
    assert gap.current == pytest.approx(0.1, abs=0.03)
    assert gap.certain
    error = calibration_error(binary(4000, 2, shift=0.1))
    assert error == pytest.approx(0.1, abs=0.03)


def test_performance_is_the_scorers_own_value_and_its_loss_is_certain() -> None:
    old, new = binary(3000, 1), binary(3000, 2, noise=True)
    change = performance(old, new, "roc_auc", 0.99, 0)
    assert change is not None
    assert change.reference == pytest.approx(roc_auc_score(np.asarray(old.observed), old.scores[:, 1]))
    assert change.current == pytest.approx(0.5, abs=0.05)
    assert change.high < 0


@pytest.mark.parametrize("scorer", ["neg_log_loss", "neg_brier_score", "f1", "balanced_accuracy", "average_precision"])
def test_every_binary_scorer_works_on_recorded_predictions(scorer: str) -> None:
    change = performance(binary(300, 1), binary(300, 2), scorer, 0.95, 0)
    assert change is not None
    assert change.low <= change.change <= change.high


def test_every_class_of_several_is_looked_at_by_name() -> None:
    old, new = multiclass(1500, 1), multiclass(1500, 2, shift=0.2)
    gaps = {gap.name: gap for gap in calibration_gaps(old, new, 0.99)}
    assert set(gaps) == {"class red", "class green", "class blue"}
    assert gaps["class red"].change > 0.1
    assert gaps["class red"].certain
    assert {shift.name for shift in score_shifts(old, new)} == set(gaps)
    assert performance(old, new, "neg_log_loss", 0.99, 0) is not None
    assert performance(old, new, "roc_auc_ovr", 0.99, 0) is not None
    assert calibration_error(new) is not None


def test_a_regression_is_judged_in_standard_deviations_of_the_target() -> None:
    old, new = regression(2000, 1), regression(2000, 2, shift=10)
    (gap,) = calibration_gaps(old, new, 0.99)
    assert gap.current == pytest.approx(0.5, abs=0.1)
    change = performance(old, new, "neg_root_mean_squared_error", 0.99, 0)
    assert change is not None
    assert change.high < 0
    assert calibration_error(new) is None


def test_whole_days_are_drawn_where_there_are_enough_of_them() -> None:
    """With all rows of a day alike there is as much to learn as there are days, and the interval says so."""
    rows, days = 2000, 20
    narrow = binary(rows, 1)
    wide = binary(rows, 1, days=days)
    per_day = np.random.default_rng(3).integers(0, 2, days)
    observed = per_day[np.arange(rows) % days]
    alike = [Behaviour(side.classes, side.scores, side.predicted, observed, side.time) for side in (narrow, wide)]
    widths = []
    for side in alike:
        (gap,) = calibration_gaps(side, side, 0.95)
        widths.append(gap.high - gap.low)
    assert widths[1] > 3 * widths[0]


def test_without_labels_only_scores_are_compared() -> None:
    known = binary(100, 1)
    unknown = Behaviour(known.classes, known.scores, known.predicted, None, None)
    assert calibration_gaps(known, unknown, 0.99) == ()
    assert performance(known, unknown, "roc_auc", 0.99, 0) is None
    assert calibration_error(unknown) is None
    assert score_shifts(known, unknown)[0].distance == 0


def test_one_class_alone_has_no_performance() -> None:
    new = binary(50, 1)
    alone = Behaviour(new.classes, new.scores, new.predicted, np.ones(50, dtype=np.int64), None)
    assert performance(binary(50, 2), alone, "roc_auc", 0.99, 0) is None


def test_metrics_in_the_units_of_the_target_are_known() -> None:
    assert in_units_of_target("neg_root_mean_squared_error")
    assert not in_units_of_target("neg_log_loss")
    assert not in_units_of_target("r2")


def test_a_metric_that_few_resamples_define_has_no_limits() -> None:
    """One positive row: on more than a third of the resamples it is not drawn."""
    new = binary(60, 1)
    rare = Behaviour(new.classes, new.scores, new.predicted, np.eye(60, dtype=np.int64)[0], None)
    change = performance(binary(500, 2), rare, "roc_auc", 0.99, 0)
    assert change is not None
    assert (change.low, change.high) == (-np.inf, np.inf)
    assert not change.certain


def test_a_gap_between_equal_windows_is_certain_as_rarely_as_asked_for_however_few_the_days() -> None:
    """Eight days a side, rows of a day alike: the normal distribution's limits alarm more than twice too often."""
    generator = np.random.default_rng(0)
    rows, days, rounds = 80, 8, 2000
    day = np.arange(rows) % days
    time = np.datetime64("2013-01-01") + day
    alarms = 0
    for _ in range(rounds):
        sides = []
        for _side in range(2):
            value = generator.normal(size=days)[day] + generator.normal(size=rows) / 5
            sides.append(Behaviour(None, np.zeros((rows, 1)), np.zeros(rows), value, time))
        alarms += calibration_gaps(*sides, 0.99)[0].certain
    assert alarms <= 33  # 1 % are 20; the normal distribution's would be 44
