from __future__ import annotations

import math

import numpy as np
import pytest

from stages.resampling import defined, draws, enough, interval, units_of
from stages.scoring import Predictions, score_of


def test_whole_days_are_drawn_where_there_is_a_time() -> None:
    time = np.datetime64("2024-01-01T00:00") + np.arange(240) * np.timedelta64(1, "h")
    units, name = units_of(time, 240)
    assert name == "days"
    seen: list[np.ndarray] = []
    draws({"any": lambda w: float(len(seen.append(w) or seen))}, units, 20, seed=1)
    for weight in seen:
        assert weight.sum() == 240
        assert all(len(set(day)) == 1 for day in weight.reshape(10, 24))
    assert len(seen) == 20


def test_rows_are_drawn_where_there_are_too_few_days() -> None:
    time = np.datetime64("2024-01-01T00:00") + np.arange(50) * np.timedelta64(1, "h")
    assert units_of(time, 50)[1] == "rows"
    assert units_of(None, 50)[1] == "rows"


def test_the_same_seed_draws_the_same_rows_for_every_model() -> None:
    units = np.arange(30)
    values = np.random.default_rng(3).normal(size=30)
    drawn = draws({"a": lambda w: w @ values / w.sum(), "b": lambda w: w @ values / w.sum() + 1}, units, 50, seed=7)
    assert np.ptp(drawn["b"] - drawn["a"]) == pytest.approx(0, abs=1e-12)
    again = draws({"a": lambda w: w @ values / w.sum()}, units, 50, seed=7)
    assert np.array_equal(again["a"], drawn["a"])


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = generator.normal(size=100)
        drawn = draws({"mean": lambda w, v=values: w @ v / w.sum()}, np.arange(100), 200, seed)["mean"]
        limits = interval(float(values.mean()), drawn, 0.9)
        assert limits.low is not None
        assert limits.high is not None
        covered += limits.low <= 0 <= limits.high
    assert 165 <= covered <= 193


def test_an_undefined_figure_has_no_interval() -> None:
    assert interval(math.nan, np.zeros(3), 0.95).tree() == {"value": None, "low": None, "high": None}
    assert interval(0.5, np.full(3, math.nan), 0.95).tree() == {"value": 0.5, "low": None, "high": None}


def test_a_few_undefined_resamples_are_left_out_and_more_leave_no_limits() -> None:
    drawn = np.linspace(0, 1, 100)
    drawn[:5] = math.nan
    assert interval(0.5, drawn, 0.95).low == pytest.approx(np.quantile(drawn[5:], 0.025))
    drawn[5] = math.nan
    assert interval(0.5, drawn, 0.95).tree() == {"value": 0.5, "low": None, "high": None}
    assert defined(np.array([])) is None


def test_limits_that_decide_have_twenty_draws_beyond_them() -> None:
    assert enough(0.95) == 1000
    assert enough(0.95, asked=5000) == 5000
    assert enough(0.99) == 4000
    assert enough(0.995) == 8000


def test_fewer_resamples_are_the_first_of_more() -> None:
    score = {"mean": lambda w: float(w @ np.arange(30) / w.sum())}
    few, many = (draws(score, np.arange(30), n, seed=7)["mean"] for n in (10, 50))
    assert np.array_equal(few, many[:10])


@pytest.mark.parametrize("classes", [2, 3])
def test_an_area_under_the_curve_over_days_is_that_of_the_rows_repeated(classes: int) -> None:
    generator = np.random.default_rng(2)
    y = generator.integers(0, classes, 300)
    scores = generator.dirichlet([1] * classes, 300).round(1)  # many ties
    units = generator.permutation(np.arange(300) % 12)
    score = score_of("roc_auc" if classes == 2 else "roc_auc_ovr", Predictions(y, y, scores, tuple(range(classes))))
    fast = draws({"auc": score}, units, 50, seed=1)["auc"]
    slow = draws({"auc": lambda w: score(w)}, units, 50, seed=1)["auc"]
    assert fast == pytest.approx(slow, abs=1e-12)


def test_an_area_over_days_is_undefined_where_no_day_of_a_class_was_drawn() -> None:
    y = np.repeat([1, 0, 0, 0, 0, 0, 0, 0], 4)
    score = score_of("roc_auc", Predictions(y, y, np.column_stack([1 - y, y]).astype(float), (0, 1)))
    drawn = draws({"auc": score}, np.repeat(np.arange(8), 4), 200, seed=1)["auc"]
    assert 0.2 < np.isnan(drawn).mean() < 0.5
    assert set(drawn[np.isfinite(drawn)]) == {1.0}
