from __future__ import annotations

import math

import numpy as np
import pytest

from stages.resampling import draws, interval, units_of, weights


def test_whole_days_are_drawn_where_there_is_a_time() -> None:
    time = np.datetime64("2024-01-01T00:00") + np.arange(240) * np.timedelta64(1, "h")
    units, name = units_of(time, 240)
    assert name == "days"
    for weight in weights(units, 20, seed=1):
        assert weight.sum() == 240
        assert all(len(set(day)) == 1 for day in weight.reshape(10, 24))


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


def test_resamples_where_the_figure_is_undefined_are_left_out() -> None:
    assert interval(1.0, np.array([1.0, 1.0, math.nan]), 0.95).low == 1.0
