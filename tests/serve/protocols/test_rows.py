"""Decoded values become rows by name or by place, all at once or one by one with the same bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.protocols import BadInputError
from serve.protocols.rows import from_columns, from_numbers, from_records, shown
from stages.bundle import Signature, SignatureColumn
from tests.serve.conftest import SIGNATURE

GIVEN = Signature("regression", "y", None, None, (SignatureColumn("a", "numeric", False),))

numbers = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**1023), 2**1023), st.floats(allow_infinity=False, allow_nan=True)
)


@given(values=st.lists(numbers, min_size=1, max_size=6))
def test_a_column_of_numbers_gets_the_bits_that_each_has_alone(values: list[Any]) -> None:
    together = from_columns({"size": values}, SIGNATURE, 10).numeric[:, 0]
    alone = [math.nan if value is None else float(value) for value in values]
    assert together.tobytes() == np.array(alone, dtype="float64").tobytes()


@pytest.mark.parametrize("kind", ["float32", "float64", "int8", "int64", "uint64", "bool"])
def test_a_vector_gets_the_bits_of_its_values(kind: str) -> None:
    vector = np.array([0, 1, 1], dtype=kind) if kind == "bool" else np.array([0.1, 7, 2**6], dtype="f8").astype(kind)
    listed = from_columns({"weight": vector.tolist()}, SIGNATURE, 10).numeric
    assert from_columns({"weight": vector}, SIGNATURE, 10).numeric.tobytes() == listed.tobytes()


def test_an_integer_between_two_floats_is_rounded_as_python_does() -> None:
    big = [2**53 + 1, 2**63 + 2**9 + 2**10, -(2**70) - 1]
    rows = from_columns({"size": big, "weight": np.array([2**53 + 1] * 3)}, SIGNATURE, 10)
    assert rows.numeric.tolist() == [[float(value), float(2**53 + 1)] for value in big]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"size": [1, math.inf]}, "row 1: size is inf; expected a number"),
        ({"size": np.array([1, -np.inf])}, "row 1: size is -inf; expected a number"),
        ({"size": [1, "2"]}, "row 1: size is '2'; expected a number"),
        ({"size": [0.5, 10**400]}, "row 1: size is 1000"),
        ({"size": [1, {}]}, "row 1: size is {}; expected a number"),
        ({"colour": [1.5]}, "row 0: colour is 1.5; expected text"),
        ({"colour": np.array([1.5])}, "row 0: colour is 1.5; expected text"),
        ({"colour": ["\ud800"]}, "row 0: colour holds half a surrogate pair"),
        ({"size": [1], "weight": [1, 2]}, "the columns differ in length: 1, 2"),
        ({"sise": [1]}, "unknown feature 'sise'; the model takes size, weight, colour"),
        ({}, "there is no row in it"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_row(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError) as refused:
        from_columns(columns, SIGNATURE, 10)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("values", [[None], [""], [math.nan], np.array([math.nan])])
def test_what_is_missing_is_refused_where_the_feature_is_always_given(values: Any) -> None:
    with pytest.raises(BadInputError, match="row 0: a is missing; this feature is always given"):
        from_columns({"a": values}, GIVEN, 10)


@pytest.mark.parametrize("missing", [None, "", math.nan])
def test_null_an_empty_text_and_nan_are_missing_in_either_kind(missing: Any) -> None:
    rows = from_columns({"size": [missing], "colour": [missing]}, SIGNATURE, 10)
    assert np.isnan(rows.numeric).all()
    assert rows.text.tolist() == [[""]]


def test_a_name_that_is_not_taken_is_passed_over_only_where_that_is_asked_for() -> None:
    records = [{"size": 1, "target": 2}]
    assert from_records(records, SIGNATURE, 10, extra=True).numeric[0, 0] == 1
    with pytest.raises(BadInputError, match="row 0: unknown feature 'target'"):
        from_records(records, SIGNATURE, 10)


def test_records_may_be_lists_and_objects_by_turns() -> None:
    rows = from_records([[1, 2, "red"], {"colour": "blue"}], SIGNATURE, 10)
    assert rows.text[:, 0].tolist() == ["red", "blue"]
    assert rows.numeric[0].tolist() == [1, 2]
    assert np.isnan(rows.numeric[1]).all()


def test_too_many_rows_are_refused_as_too_large() -> None:
    with pytest.raises(BadInputError, match="11 rows; at most 10 in one request") as refused:
        from_records([{}] * 11, SIGNATURE, 10)
    assert refused.value.status == 413


def test_the_quick_way_is_for_finite_numbers_of_a_model_without_texts() -> None:
    assert from_numbers([1.0, 2.0, 3.0], SIGNATURE) is None
    assert from_numbers([1.0, 2.0], GIVEN) is None
    made = from_numbers([1.5], GIVEN)
    assert made is not None
    assert made.numeric.tolist() == [[1.5]]


def test_a_value_is_shown_short_whatever_it_is() -> None:
    assert shown("x" * 10_000) == "'" + "x" * 56 + "..."
    assert len(shown([1] * 10_000)) == 60
