from __future__ import annotations

from dataclasses import replace

import numpy as np

from stages.drifting.columns import Finding
from stages.drifting.model import Change, ScoreShift
from stages.drifting.verdict import Evidence, drift_verdict, metrics
from tests.stages.drifting.conftest import LIMITS


def column(name: str, drifted: bool = False, reason: str = "") -> Finding:
    return Finding(name, "numeric", 0.0, 0.0, 0.4 if drifted else 0.0, 0.0, 0.0, (), drifted, reason)


QUIET = Evidence("train", "current", 1000, 100, tuple(column(name) for name in "abcd"), 0.5)


def test_nothing_found_is_no_drift() -> None:
    verdict = drift_verdict(QUIET, LIMITS)
    assert (verdict.outcome, verdict.drifted, verdict.reasons, verdict.notes) == ("stable", False, (), ())


def test_one_column_of_many_is_noted_with_its_reason_and_does_not_drift_verdict() -> None:
    columns = (column("temp", True, "values moved"), *QUIET.columns)
    verdict = drift_verdict(replace(QUIET, columns=columns), LIMITS)
    assert not verdict.drifted
    assert verdict.notes == ("temp: values moved",)


def test_enough_columns_decide_and_are_named() -> None:
    columns = (column("temp", True, "moved"), column("wind", True, "moved"), *QUIET.columns)
    verdict = drift_verdict(replace(QUIET, columns=columns), LIMITS)
    assert verdict.reasons == ("2 of 6 columns drifted (33%, limit 30%): temp, wind",)


def test_one_broken_column_is_a_reason_of_its_own_and_comes_first() -> None:
    lost = replace(column("temp", True, "missing values 0% → 10%"), broken="missing values 0% → 10%")
    verdict = drift_verdict(replace(QUIET, columns=(lost, *QUIET.columns)), LIMITS)
    assert (verdict.outcome, verdict.drifted, verdict.broken) == ("broken inputs", False, ("temp",))
    assert verdict.reasons == ("temp is broken: missing values 0% → 10%",)
    verdict = drift_verdict(replace(QUIET, columns=(lost, *QUIET.columns), classifier=0.9), LIMITS)
    assert (verdict.outcome, verdict.drifted, len(verdict.reasons)) == ("broken inputs", True, 2)
    assert drift_verdict(replace(QUIET, classifier=0.9), LIMITS).outcome == "drift"


def test_a_classifier_over_the_limit_decides_and_names_the_most_changed_columns() -> None:
    columns = (*QUIET.columns, column("temp", True, "moved"))
    verdict = drift_verdict(replace(QUIET, columns=columns, classifier=0.9), LIMITS)
    assert "0.900 (limit 0.75)" in verdict.reasons[0]
    assert "temp (distance 0.40)" in verdict.reasons[0]
    assert not drift_verdict(replace(QUIET, classifier=0.75), LIMITS).drifted


def test_a_gap_decides_when_it_grew_by_enough_and_certainly() -> None:
    grown = Change("class 1", 0.01, 0.08, 0.07, 0.05, 0.09)
    assert "from +0.010 to +0.080" in drift_verdict(replace(QUIET, calibration=(grown,)), LIMITS).reasons[0]
    for harmless in (
        replace(grown, low=-0.01),  # may be chance
        replace(grown, change=0.02),  # too small to matter
        replace(grown, reference=0.1, current=0.03, change=-0.07, low=-0.09, high=-0.05),  # better than before
    ):
        assert not drift_verdict(replace(QUIET, calibration=(harmless,)), LIMITS).drifted


def test_a_loss_of_performance_decides_when_it_is_large_and_certain() -> None:
    lost = Change("roc_auc", 0.75, 0.65, -0.10, -0.12, -0.08)
    assert "roc_auc went from 0.75 to 0.65" in drift_verdict(replace(QUIET, performance=lost), LIMITS).reasons[0]
    assert not drift_verdict(replace(QUIET, performance=replace(lost, high=0.01)), LIMITS).drifted
    gained = Change("roc_auc", 0.65, 0.75, 0.10, 0.08, 0.12)
    assert not drift_verdict(replace(QUIET, performance=gained), LIMITS).drifted


def test_a_metric_that_few_resamples_define_is_noted_and_does_not_decide() -> None:
    lost = Change("roc_auc", 0.75, 0.65, -0.10, -np.inf, np.inf)
    verdict = drift_verdict(replace(QUIET, performance=lost), LIMITS)
    assert not verdict.drifted
    assert "not defined on enough resamples" in verdict.notes[0]


def test_an_error_in_the_units_of_the_target_is_held_against_the_reference() -> None:
    worse = Change("neg_root_mean_squared_error", -50.0, -50.5, -0.5, -0.7, -0.3)
    assert not drift_verdict(replace(QUIET, performance=worse), LIMITS).drifted
    assert drift_verdict(replace(QUIET, performance=replace(worse, current=-52.0, change=-2.0)), LIMITS).drifted


def test_scores_decide_only_where_no_label_says_more() -> None:
    moved = (ScoreShift("class 1", 0.3, 0.0),)
    assert drift_verdict(replace(QUIET, scores=moved), LIMITS).drifted
    fine = Change("roc_auc", 0.7, 0.7, 0.0, -0.01, 0.01)
    verdict = drift_verdict(replace(QUIET, scores=moved, performance=fine), LIMITS)
    assert not verdict.drifted
    assert "scores of class 1 moved" in verdict.notes[0]


def test_metrics_are_flat_numbers_and_leave_out_what_does_not_exist() -> None:
    found = metrics(QUIET, drift_verdict(QUIET, LIMITS))
    assert found == {
        "drifted": 0,
        "columns_drifted": 0,
        "columns_broken": 0,
        "share_drifted": 0.0,
        "classifier_auc": 0.5,
        "rows_reference": 1000,
        "rows_current": 100,
    }
    full = replace(
        QUIET,
        scores=(ScoreShift("class 1", 0.3, 0.0),),
        calibration=(Change("class 0", 0, 0.1, 0.1, 0, 1), Change("class 1", 0, -0.2, -0.2, -1, 0)),
        errors=(0.1, 0.2),
        performance=Change("roc_auc", 0.7, 0.6, -0.1, -np.inf, np.inf),
    )
    found = metrics(full, drift_verdict(full, LIMITS))
    assert found["calibration_gap"] == -0.2
    assert (found["primary_reference"], found["primary_current"], found["primary_change"]) == (0.7, 0.6, -0.1)
