from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stages.config import Columns
from stages.drifting.classifier import domain_auc

COLUMNS = Columns.model_validate(
    {"target": "y", "time": None, "key": [], "numeric": {"a": {}, "b": {}}, "categorical": {"word": {}}}
)


def window(rows: int, seed: int, sign: int = 1) -> pd.DataFrame:
    """b follows a with the sign: joint behaviour that no single column shows."""
    generator = np.random.default_rng(seed)
    a = generator.normal(size=rows)
    words = pd.Series(generator.choice(["", "x", "y"], rows), dtype=object)
    return pd.DataFrame({"a": a, "b": sign * a + generator.normal(size=rows) * 0.3, "word": words})


def test_windows_of_one_kind_cannot_be_told_apart() -> None:
    area = domain_auc(window(3000, 1), window(3000, 2), COLUMNS, (), seed=0)
    assert area is not None
    assert 0.45 < area < 0.55


def test_a_joint_change_that_no_column_shows_is_seen() -> None:
    area = domain_auc(window(3000, 1), window(1000, 2, sign=-1), COLUMNS, (), seed=0)
    assert area is not None
    assert area > 0.85


def test_the_same_seed_gives_the_same_area() -> None:
    first, second = (domain_auc(window(300, 1), window(300, 2), COLUMNS, (), seed=4) for _ in range(2))
    assert first == second


def test_missing_infinite_and_constant_columns_are_taken() -> None:
    odd = window(200, 1).assign(a=float("nan"), b=float("inf"), word="")
    area = domain_auc(odd, odd, COLUMNS, (), seed=0)
    assert area == pytest.approx(0.5, abs=0.02)


def test_a_few_rows_or_no_column_give_no_area() -> None:
    assert domain_auc(window(49, 1), window(500, 2), COLUMNS, (), seed=0) is None
    assert domain_auc(window(500, 1), window(500, 2), COLUMNS, ("a", "b", "word"), seed=0) is None


def test_days_that_differ_by_chance_do_not_tell_the_windows_apart() -> None:
    """Every day has a temperature of its own, drawn alike for both windows: by rows it is learnt by heart."""
    windows, times = [], []
    for seed in (1, 2):
        generator = np.random.default_rng(seed)
        day = np.arange(2000) % 40
        windows.append(window(2000, seed).assign(a=generator.normal(size=40)[day]))
        start = np.datetime64(f"2013-0{seed}-01T00:00:00.000000")
        times.append(pd.Series(start + day * np.timedelta64(1, "D")))
    by_row = domain_auc(windows[0], windows[1], COLUMNS, (), seed=0)
    by_day = domain_auc(windows[0], windows[1], COLUMNS, (), seed=0, times=(times[0], times[1]))
    assert by_row is not None
    assert by_day is not None
    assert by_row > 0.9
    assert by_day < 0.7
